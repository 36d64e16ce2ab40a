"""``prepare`` from beginning to end: list, cut, do, check, commit; the same command goes on after an interruption."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import ray
import ray.data
from ray.exceptions import RayError

from pipelines.cluster import (
    LIGHT_TASK_CPUS,
    ClusterSettings,
    get,
    ray_session,
    refuse_local_files_on_many_nodes,
    unwrapped,
)
from pipelines.commit import CommittedObject, Manifest, commit, load_manifest, point_latest
from pipelines.identity import code_version, content_hash, input_hash, package_versions, run_id
from pipelines.labels import load_qrels
from pipelines.lineage import LineageRun, LineageSettings, Source, told
from pipelines.plan import RunPlan, read_plan, store_plan
from pipelines.prepare.recipes import recipe
from pipelines.prepare.report import PrepareReportBuilder
from pipelines.prepare.sources import Part, cut_file, list_sources
from pipelines.prepare.splitters import SplitSettings, make_splitter
from pipelines.prepare.tables import index_corpus, load_corpus, load_queries, load_run
from pipelines.prepare.verify import read_markers
from pipelines.prepare.work import Beside, PreparedUnit, Work, prepare_unit
from pipelines.run import Observer, RunResult
from pipelines.storage import FileInfo, Storage, StorageOptions, absolute, join
from pipelines.work import resumable
from qrcore.errors import ConfigError, InputError, RunError

JOB: Final = "prepare"
_NEEDS_CORPUS: Final = frozenset({"tables", "beir"})
_TEXTS_AND_QUERIES: Final = frozenset({"documents", "text"})


@dataclass(frozen=True, slots=True)
class PrepareSettings:
    """Everything that preparing is told. ``columns``: our column names to those of the input.

    ``depth``: candidates of a first-stage list; None: a run whole, BM25's best 100.
    """

    recipe: str
    inputs: tuple[str, ...]
    output: str
    name: str
    split: SplitSettings
    corpus: str | None
    run: str | None
    queries: str | None
    qrels: str | None
    qrels_split: str
    depth: int | None
    granularity: str
    columns: dict[str, str]
    carry: tuple[str, ...]
    shard_bytes: int
    unit_rows: int
    format: str
    cluster: ClusterSettings
    storage: StorageOptions
    config: dict[str, Any]
    affecting_output: dict[str, Any]
    lineage: LineageSettings = field(default_factory=LineageSettings)


class PreparePlan(RunPlan):
    """Which parts of which files make up which unit; stored once and never cut anew."""

    job: str = JOB
    order: str = "as_given"
    files: tuple[tuple[str, int, str], ...]
    units: tuple[PreparedUnit, ...]

    @property
    def rows(self) -> int:
        """Source rows."""
        return sum(unit.rows for unit in self.units)


def run(settings: PrepareSettings, observer: Observer) -> RunResult:
    """Prepare shards and commit them; run again after any interruption to go on where it stopped.

    Raises errors of :mod:`qrcore.errors`.
    """
    started = datetime.now(UTC)
    settings = _opened(settings)
    _check(settings)
    files = list_sources(settings.inputs, settings.storage)
    beside = _files_beside(settings)
    identity = _identity(settings, files, beside)
    uri = join(absolute(settings.output), identity[0])
    storage = Storage(settings.output, settings.storage)
    committed = load_manifest(storage, uri)
    if committed is not None:
        point_latest(storage, absolute(settings.output), committed)
        return RunResult(committed, uri, already_committed=True)
    with ray_session(settings.cluster):
        refuse_local_files_on_many_nodes((*settings.inputs, settings.output), shared=settings.storage.shared)
        tables, unit_rows = _load_beside(settings, observer)
        plan = read_plan(storage, uri, PreparePlan) or store_plan(
            storage, uri, _make_plan(settings, files, identity, unit_rows, observer)
        )
        work = _work(settings, plan, uri, tables)
        done = _done(storage, uri)
        observer.planned(plan, frozenset(done))
        driver = uuid.uuid4().hex
        with told(_for_lineage(settings, plan, uri, driver), settings.lineage, settings.storage, observer.stage) as end:
            for footer in _do([unit for unit in plan.units if unit.unit_id not in done], work):
                observer.unit_done({**footer, "rows": footer["source_rows"], "prompt_tokens": 0})
            observer.stage("checking every object and committing")
            manifest = _commit(settings, plan, storage, uri, driver, started, resumed=bool(done))
            end(manifest)
    return RunResult(manifest, uri, already_committed=False)


def _for_lineage(settings: PrepareSettings, plan: PreparePlan, uri: str, driver: str) -> LineageRun:
    beside = (settings.corpus, settings.run, settings.queries, settings.qrels)
    return LineageRun(
        job=JOB,
        name=plan.name,
        run_id=plan.run_id,
        driver=driver,
        inputs=tuple(absolute(one) for one in (*settings.inputs, *beside) if one),
        sources=tuple(Source(file, size, None) for file, size, _ in plan.files),
        output=uri,
        columns={},
    )


def _opened(settings: PrepareSettings) -> PrepareSettings:
    """A BEIR folder as the tables that it consists of."""
    if settings.recipe != "beir":
        return settings
    if len(settings.inputs) != 1:
        raise ConfigError(f"recipe beir: expected one folder as input, got {len(settings.inputs)}. Give one.")
    folder = absolute(settings.inputs[0])
    return replace(
        settings,
        inputs=(join(folder, "queries.jsonl"),),
        corpus=settings.corpus or join(folder, "corpus.jsonl"),
        qrels=settings.qrels or join(folder, "qrels", f"{settings.qrels_split}.tsv"),
        columns={"query_id": "_id", "query": "text", **settings.columns},
    )


def _check(settings: PrepareSettings) -> None:
    """Refuse what cannot work before anything is read."""
    recipe(settings.recipe)
    make_splitter(settings.split)
    if settings.recipe in _NEEDS_CORPUS and settings.corpus is None:
        raise ConfigError(f"recipe {settings.recipe}: expected a corpus, got none. Give it with --corpus.")
    if settings.recipe not in _NEEDS_CORPUS and (settings.corpus or settings.run):
        raise ConfigError(f"recipe {settings.recipe}: has no use for a corpus or a run. Leave them out.")
    if settings.recipe == "text" and settings.queries is None:
        raise ConfigError("recipe text: expected a table of queries, got none. Give it with --queries.")
    if settings.recipe not in _TEXTS_AND_QUERIES and settings.queries:
        raise ConfigError(f"recipe {settings.recipe}: has its queries in its rows. Leave --queries out.")
    reserved = {"query_id", "query", "candidates", "answers", "date", "kind", "group"} & set(settings.carry)
    if reserved:
        raise ConfigError(f"carry: {', '.join(sorted(reserved))} are columns of every shard. Name others.")


def _files_beside(settings: PrepareSettings) -> list[FileInfo]:
    found: list[FileInfo] = []
    for what in ("corpus", "queries"):
        uri = getattr(settings, what)
        try:
            found += list_sources([uri], settings.storage) if uri else []
        except InputError as error:
            raise InputError(f"{what}: {error}") from error
    for what in ("run", "qrels"):
        if uri := getattr(settings, what):
            storage, place = Storage(uri, settings.storage), absolute(uri)
            if not storage.exists(place):
                raise InputError(f"{what} {uri}: expected a file or a folder, found nothing. Check the URI.")
            found += storage.list_files(place) if storage.is_folder(place) else [storage.info(place)]
    return found


def _identity(settings: PrepareSettings, files: Sequence[FileInfo], beside: Sequence[FileInfo]) -> tuple[str, str, str]:
    affecting = {"job": JOB, "code": code_version(), "config": settings.affecting_output, "beside": input_hash(beside)}
    config_hash, inputs = content_hash(affecting), input_hash(files)
    return run_id(settings.name, config_hash, inputs), config_hash, inputs


def _load_beside(settings: PrepareSettings, observer: Observer) -> tuple[Beside, int]:
    """The tables beside the input in the object store, and how many source rows make about one shard."""
    corpus = run_table = bm25 = queries = None
    unit_rows = settings.unit_rows
    storage = settings.storage
    if settings.corpus:
        observer.stage("reading the corpus")
        corpus = _task(load_corpus).remote([settings.corpus], _corpus_columns(settings), storage)
        mean = get(_task(_mean_bytes).remote(corpus))
        unit_rows = min(unit_rows, max(1, settings.shard_bytes // (max(mean, 1) * (settings.depth or 100))))
        if settings.run:
            run_table = _task(load_run).remote(settings.run, storage)
            get(_task(_nothing).remote(run_table))
        else:
            observer.stage("indexing the corpus for BM25")
            bm25 = _task(index_corpus).remote(corpus)
            get(_task(_nothing).remote(bm25))
    if settings.queries:
        queries = _task(load_queries).remote([settings.queries], settings.columns, storage)
        get(_task(_nothing).remote(queries))
    gold = None
    if settings.qrels:
        gold = _task(load_qrels).remote(settings.qrels, storage)
        get(_task(_nothing).remote(gold))
    return Beside(corpus, run_table, bm25, queries, gold), unit_rows


def _corpus_columns(settings: PrepareSettings) -> dict[str, str]:
    """Only names of documents: those of queries may mean the same columns there."""
    names = {ours: theirs for ours, theirs in settings.columns.items() if ours in ("doc_id", "title", "text")}
    return names if settings.recipe != "beir" else {"doc_id": "_id", **names}


def _task(function: Any) -> Any:
    return ray.remote(num_cpus=LIGHT_TASK_CPUS)(function)


def _mean_bytes(corpus: Any) -> int:
    return int(corpus.mean_bytes)


def _nothing(_table: Any) -> None:
    """Waits for a table, so that its errors are told before any work begins."""


def _make_plan(
    settings: PrepareSettings,
    files: Sequence[FileInfo],
    identity: tuple[str, str, str],
    unit_rows: int,
    observer: Observer,
) -> PreparePlan:
    observer.stage(f"reading {len(files)} input files for the plan")
    task = _task(cut_file)
    references = [
        task.remote(number, file, settings.shard_bytes, unit_rows, settings.storage)
        for number, file in enumerate(files)
    ]
    parts = [part for reference in references for part in get(reference)]
    run_name, config_hash, inputs = identity
    code = code_version()
    return PreparePlan(
        run_id=run_name,
        name=settings.name,
        config_hash=config_hash,
        input_hash=inputs,
        config=settings.config,
        provenance={
            "told": f"recipe {settings.recipe}",
            "code_version": code["version"],
            "source_sha256": code["source_sha256"],
            "packages": package_versions(),
            "recipe": settings.recipe,
            "split": asdict(settings.split),
        },
        files=tuple((file.uri, file.size, file.etag) for file in files),
        units=tuple(_units(parts, files, config_hash, settings.shard_bytes, unit_rows)),
    )


def _units(
    parts: Sequence[Part], files: Sequence[FileInfo], config_hash: str, max_bytes: int, max_rows: int
) -> Iterator[PreparedUnit]:
    """Small parts of files that follow one another share a unit."""
    together: list[Part] = []
    for part in parts:
        size, rows = sum(one.bytes for one in together), sum(one.rows for one in together)
        if together and (size + part.bytes > max_bytes or rows + part.rows > max_rows):
            yield _unit(together, files, config_hash)
            together = []
        together.append(part)
    if together:
        yield _unit(together, files, config_hash)


def _unit(parts: Sequence[Part], files: Sequence[FileInfo], config_hash: str) -> PreparedUnit:
    places = [[files[part.file].uri, files[part.file].etag, part.start, part.stop] for part in parts]
    # Names sort as the plan does, so that shards read in order of name are in order of input.
    number = f"{parts[0].file:05d}-{parts[0].first_row:09d}"
    return PreparedUnit(unit_id=f"{number}-{content_hash([config_hash, places])[:12]}", parts=tuple(parts))


def _work(settings: PrepareSettings, plan: PreparePlan, uri: str, beside: Beside) -> Work:
    roots = [absolute(given) for given in settings.inputs]
    return Work(
        recipe=settings.recipe,
        split=settings.split,
        granularity=settings.granularity,
        only_judged=settings.recipe == "beir",
        depth=settings.depth,
        columns=settings.columns,
        carry=settings.carry,
        shard_bytes=settings.shard_bytes,
        format=settings.format,
        run_uri=uri,
        roots=tuple(next((root for root in roots if file[0].startswith(f"{root}/")), "") for file in plan.files),
        files=plan.files,
        beside=beside,
        storage=settings.storage,
    )


def _done(storage: Storage, run_uri: str) -> set[str]:
    files = storage.list_files(join(run_uri, "_units"), suffix=".parquet")
    return {file.uri.rsplit("/", 1)[1].removesuffix(".parquet") for file in files}


def _do(units: Sequence[PreparedUnit], work: Work) -> Iterator[dict[str, Any]]:
    """The marker's footer of each unit as it is written."""
    if not units:
        return
    items = [{"unit": unit.model_dump_json()} for unit in units]
    dataset = ray.data.from_items(items, override_num_blocks=len(items))
    try:
        for row in dataset.map(partial(prepare_unit, work=work), num_cpus=1).iter_rows():
            yield json.loads(row["footer"])
    except RayError as error:
        raise resumable(unwrapped(error)) from error


