"""The actor's stage: answer a unit whole, or row by row where an earlier attempt at it died."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Protocol

import pyarrow as pa

from pipelines.attempts import Attempts
from pipelines.metrics import UnitMetrics, added, unit_metrics
from pipelines.plan import Unit
from pipelines.rows import Source, error_table
from pipelines.starts import begin_start, started
from pipelines.storage import Storage, StorageOptions
from pipelines.units import UnitRows, to_ipc, unit_rows, unit_uri
from qrcore.errors import ScoreError
from qrcore.passes import largest_pass
from qrcore.timing import TOKENISE, seconds_by_part

LOGGER: Final = logging.getLogger(__name__)
_DEVICE_FAILURE: Final = "CUDA error"


class UnitWorker(Protocol):
    """Holds a model in an actor and answers units with it, one row in, one row out.

    It may be given any run of consecutive rows of a unit, down to a single one.
    """

    def answer(self, unit: UnitRows) -> tuple[pa.Table, UnitMetrics]:
        """The unit's output rows in input order, and what they took."""
        ...


@dataclass(frozen=True, slots=True)
class AnswerSettings:
    """What the stage needs to know of its run; ``most_killers``: rows that may kill their worker."""

    run_uri: str
    driver: str
    schema: bytes
    carried: tuple[str, ...]
    storage: StorageOptions
    most_killers: int


@dataclass(slots=True)
class _Parts:
    tables: list[pa.Table] = field(default_factory=list)
    metrics: list[UnitMetrics] = field(default_factory=list)

    def add(self, part: tuple[pa.Table, UnitMetrics]) -> None:
        self.tables.append(part[0])
        self.metrics.append(part[1])


class AnswerUnit:
    """One actor of Ray Data: made once, called with one unit at a time."""

    def __init__(self, worker: Callable[[], UnitWorker], settings: AnswerSettings) -> None:
        self._settings = settings
        self._schema = pa.ipc.read_schema(pa.py_buffer(settings.schema))
        self._storage = Storage(settings.run_uri, settings.storage)
        begin_start(self._storage, settings.run_uri, settings.driver)
        self._worker = worker()
        started(self._storage, settings.run_uri, settings.driver)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        waited = max(0.0, time.time() - row["read_at"])  # two nodes may disagree about the time
        unit = Unit.model_validate_json(row["unit"])
        settings = self._settings
        attempts = Attempts(self._storage, settings.run_uri, unit.unit_id, settings.driver)
        rows = unit_rows(row, unit)
        failed = {int(place): error for place, error in json.loads(row["failed"]).items()}
        errors = {place: ScoreError(code, message, stage="read") for place, (code, message) in failed.items()}
        killers: dict[str, Any] = {}
        if attempts.is_first():
            table, metrics = self._answer(rows, errors)
        elif self._done_elsewhere(unit, attempts):
            nothing = {"table": b"", "metrics": "", "killers": "{}"}
            return {"unit": row["unit"], "seconds": row["seconds"], **nothing}
        else:
            table, metrics = self._answer_one_by_one(rows, errors, attempts)
            dead = attempts.killers()
            nodes = sorted({node for place in dead for node in attempts.nodes(place)})
            killers = {"killers": len(dead), "killed_on": nodes} if dead else {}
        return {
            "unit": row["unit"],
            "table": to_ipc(table),
            "seconds": json.dumps({**json.loads(row["seconds"]), "wait_s": waited}),
            "metrics": json.dumps(asdict(metrics)),
            "killers": json.dumps(killers),
        }

    def _done_elsewhere(self, unit: Unit, attempts: Attempts) -> bool:
        if self._storage.exists(unit_uri(self._settings.run_uri, unit.unit_id)):
            return True
        return attempts.held_by_another()

    def _answer(self, rows: UnitRows, errors: Mapping[int, ScoreError]) -> tuple[pa.Table, UnitMetrics]:
        parts = _Parts()
        for start, stop in _runs(len(rows.table), errors):
            part = rows.part(start, stop)
            parts.add(self._failed(part, errors[start]) if start in errors else self._ask(part))
        return pa.concat_tables(parts.tables), added(parts.metrics)

    def _answer_one_by_one(
        self, rows: UnitRows, errors: Mapping[int, ScoreError], attempts: Attempts
    ) -> tuple[pa.Table, UnitMetrics]:
        attempts.look_back()
        attempts.check_limit(self._settings.most_killers)
        killers = set(attempts.killers())
        parts = _Parts()
        for place in range(len(rows.table)):
            part = rows.part(place, place + 1)
            if place in errors:
                parts.add(self._failed(part, errors[place]))
            elif place in killers:
                LOGGER.warning("unit %s: row %d is given up (worker_died)", attempts.unit_id, part.first_row)
                parts.add(self._failed(part, attempts.error(place)))
            else:
                attempts.begin_row(place)
                parts.add(self._ask(part))
        attempts.end()
        return pa.concat_tables(parts.tables), added(parts.metrics)

    def _ask(self, rows: UnitRows) -> tuple[pa.Table, UnitMetrics]:
        try:
            with seconds_by_part() as spent, largest_pass() as largest:
                table, metrics = self._worker.answer(rows)
            seconds, predicted = spent.get(TOKENISE, 0.0), largest.predicted_bytes
            return table, replace(metrics, tokenise_in_score_s=seconds, predicted_bytes=predicted)
        except RuntimeError as error:
            if _DEVICE_FAILURE not in str(error):
                raise
            # The process can never use its GPU again; another one must try, and the marks say which row it was.
            LOGGER.warning("row %d of %s: the device failed, the process ends", rows.first_row, rows.uri)
            os._exit(1)

    def _failed(self, rows: UnitRows, error: ScoreError) -> tuple[pa.Table, UnitMetrics]:
        count = len(rows.table)
        sources = [Source(rows.uri, rows.first_row + place) for place in range(count)]
        table = error_table(rows.table, [error] * count, sources, self._schema, self._settings.carried)
        return table, unit_metrics(count, [error] * count, 0, time.time())


def _runs(rows: int, errors: Mapping[int, ScoreError]) -> Iterator[tuple[int, int]]:
    """Runs of rows that are asked together, and single rows that are not asked."""
    start = 0
    for place in sorted(errors):
        if place > start:
            yield start, place
        yield place, place + 1
        start = place + 1
    if rows > start:
        yield start, rows
