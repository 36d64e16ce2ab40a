"""A finished re-ranking run as the source of rankings."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pipelines.commit import MANIFEST_FILE, Manifest
from pipelines.plan import Plan, load_plan
from pipelines.rows import Row
from pipelines.storage import Storage, StorageOptions, absolute, join
from pipelines.units import UnitRows, parquet_table, unit_uri
from qrcore.errors import InputError, RunError, ScoreError

_RANKING_COLUMNS: Final = ("query_id", "ranking", "windows", "flags", "source", "error")


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


def open_ranked(uri: str, manifest: Manifest, options: StorageOptions) -> RankedRun:
    """The run at ``uri``. Raises :class:`InputError` for one without its plan, or whose input has changed."""
    storage, place = Storage(uri, options), absolute(uri)
    plan = _plan(storage, place)
    if plan is None:
        raise InputError(f"input {uri}: expected a run of rerank with its plan, found none. Rank the context again.")
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


def _plan(storage: Storage, run_uri: str) -> Plan | None:
    try:
        return load_plan(storage, run_uri)
    except ValueError:  # a plan of another kind
        return None


def _parts(plan: Plan, manifest: Manifest) -> Iterator[RankedPart]:
    sha256 = {entry.unit_id: entry.sha256 for entry in manifest.objects}
    for unit in plan.units:
        path = unit_uri("", unit.unit_id).lstrip("/")
        yield RankedPart(plan.files[unit.file].uri, unit.start, unit.stop, path, sha256[unit.unit_id])


class StoredRankings:
    """Rankings of units from the objects of a run; see :class:`pipelines.select_worker.Rankings`."""

    def __init__(self, ranked: RankedRun, options: StorageOptions) -> None:
        self._rows = StoredRows(ranked, _RANKING_COLUMNS, options)

    def of(self, unit: UnitRows) -> list[Row | ScoreError]:
        """The row of the run for each row of the unit, or why it has no ranking."""
        found = self._rows.of(unit)
        return [_ranked_row(found.get(unit.first_row + place)) for place in range(len(unit.table))]


class StoredRows:
    """What the objects of a run say of the rows of units; ``columns``: of it, ``source`` among them."""

    def __init__(self, run: RankedRun, columns: Sequence[str], options: StorageOptions) -> None:
        self._ranked, self._columns, self._options = run, columns, options

    def of(self, unit: UnitRows) -> dict[int, Row]:
        """Rows of the run by the number of the input row. Raises :class:`RunError` for an object that has changed."""
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
            for row in parquet_table(data, self._columns).to_pylist():
                found[row["source"]["row"]] = row
        return found


def _ranked_row(ranked: Row | None) -> Row | ScoreError:
    if ranked is not None and ranked["ranking"] is not None:
        return ranked
    why = ranked["error"]["message"] if ranked and ranked["error"] else "the run has no such row"
    return ScoreError("not_ranked", f"ranking: expected one, got none ({why})", stage="select")
