"""``prepare`` from beginning to end: list, cut, do, check, commit; the same command goes on after an interruption."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import ray.data
from ray.exceptions import RayError

from pipelines.cluster import ray_session, refuse_local_files_on_many_nodes, unwrapped
from pipelines.commit import CommittedObject, Manifest, commit, load_manifest, point_latest
from pipelines.job import Observer, RunResult
from pipelines.lineage import LineageRun, Source, told
from pipelines.plan import read_plan, store_plan
from pipelines.prepare.beside import files_beside, load_beside
from pipelines.prepare.plan import PreparePlan, identity_of, make_plan
from pipelines.prepare.report import PrepareReportBuilder
from pipelines.prepare.settings import JOB, PrepareSettings, check, opened
from pipelines.prepare.sources import list_sources
from pipelines.prepare.verify import read_markers
from pipelines.prepare.work import Beside, PreparedUnit, Work, prepare_unit
from pipelines.storage import Storage, absolute, join
from pipelines.telemetry import RunMetrics
from pipelines.work import resumable
from qrcore.errors import RunError


def run(settings: PrepareSettings, observer: Observer) -> RunResult:
    """Prepare shards and commit them; run again after any interruption to go on where it stopped.

    Raises errors of :mod:`qrcore.errors`.
    """
    started = datetime.now(UTC)
    settings = opened(settings)
    check(settings)
    files = list_sources(settings.inputs, settings.storage)
    beside = files_beside(settings)
    identity = identity_of(settings, files, beside)
    uri = join(absolute(settings.output), identity.run_id)
    storage = Storage(settings.output, settings.storage)
    committed = load_manifest(storage, uri)
    if committed is not None:
        point_latest(storage, absolute(settings.output), committed)
        return RunResult(committed, uri, already_committed=True)
    with ray_session(settings.cluster):
        refuse_local_files_on_many_nodes((*settings.inputs, settings.output), shared=settings.storage.shared)
        tables, unit_rows = load_beside(settings, observer)
        plan = read_plan(storage, uri, PreparePlan) or store_plan(
            storage, uri, make_plan(settings, files, identity, unit_rows, observer)
        )
        work = _work(settings, plan, uri, tables)
        done = _done(storage, uri)
        observer.planned(plan, frozenset(done))
        driver = uuid.uuid4().hex
        with told(_for_lineage(settings, plan, uri, driver), settings.lineage, settings.storage, observer.stage) as end:
            todo = [unit for unit in plan.units if unit.unit_id not in done]
            metrics = RunMetrics(JOB, plan.name, len(todo))
            for footer in _do(todo, work):
                counted = {**footer, "rows": footer["source_rows"], "prompt_tokens": 0}
                metrics.unit_done(counted)
                observer.unit_done(counted)
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
