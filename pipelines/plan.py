"""The plan: which rows of which files make up which unit of work, stored once and never cut anew."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from pipelines.contracts import QUERIES
from pipelines.identity import unit_id
from pipelines.inputs import FileSurvey
from pipelines.schemas import SCHEMA_VERSION, Carry, drifting_files
from pipelines.storage import FileInfo, Storage, join
from qrcore.errors import IncompleteRunError, InputError, PlanConflictError

PLAN_FILE = "_plan.json"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PlannedFile(_Record):
    """An input file; ``bytes`` decoded text bytes, of which the largest row has ``largest_row``; ``tokens``
    estimated; ``damage``: why some of its rows cannot be read."""

    uri: str
    size: int
    etag: str
    rows: int
    bytes: int
    tokens: int
    largest_row: int = 0
    damage: str = ""

    @property
    def info(self) -> FileInfo:
        """The stored object this plan was made for."""
        return FileInfo(self.uri, self.size, self.etag)


class SkippedFile(_Record):
    """An input file that cannot be read, left out because the settings allow it."""

    uri: str
    reason: str


class Unit(_Record):
    """Rows ``start`` to ``stop`` of one file, scored, written and committed as a whole.

    ``duplicates``: rows of the file whose ``query_id`` stood earlier in the run; ``too_large``: it is one row, above
    the largest that is read.
    """

    unit_id: str
    file: int
    start: int
    stop: int
    bytes: int
    tokens: int
    duplicates: tuple[int, ...] = ()
    too_large: bool = False

    @property
    def rows(self) -> int:
        """How many rows the unit holds."""
        return self.stop - self.start


class RunPlan(_Record):
    """What the plan of every kind of run says of the run."""

    run_id: str
    job: str
    name: str
    config_hash: str
    input_hash: str
    config: dict[str, Any]
    provenance: dict[str, Any]


AnyPlan = TypeVar("AnyPlan", bound=RunPlan)


class Plan(RunPlan):
    """Everything a run does, before it does it. ``schema_ipc``: the output schema, Arrow IPC in base64; ``contract``:
    what its input rows follow; ``carried``: its columns that are copied from the input; ``parent``: the run whose
    failed rows this one scores again."""

    schema_version: str = SCHEMA_VERSION
    order: str
    files: tuple[PlannedFile, ...]
    skipped_files: tuple[SkippedFile, ...]
    units: tuple[Unit, ...]
    schema_ipc: str
    contract: str = QUERIES.name
    carried: tuple[str, ...] = ()
    parent: str | None = None

    @property
    def rows(self) -> int:
        """Planned rows."""
        return sum(unit.rows for unit in self.units)

    @property
    def output_schema(self) -> pa.Schema:
        """The schema of every output object."""
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(self.schema_ipc)))


def encode_schema(schema: pa.Schema) -> str:
    """A schema as text for the plan."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def usable_surveys(
    surveys: Sequence[FileSurvey], *, skip_bad_files: bool, carry: Carry = "none"
) -> tuple[list[FileSurvey], tuple[SkippedFile, ...]]:
    """Readable files and skipped ones. Raises :class:`InputError` naming every bad file unless skipping is allowed.

    A file of which parts can be read is not skipped: its other rows come out as errors. ``carry``: columns that must
    have one type in all files.
    """
    drifting = drifting_files([(s.file.uri, s.schema) for s in surveys if s.schema is not None], carry)
    problems = {s.file.uri: s.problem or drifting.get(s.file.uri, "") for s in surveys}
    bad = tuple(SkippedFile(uri=uri, reason=problem) for uri, problem in problems.items() if problem)
    damaged = tuple(SkippedFile(uri=s.file.uri, reason=s.damage) for s in surveys if s.damage)
    if (bad or damaged) and not skip_bad_files:
        listed = "\n".join(f"  {file.uri}: {file.reason}" for file in bad + damaged)
        raise InputError(
            f"input: expected every file to follow the input schema; {len(bad + damaged)} of {len(surveys)} do not:\n"
            f"{listed}\nCorrect them, or set input.on_bad_file to skip."
        )
    return [survey for survey in surveys if not problems[survey.file.uri]], bad


def planned_files(surveys: Sequence[FileSurvey]) -> tuple[PlannedFile, ...]:
    """The plan's record of each surveyed file."""
    return tuple(
        PlannedFile(
            uri=s.file.uri,
            size=s.file.size,
            etag=s.file.etag,
            rows=len(s.row_bytes),
            bytes=int(s.row_bytes.sum()),
            tokens=int(s.row_tokens.sum()),
            largest_row=int(s.row_bytes.max(initial=0)),
            damage=s.damage,
        )
        for s in surveys
    )


