"""Read a committed run again, row by row, and name everything that is not as it must be.

Nothing is believed: objects are compared with the manifest, rows with the plan, answers with the contract, and all
of it with the input. At most one unit is held at a time.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.commit import CommittedObject, Manifest, load_manifest, side_object
from pipelines.contracts import CONTRACTS, id_column_of
from pipelines.plan import Plan, PlannedFile, Unit, load_plan
from pipelines.ranges import read_range
from pipelines.storage import Storage, StorageOptions, absolute, join
from pipelines.work import UNIT_KEY
from qrcore.errors import InputError, StorageError


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it must be: a stable ``code``, the object or file, and what is wrong there."""

    code: str
    where: str
    what: str


@dataclass(frozen=True, slots=True)
class RunToVerify:
    """A committed run as its plan and its manifest tell it."""

    uri: str
    plan: Plan
    manifest: Manifest
    storage: Storage
    options: StorageOptions


def open_run(uri: str, options: StorageOptions) -> RunToVerify:
    """The run at ``uri``. Raises :class:`InputError` if it is not committed."""
    run_uri = absolute(uri)
    storage = Storage(run_uri, options)
    manifest, plan = load_manifest(storage, run_uri), load_plan(storage, run_uri)
    if manifest is None or plan is None:
        raise InputError(
            f"{run_uri}: expected a committed run, found no manifest and plan. Give the folder OUTPUT/<run_id>, or "
            "finish the run first."
        )
    return RunToVerify(run_uri, plan, manifest, storage, options)


def verify(run: RunToVerify, *, with_input: bool) -> Iterator[Problem]:
    """Every problem of a committed run; none if it is whole. ``with_input``: compare with every input row, too."""
    yield from _totals(run)
    yield from _side_files(run)
    yield from _strangers(run)
    changed = set()
    if with_input:
        for number, file in enumerate(run.plan.files):
            for problem in _input_file(file, run.options):
                changed.add(number)
                yield problem
    entries = {entry.unit_id: entry for entry in run.manifest.objects}
    for unit in run.plan.units:
        entry = entries.get(unit.unit_id)
        if entry is None:
            yield Problem("unit_not_named", f"data/{unit.unit_id}.parquet", "the plan has this unit, the manifest not")
            continue
        yield from _object(run, unit, entry, with_input=with_input and unit.file not in changed)


def _totals(run: RunToVerify) -> Iterator[Problem]:
    plan, manifest = run.plan, run.manifest
    for name in ("run_id", "config_hash", "input_hash", "parent"):
        if getattr(plan, name) != getattr(manifest, name):
            yield Problem("manifest_differs", "_manifest.json", f"{name} is not the plan's")
    sums = {name: sum(getattr(entry, name) for entry in manifest.objects) for name in ("rows", "scored", "failed")}
    for name, total in sums.items():
        if getattr(manifest, name) != total:
            yield Problem("wrong_count", "_manifest.json", f"{name}: says {getattr(manifest, name)}, objects {total}")
    if manifest.rows != plan.rows or manifest.rows != manifest.scored + manifest.failed:
        told = f"{manifest.rows} rows, {manifest.scored} scored, {manifest.failed} failed"
        yield Problem("wrong_count", "_manifest.json", f"planned {plan.rows} rows, says {told}")
    planned = {unit.unit_id for unit in plan.units}
    for entry in manifest.objects:
        if entry.unit_id not in planned:
            yield Problem("foreign_unit", entry.path, "the manifest names a unit that the plan does not know")


def _side_files(run: RunToVerify) -> Iterator[Problem]:
    for entry in run.manifest.side_objects:
        try:
            now = side_object(run.storage, run.uri, entry.path)
        except StorageError:
            yield Problem("missing_file", entry.path, "the manifest names it, it is not there")
            continue
        if now != entry:
            yield Problem("changed_file", entry.path, "its content is not what was committed")
        elif entry.path.endswith("/report.json"):
            yield from _report(run, entry.path)