def _commit(
    settings: PrepareSettings,
    plan: PreparePlan,
    storage: Storage,
    uri: str,
    driver: str,
    started: datetime,
    *,
    resumed: bool,
) -> Manifest:
    builder = PrepareReportBuilder()
    objects: list[CommittedObject] = []
    for marker in read_markers([unit.unit_id for unit in plan.units], uri, settings.storage):
        builder.add(marker)
        objects += [
            CommittedObject(**entry, unit_id=marker.footer["unit_id"], scored=entry["rows"], failed=0)
            for entry in marker.footer["objects"]
        ]
    if builder.source_rows != plan.rows:
        raise RunError(
            f"run {plan.run_id}: expected {plan.rows} source rows in the markers, counted {builder.source_rows}. "
            "This is a defect; please report it with the run's _plan.json."
        )
    folder = f"commit/{driver}"
    report = builder.finish(plan, settings.recipe, uri, driver, started, resumed=resumed)
    paths = builder.write(storage, uri, folder, report)
    manifest = Manifest(
        run_id=plan.run_id,
        job=JOB,
        name=plan.name,
        driver=driver,
        committed_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        config_hash=plan.config_hash,
        input_hash=plan.input_hash,
        rows=report.result.prepared + report.result.failed,
        scored=report.result.prepared,
        failed=report.result.failed,
        skipped_files=(),
        objects=tuple(objects),
        side_files=tuple(paths),
        provenance=plan.provenance,
    )
    return commit(storage, absolute(settings.output), uri, manifest)
