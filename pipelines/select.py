"""Select contexts from a finished re-ranking run: what this job adds to the steps of a run."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Final

import pyarrow as pa

from pipelines.commit import MANIFEST_FILE, Manifest, StoredUnit, load_manifest
from pipelines.inputs import FileSurvey
from pipelines.plan import Plan, load_plan
from pipelines.report.build import distribution
from pipelines.rows import Row, duplicate_query_id, error_fields, query_id_of, read_input_rows, request_from_row
from pipelines.run import Observer, RunResult, RunSettings, run_job
from pipelines.schemas import Carry, carried_fields
from pipelines.selecting import BUNDLE_FIELDS, Bundler, BundleSettings, bundle_schema
from pipelines.side_files import ErrorLines
from pipelines.storage import Storage, StorageOptions, absolute, join
from pipelines.units import UnitRows, parquet_table, unit_uri
from pipelines.work import UnitMetrics, UnitWorker
from qrcore.errors import ConfigError, InputError, RunError, ScoreError
from qrcore.records import DETECTION_QUERY

JOB: Final = "select"
_RANKING_COLUMNS: Final = ("query_id", "ranking", "flags", "source", "error")


@dataclass(frozen=True, slots=True)
class SelectSettings:
    """Everything that selecting is told; ``ranked``: the URI of a committed re-ranking run."""

    run: RunSettings
    ranked: str
    bundles: BundleSettings
    carry: Carry


@dataclass(frozen=True, slots=True)
class RankedPart:
    """Rows ``start`` to ``stop`` of an input file, ranked in one object of the run."""

    uri: str
    start: int
    stop: int
    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class RankedRun:
    """A committed re-ranking run, as far as selecting needs it."""

    uri: str
    run_id: str
    manifest_sha256: str
    inputs: tuple[str, ...]
    parts: tuple[RankedPart, ...]


def open_ranked(uri: str, options: StorageOptions) -> RankedRun:
    """The run at ``uri``. Raises :class:`InputError` for anything but a committed re-ranking run with its plan."""
    storage, place = Storage(uri, options), absolute(uri)
    manifest, plan = load_manifest(storage, place), _rerank_plan(storage, place)
    if manifest is None or plan is None or manifest.job != "rerank":
        raise InputError(
            f"input {uri}: expected a committed run of rerank, found "
            f"{f'one of {manifest.job}' if manifest else 'none'}. Rank the context first, then give that run's folder."
        )
    for file in plan.files:
        if Storage(file.uri, options).info(file.uri).etag != file.etag:
            raise InputError(
                f"{file.uri}: expected the file as it was ranked (tag {file.etag}), it has changed. Rank it again."
            )
    return RankedRun(
        uri=place,
        run_id=manifest.run_id,
        manifest_sha256=hashlib.sha256(storage.read(join(place, MANIFEST_FILE))).hexdigest(),
        inputs=tuple(file.uri for file in plan.files),
        parts=tuple(_parts(plan, manifest)),
    )


def _rerank_plan(storage: Storage, run_uri: str) -> Plan | None:
    try:
        return load_plan(storage, run_uri)
    except ValueError:  # a plan of another kind
        return None


def _parts(plan: Plan, manifest: Manifest) -> Iterator[RankedPart]:
    sha256 = {entry.unit_id: entry.sha256 for entry in manifest.objects}
    for unit in plan.units:
        path = unit_uri("", unit.unit_id).lstrip("/")
        yield RankedPart(plan.files[unit.file].uri, unit.start, unit.stop, path, sha256[unit.unit_id])


def run(settings: SelectSettings, observer: Observer) -> RunResult:
    """Select and commit; run again after any interruption to go on where it stopped."""
    ranked = open_ranked(settings.ranked, settings.run.storage)
    settings = replace(settings, run=replace(settings.run, inputs=ranked.inputs))
    return run_job(SelectJob(settings, ranked), settings.run, observer)


@dataclass(frozen=True, slots=True)
class SelectFacts:
    """The tokenizer that counts, by the hash of its content."""

    tokenizer_sha256: str


def probe(settings: BundleSettings) -> SelectFacts:
    """Load the tokenizer and the templates as a worker would; refuses what cannot work."""
    return SelectFacts(Bundler(settings).tokenizer.sha256)


@dataclass(frozen=True, slots=True)
class SelectJob:
    """See :class:`pipelines.run.Job`."""

    settings: SelectSettings
    ranked: RankedRun
    name: str = JOB

    def probe(self) -> Callable[[], SelectFacts]:
        return partial(probe, self.settings.bundles)

    def identity(self, facts: SelectFacts) -> dict[str, Any]:
        return {
            "config": self.settings.run.affecting_output,
            "bundles": {**asdict(self.settings.bundles), "tokenizer": facts.tokenizer_sha256},
            "ranked": self.ranked.manifest_sha256,
        }

    def order(self, surveys: Sequence[FileSurvey], facts: SelectFacts) -> str:
        return self.settings.bundles.order

    def provenance(self, facts: SelectFacts, order: str) -> dict[str, Any]:
        bundles = self.settings.bundles
        budget = f", at most {bundles.budget_tokens} tokens" if bundles.budget_tokens else ""
        return {
            "told": f"policy {bundles.policy}{budget}, tokens of {bundles.tokenizer}, segments in {order} order",
            "ranked": {"run_id": self.ranked.run_id, "uri": self.ranked.uri, "manifest": self.ranked.manifest_sha256},
            "tokenizer": {"name": bundles.tokenizer, "sha256": facts.tokenizer_sha256},
            "settings": asdict(bundles),
        }

    def output_schema(self, surveys: Sequence[FileSurvey]) -> tuple[pa.Schema, tuple[str, ...]]:
        schemas = [(survey.file.uri, survey.schema) for survey in surveys if survey.schema is not None]
        carried = carried_fields(schemas, self.settings.carry)
        own = {field.name for field in BUNDLE_FIELDS}
        if taken := [field.name for field in carried if field.name in own]:
            raise ConfigError(
                f"carry: {', '.join(taken)} are columns of a bundle and cannot be carried. Rename them, or name the "
                "columns to carry."
            )
        return bundle_schema(carried), tuple(field.name for field in carried)

    def worker(self, facts: SelectFacts, plan: Plan) -> Callable[[], UnitWorker]:
        settings = self.settings
        return partial(SelectWorker, settings.bundles, self.ranked, plan.output_schema, settings.run.storage)

    def side_files(self, plan: Plan, facts: SelectFacts) -> BundleFiles:
        return BundleFiles(plan)


class SelectWorker:
    """Makes the bundles of units; see :class:`pipelines.work.UnitWorker`."""

    def __init__(self, settings: BundleSettings, ranked: RankedRun, schema: pa.Schema, storage: StorageOptions) -> None:
        self._bundler = Bundler(settings)
        self._ranked, self._schema, self._options = ranked, schema, storage
        self._carried = [name for name in schema.names if name not in {field.name for field in BUNDLE_FIELDS}]

    def answer(self, unit: UnitRows) -> tuple[pa.Table, UnitMetrics]:
        """The unit's bundles in input order, and what they took."""
        from pipelines.actors import unit_metrics  # torch comes with it

        started = time.time()
        rankings = self._rankings(unit)
        carried = [name for name in self._carried if name in unit.table.schema.names]
        others = unit.table.select(carried).to_pylist()
        rows, errors, tokens = [], [], 0
        for place, row in enumerate(read_input_rows(unit.table)):
            number = unit.first_row + place
            answer = self._answer(row, number in unit.duplicates, rankings.get(number), others[place])
            if isinstance(answer, ScoreError):
                errors.append(answer)
                answer = {"query_id": query_id_of(row), "error": error_fields(answer)}
            tokens += answer.get("source_tokens") or 0
            rows.append({**answer, **others[place], "source": {"uri": unit.uri, "row": number}})
        metrics = unit_metrics(len(rows), errors, tokens, started)
        return pa.Table.from_pylist(rows, schema=self._schema), metrics

    def _answer(
        self, row: Row | ScoreError, repeated: bool, ranked: Row | None, carried: Mapping[str, Any]
    ) -> Row | ScoreError:
        if isinstance(row, ScoreError):
            return row
        if repeated:
            return duplicate_query_id(row)
        if isinstance(request := request_from_row(row), ScoreError):
            return request
        if ranked is None or ranked["ranking"] is None:
            why = ranked["error"]["message"] if ranked and ranked["error"] else "the run has no such row"
            return ScoreError("not_ranked", f"ranking: expected one, got none ({why})", stage="select")
        try:
            bundle = self._bundler.bundle(row, ranked["ranking"], carried)
        except ScoreError as error:
            return error
        seen = [DETECTION_QUERY] if DETECTION_QUERY in (ranked["flags"] or ()) else []
        return {**bundle, "flags": [*bundle["flags"], *seen]}

    def _rankings(self, unit: UnitRows) -> dict[int, Row]:
        """The rankings of the unit's rows, by row number."""
        stop = unit.first_row + len(unit.table)
        storage = Storage(self._ranked.uri, self._options)
        found: dict[int, Row] = {}
        for part in self._ranked.parts:
            if part.uri != unit.uri or part.start >= stop or part.stop <= unit.first_row:
                continue
            uri = join(self._ranked.uri, part.path)
            data = storage.read(uri)
            if hashlib.sha256(data).hexdigest() != part.sha256:
                raise RunError(f"{uri}: its content is not what was committed. Restore it, or rank again.")
            for row in parquet_table(data, _RANKING_COLUMNS).to_pylist():
                found[row["source"]["row"]] = row
        return found