def _report(run: RunToVerify, path: str) -> Iterator[Problem]:
    result = json.loads(run.storage.read(join(run.uri, path))).get("result", {})
    for name in ("rows", "scored", "failed"):
        if name in result and result[name] != getattr(run.manifest, name):
            yield Problem("wrong_count", path, f"{name}: says {result[name]}, manifest {getattr(run.manifest, name)}")


def _strangers(run: RunToVerify) -> Iterator[Problem]:
    named = {entry.path for entry in run.manifest.objects}
    for file in run.storage.list_files(join(run.uri, "data")):
        path = f"data/{file.uri.rsplit('/', 1)[1]}"
        if path not in named:
            yield Problem("foreign_unit", path, "the manifest does not name it")


def _input_file(file: PlannedFile, options: StorageOptions) -> Iterator[Problem]:
    try:
        now = Storage(file.uri, options).info(file.uri)
    except StorageError:
        yield Problem("missing_input", file.uri, "the file that was scored is not there")
        return
    if (now.etag, now.size) != (file.etag, file.size):
        yield Problem("changed_input", file.uri, f"scored with tag {file.etag}, now has {now.etag}")


def _object(run: RunToVerify, unit: Unit, entry: CommittedObject, *, with_input: bool) -> Iterator[Problem]:
    try:
        data = run.storage.read(join(run.uri, entry.path))
    except StorageError:
        yield Problem("missing_file", entry.path, "the manifest names it, it is not there")
        return
    if (len(data), hashlib.sha256(data).hexdigest()) != (entry.size, entry.sha256):
        yield Problem("changed_file", entry.path, "its content is not what was committed")
    try:
        parquet = pq.ParquetFile(pa.BufferReader(data))
        footer = json.loads((parquet.schema_arrow.metadata or {})[UNIT_KEY])
        table = parquet.read(use_threads=False)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        yield Problem("changed_file", entry.path, f"cannot be read as an object of a run ({type(error).__name__})")
        return
    for code, what in (*_counts(unit, entry, footer, table), *_schema(run.plan, table)):
        yield Problem(code, entry.path, what)
    rows = [
        name
        for name in (CONTRACTS[run.plan.contract].id_column, "source", "error", "ranking")
        if name in table.schema.names
    ]
    answers = table.select(rows).to_pylist()
    file = run.plan.files[unit.file]
    for code, what in (*_sources(unit, file.uri, answers), *_answers(answers)):
        yield Problem(code, entry.path, what)
    if with_input:
        for code, what in _against_input(run, unit, table, answers):
            yield Problem(code, entry.path, what)


_Finding = tuple[str, str]


def _counts(unit: Unit, entry: CommittedObject, footer: Mapping[str, Any], table: pa.Table) -> Iterator[_Finding]:
    failed = len(table) - table.column("error").null_count
    found = {"rows": len(table), "scored": len(table) - failed, "failed": failed}
    for name, number in found.items():
        for teller, told in (("the manifest", getattr(entry, name)), ("its footer", footer[name])):
            if told != number:
                yield "wrong_count", f"{name}: {teller} says {told}, there are {number}"
    if footer["unit_id"] != unit.unit_id:
        yield "foreign_unit", f"holds unit {footer['unit_id']}"
    if len(table) != unit.rows:
        yield "wrong_count", f"rows: planned {unit.rows}, there are {len(table)}"


def _schema(plan: Plan, table: pa.Table) -> Iterator[_Finding]:
    if not table.schema.equals(plan.output_schema):
        yield "wrong_schema", "its columns are not the planned ones"


def _sources(unit: Unit, uri: str, answers: Sequence[Mapping[str, Any]]) -> Iterator[_Finding]:
    found = [(row["source"]["uri"], row["source"]["row"]) for row in answers]
    planned = [(uri, row) for row in range(unit.start, unit.stop)]
    times = Counter(found)
    for source in planned:
        if not times[source]:
            yield "lost_row", f"row {source[1]} of {source[0]} is not there"
    for source, number in times.items():
        if number > 1:
            yield "doubled_row", f"row {source[1]} of {source[0]} is there {number} times"
    if times.keys() - set(planned):
        yield "foreign_row", f"holds {min(times.keys() - set(planned))}, which the unit does not cover"
    if sorted(found) == planned and found != planned:
        yield "wrong_row_order", "its rows are not in input order"


