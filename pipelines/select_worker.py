"""The worker that makes bundles of units, wherever their rankings come from."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

import pyarrow as pa

from pipelines.metrics import unit_metrics
from pipelines.rows import Row, duplicate_query_id, error_fields, query_id_of, read_input_rows, request_from_row
from pipelines.selecting import BUNDLE_FIELDS, Bundler, BundleSettings
from pipelines.units import UnitRows
from pipelines.work import UnitMetrics
from qrcore.errors import ScoreError


class Rankings(Protocol):
    """Where the rankings of a unit's rows come from."""

    def of(self, unit: UnitRows) -> list[Row | ScoreError]:
        """A row with ``ranking``, ``windows`` and ``flags`` for each row of the unit in order, or why there is none."""
        ...


class SelectWorker:
    """Makes the bundles of units; see :class:`pipelines.work.UnitWorker`."""

    def __init__(self, settings: BundleSettings, rankings: Rankings, schema: pa.Schema) -> None:
        self._bundler = Bundler(settings)
        self._rankings, self._schema = rankings, schema
        self._carried = [name for name in schema.names if name not in {field.name for field in BUNDLE_FIELDS}]

    def answer(self, unit: UnitRows) -> tuple[pa.Table, UnitMetrics]:
        """The unit's bundles in input order, and what they took."""
        started = time.time()
        rankings = self._rankings.of(unit)
        carried = [name for name in self._carried if name in unit.table.schema.names]
        others = unit.table.select(carried).to_pylist()
        rows, errors, tokens = [], [], 0
        for place, row in enumerate(read_input_rows(unit.table)):
            number = unit.first_row + place
            answer = self._answer(row, number in unit.duplicates, rankings[place], others[place])
            if isinstance(answer, ScoreError):
                errors.append(answer)
                answer = {"query_id": query_id_of(row), "error": error_fields(answer)}
            tokens += answer.get("source_tokens") or 0
            rows.append({**answer, **others[place], "source": {"uri": unit.uri, "row": number}})
        metrics = unit_metrics(len(rows), errors, tokens, started)
        return pa.Table.from_pylist(rows, schema=self._schema), metrics

    def _answer(
        self, row: Row | ScoreError, repeated: bool, ranked: Row | ScoreError, carried: Mapping[str, Any]
    ) -> Row | ScoreError:
        if isinstance(row, ScoreError):
            return row
        if repeated:
            return duplicate_query_id(row)
        if isinstance(request := request_from_row(row), ScoreError):
            return request
        if isinstance(ranked, ScoreError):
            return ranked
        try:
            bundle = self._bundler.bundle(row, ranked["ranking"], carried, ranked["windows"])
            return {**bundle, "flags": [*bundle["flags"], *(ranked["flags"] or ())]}
        except ScoreError as error:
            return error