@dataclass(slots=True)
class _Totals:
    context_tokens: list[int] = field(default_factory=list)
    source_tokens: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    flags: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)


class BundleFiles:
    """Chat lines, errors and counts, collected while units stream by; see :class:`pipelines.run.SideFileWriter`."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._errors = ErrorLines()
        self._chat = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as this object
        self._totals = _Totals()

    @property
    def warnings(self) -> tuple[str, ...]:
        """None: what there is to say of a bundle stands in its flags."""
        return ()

    def watch(self, units: Iterable[StoredUnit]) -> Iterator[StoredUnit]:
        """The same units, taken note of."""
        for stored in units:
            self._errors.add(stored)
            for row in stored.answers.to_pylist():
                self._add(row)
            yield stored

    def _add(self, row: Row) -> None:
        totals = self._totals
        if row["error"] is not None:
            totals.errors[row["error"]["code"]] += 1
            return
        totals.context_tokens.append(row["context_tokens"])
        totals.source_tokens.append(row["source_tokens"])
        totals.segments.append(len(row["segments"]))
        totals.flags.update(row["flags"])
        line = {
            "id": row["query_id"],
            "messages": row["messages"],
            "compression_ratio": row["compression_ratio"],
            "context_tokens": row["context_tokens"],
            "source_tokens": row["source_tokens"],
            "provenance": {
                "run_id": self._plan.run_id,
                "ranked": self._plan.provenance["ranked"]["run_id"],
                "source": row["source"],
                "doc_ids": [name for segment in row["segments"] for name in segment["doc_ids"]],
                "flags": row["flags"],
            },
        }
        self._chat.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")

    def write(
        self, storage: Storage, run_uri: str, driver: str, resumed: bool, write_s: Mapping[str, float]
    ) -> list[str]:
        """Put chat.jsonl, errors.jsonl and report.json; their paths within the run."""
        folder = f"commit/{driver}"
        self._chat.seek(0)
        storage.create_from_file(join(run_uri, folder, "chat.jsonl"), self._chat)
        self._chat.close()
        errors = self._errors.write(storage, run_uri, folder)
        storage.create(join(run_uri, folder, "report.json"), json.dumps(self._report(resumed), indent=1).encode())
        return [f"{folder}/chat.jsonl", errors, f"{folder}/report.json"]

    def _report(self, resumed: bool) -> dict[str, Any]:
        totals = self._totals
        kept, had = sum(totals.context_tokens), sum(totals.source_tokens)
        return {
            "schema_version": "1.0",
            "run_id": self._plan.run_id,
            "resumed": resumed,
            "bundles": len(totals.segments),
            "empty_bundles": sum(not count for count in totals.segments),
            "failed": dict(totals.errors),
            "flags": dict(totals.flags),
            "context_tokens": distribution(totals.context_tokens).model_dump(),
            "source_tokens": distribution(totals.source_tokens).model_dump(),
            "segments": distribution(totals.segments).model_dump(),
            "compression_ratio": kept / had if had else None,
            "config": self._plan.config,
            "provenance": self._plan.provenance,
        }