def _answers(answers: Sequence[Mapping[str, Any]]) -> Iterator[_Finding]:
    for row in answers:
        if "ranking" not in row:
            return
        place = f"row {row['source']['row']}"
        if (row["ranking"] is None) == (row["error"] is None):
            yield "error_and_answer", f"{place}: expected either a ranking or an error"
        elif row["ranking"] is not None:
            for code, what in _ranking(row["ranking"]):
                yield code, f"{place}: {what}"


def _ranking(items: Sequence[Mapping[str, Any]]) -> Iterator[_Finding]:
    if [item["rank"] for item in items] != list(range(1, len(items) + 1)):
        yield "wrong_ranks", "ranks do not count from 1"
    if any(item["score"] is None or not math.isfinite(item["score"]) for item in items):
        yield "non_finite_score", "a score is not a finite number"
        return
    last = max((item["round"] for item in items), default=1)
    for one, other in itertools.pairwise(items):
        # Scores of different prompts are not comparable, and only the last round is one prompt.
        together = one["round"] == other["round"] == last
        if one["round"] < other["round"] or (together and _order(one) > _order(other)):
            yield "wrong_order", f"{other['doc_id']!r} belongs before {one['doc_id']!r}"
            return


def _order(item: Mapping[str, Any]) -> tuple[float, int, str]:
    return -item["score"], item["input_rank"], item["doc_id"]


def _against_input(
    run: RunToVerify, unit: Unit, table: pa.Table, answers: Sequence[Mapping[str, Any]]
) -> Iterator[_Finding]:
    file, carried = run.plan.files[unit.file], run.plan.carried
    id_column = CONTRACTS[run.plan.contract].id_column
    texts = [name for name in CONTRACTS[run.plan.contract].columns if name in (id_column, "candidates")]
    try:
        found = read_range(file.info, unit.start, unit.stop, (*texts, *carried), run.options, file.largest_row)
    except (InputError, StorageError) as error:
        yield "changed_input", str(error)
        return
    if len(found.table) != len(answers):
        return  # rows are missing or too many, which is told already
    asked = _asked(found.table)
    for place, (row, (query_id, doc_ids)) in enumerate(zip(answers, asked, strict=True)):
        if place in found.damaged:
            continue
        if row[id_column] != query_id:
            yield "swapped_id", f"row {row['source']['row']}: answers {row[id_column]!r}, the input asks {query_id!r}"
        if row.get("ranking") is not None and Counter(item["doc_id"] for item in row["ranking"]) != Counter(doc_ids):
            yield "lost_candidate", f"row {row['source']['row']}: its candidates are not those of the input"
    for name in carried:
        if not _same_column(table.column(name), found.table, name):
            yield "changed_column", f"carried column {name!r} is not the input's"


def _asked(table: pa.Table) -> list[tuple[str | None, list[str]]]:
    asked: list[tuple[str | None, list[str]]] = []
    for place in range(len(table)):  # one row at a time: a row of other bytes than text must not hide the rest
        row = table.slice(place, 1)
        try:
            query_id = row[id_column_of(table.schema.names)][0].as_py()
        except UnicodeDecodeError:
            query_id = None
        if "candidates" not in table.schema.names:
            asked.append((query_id, []))
            continue
        try:
            listed = row["candidates"][0].as_py() or []
            asked.append((query_id, [entry["doc_id"] for entry in listed if entry is not None]))
        except UnicodeDecodeError:
            asked.append((query_id, []))
    return asked


def _same_column(column: pa.ChunkedArray, table: pa.Table, name: str) -> bool:
    if name not in table.schema.names:
        return bool(column.null_count == len(column))
    given = table.column(name)
    return bool(column.combine_chunks().equals(given.cast(column.type).combine_chunks()))
