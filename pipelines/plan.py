"""The plan: which rows of which files make up which unit of work, stored once and never cut anew."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from pipelines.identity import unit_id
from pipelines.inputs import FileSurvey
from pipelines.schemas import SCHEMA_VERSION
from pipelines.storage import FileInfo, Storage, join
from qrcore.errors import InputError, PlanConflictError

PLAN_FILE = "_plan.json"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PlannedFile(_Record):
    """An input file; ``bytes`` decoded text bytes, ``tokens`` estimated."""

    uri: str
    size: int
    etag: str
    rows: int
    bytes: int
    tokens: int

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

    ``duplicates``: rows of the file whose ``query_id`` stood earlier in the run.
    """

    unit_id: str
    file: int
    start: int
    stop: int
    bytes: int
    tokens: int
    duplicates: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        """How many rows the unit holds."""
        return self.stop - self.start


class Plan(_Record):
    """Everything a run does, before it does it. ``schema_ipc``: the output schema, Arrow IPC in base64; ``carried``:
    its columns that are copied from the input."""

    schema_version: str = SCHEMA_VERSION
    run_id: str
    job: str
    name: str
    config_hash: str
    input_hash: str
    config: dict[str, Any]
    provenance: dict[str, Any]
    order: str
    files: tuple[PlannedFile, ...]
    skipped_files: tuple[SkippedFile, ...]
    units: tuple[Unit, ...]
    schema_ipc: str
    carried: tuple[str, ...] = ()

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
    surveys: Sequence[FileSurvey], *, skip_bad_files: bool
) -> tuple[list[FileSurvey], tuple[SkippedFile, ...]]:
    """Readable files and skipped ones. Raises :class:`InputError` naming every bad file unless skipping is allowed."""
    bad = tuple(SkippedFile(uri=s.file.uri, reason=s.problem) for s in surveys if s.problem)
    if bad and not skip_bad_files:
        listed = "\n".join(f"  {file.uri}: {file.reason}" for file in bad)
        raise InputError(
            f"input: expected every file to follow the input schema; {len(bad)} of {len(surveys)} do not:\n{listed}\n"
            "Correct them, or set input.on_bad_file to skip."
        )
    return [survey for survey in surveys if not survey.problem], bad


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
        )
        for s in surveys
    )


def cut_units(surveys: Sequence[FileSurvey], config_hash: str, max_bytes: int, max_rows: int) -> tuple[Unit, ...]:
    """Units of at most ``max_bytes`` decoded text and ``max_rows`` rows; a larger row is a unit of its own."""
    seen: set[bytes] = set()
    units = []
    for index, survey in enumerate(surveys):
        duplicates = _duplicates(survey.id_digests, seen)
        for start, stop in _ranges(survey.row_bytes, max_bytes, max_rows):
            units.append(
                Unit(
                    unit_id=unit_id(config_hash, survey.file, start, stop),
                    file=index,
                    start=start,
                    stop=stop,
                    bytes=int(survey.row_bytes[start:stop].sum()),
                    tokens=int(survey.row_tokens[start:stop].sum()),
                    duplicates=tuple(row for row in duplicates if start <= row < stop),
                )
            )
    return tuple(units)


def _duplicates(digests: Sequence[bytes], seen: set[bytes]) -> list[int]:
    rows = []
    for row, digest in enumerate(digests):
        if digest and digest in seen:
            rows.append(row)
        seen.add(digest)
    return rows


def _ranges(row_bytes: np.ndarray, max_bytes: int, max_rows: int) -> Iterator[tuple[int, int]]:
    start, size = 0, 0
    for row, row_size in enumerate(row_bytes.tolist()):
        if row > start and (size + row_size > max_bytes or row - start >= max_rows):
            yield start, row
            start, size = row, 0
        size += row_size
    if len(row_bytes) > start:
        yield start, len(row_bytes)


def store_plan(storage: Storage, run_uri: str, plan: Plan) -> Plan:
    """Put the plan create-only; if one is there, it must describe the same work, and it is the one that counts."""
    if storage.create(join(run_uri, PLAN_FILE), plan.model_dump_json(indent=1).encode()):
        return plan
    stored = load_plan(storage, run_uri)
    if stored is None or stored.config_hash != plan.config_hash or stored.input_hash != plan.input_hash:
        raise PlanConflictError(
            f"{run_uri}: expected the stored plan to be for the same settings and inputs; it is not. "
            "Choose another name or output, or remove the run."
        )
    return stored


def load_plan(storage: Storage, run_uri: str) -> Plan | None:
    """The stored plan of a run, None if there is none."""
    uri = join(run_uri, PLAN_FILE)
    return Plan.model_validate_json(storage.read(uri)) if storage.exists(uri) else None