def cut_units(
    surveys: Sequence[FileSurvey],
    config_hash: str,
    max_bytes: int,
    max_rows: int,
    largest_row: int = sys.maxsize,
    chosen: Mapping[str, frozenset[int]] | None = None,
) -> tuple[Unit, ...]:
    """Units of at most ``max_bytes`` decoded text and ``max_rows`` rows; a larger row is a unit of its own.

    Neighbouring rows over the same candidates stay together where one unit can hold them: they share a forward pass.
    A row above ``largest_row`` bytes is marked too large. ``chosen``: rows by file URI, None for all.
    """
    # Which rows are doubled is a fact of the whole input, also where only some of them are scored.
    doubled = _duplicates([survey.id_digests for survey in surveys])
    units = []
    for index, (survey, duplicates) in enumerate(zip(surveys, doubled, strict=True)):
        rows = None if chosen is None else chosen.get(survey.file.uri, frozenset())
        # A row that is too large must be alone, whatever a unit may hold: it is an error without being read.
        sizes = np.where(survey.row_bytes > largest_row, max_bytes + 1, survey.row_bytes)
        for start, stop in _ranges(sizes, survey.list_digests, max_bytes, max_rows, rows):
            units.append(
                Unit(
                    unit_id=unit_id(config_hash, survey.file, start, stop),
                    file=index,
                    start=start,
                    stop=stop,
                    bytes=int(survey.row_bytes[start:stop].sum()),
                    tokens=int(survey.row_tokens[start:stop].sum()),
                    duplicates=tuple(duplicates[slice(*np.searchsorted(duplicates, [start, stop]))].tolist()),
                    too_large=stop - start == 1 and int(survey.row_bytes[start]) > largest_row,
                )
            )
    return tuple(units)


def _duplicates(digests: Sequence[np.ndarray]) -> list[np.ndarray]:
    """By file, the rows whose id an earlier row of any file has, sorted."""
    if not digests:
        return []
    ids = np.concatenate(digests)
    order = np.lexsort((ids[:, 1], ids[:, 0]))  # stable: of equal ids the first row comes first
    repeats = order[1:][(ids[order[1:]] == ids[order[:-1]]).all(axis=1)]
    doubled = np.sort(repeats[ids[repeats].any(axis=1)])  # a null id is an error of its own
    starts = np.cumsum([0, *map(len, digests)])
    of_files = np.split(doubled, np.searchsorted(doubled, starts[1:-1]))
    return [rows - start for rows, start in zip(of_files, starts[:-1], strict=True)]


def _ranges(
    row_bytes: np.ndarray, lists: np.ndarray, max_bytes: int, max_rows: int, chosen: frozenset[int] | None
) -> Iterator[tuple[int, int]]:
    rows = range(len(row_bytes)) if chosen is None else sorted(chosen)
    together = _together(row_bytes, lists, max_bytes, max_rows)
    start, stop, size = -1, -1, 0
    for row in rows:
        row_size = int(row_bytes[row])
        bytes_ahead, rows_ahead = together.get(row, (row_size, 1))
        full = size + bytes_ahead > max_bytes or row + rows_ahead - start > max_rows
        if start >= 0 and (row != stop or full):
            yield start, stop
            start = -1
        if start < 0:
            start, size = row, 0
        stop, size = row + 1, size + row_size
    if start >= 0:
        yield start, stop


def _together(row_bytes: np.ndarray, lists: np.ndarray, max_bytes: int, max_rows: int) -> dict[int, tuple[int, int]]:
    """Bytes and number of neighbouring rows over the same candidates, by the first of them, where a unit can hold
    them all."""
    if not len(lists):
        return {}
    firsts = np.flatnonzero(np.concatenate([[True], lists[1:] != lists[:-1]]))
    counts = np.diff(np.append(firsts, len(lists)))
    sizes = np.add.reduceat(row_bytes, firsts)
    held = (counts > 1) & (counts <= max_rows) & (sizes <= max_bytes)
    return {
        int(first): (int(size), int(count))
        for first, size, count in zip(firsts[held], sizes[held], counts[held], strict=True)
    }


def store_plan(storage: Storage, run_uri: str, plan: AnyPlan) -> AnyPlan:
    """Put the plan create-only; if one is there, it must describe the same work, and it is the one that counts."""
    if storage.create(join(run_uri, PLAN_FILE), plan.model_dump_json(indent=1).encode()):
        return plan
    stored = read_plan(storage, run_uri, type(plan))
    if stored is None:
        raise IncompleteRunError(f"{run_uri}: a plan was there and is not any more. Run the same command again.")
    if stored.config_hash != plan.config_hash or stored.input_hash != plan.input_hash:
        raise PlanConflictError(
            f"{run_uri}: expected the stored plan to be for the same settings and inputs; it is not. "
            "Choose another name or output, or remove the run."
        )
    return stored


def load_plan(storage: Storage, run_uri: str) -> Plan | None:
    """The stored plan of a run, None if there is none."""
    return read_plan(storage, run_uri, Plan)


def read_plan(storage: Storage, run_uri: str, kind: type[AnyPlan]) -> AnyPlan | None:
    """The stored plan of a run whose plans are of this kind, None if there is none."""
    uri = join(run_uri, PLAN_FILE)
    return kind.model_validate_json(storage.read(uri)) if storage.exists(uri) else None
