"""The actor's part of finding copying heads: one model, read as the other methods do, and watched while it copies."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import pyarrow as pa

from pipelines.detection.copying import COPY, COPY_CONDITIONAL, CopySettings
from pipelines.detection.examples import answered
from pipelines.detection.needle_rows import Needle, TrialMaker, needle_columns, needles_of
from pipelines.detection.rows import HeadValues
from pipelines.detection.worker import DetectorSettings, HeadValueWorker, values_table
from pipelines.identity import content_hash
from pipelines.labels import Qrels
from pipelines.needle_columns import PLACE_FIELDS
from pipelines.rows import read_input_rows, request_of
from pipelines.units import UnitRows
from pipelines.work import UnitMetrics
from qrcore.contracts.copy_detector import CopyDetector, CopyOutcome
from qrcore.errors import ScoreError
from qrcore.loading import load_method
from qrcore.records import RankRequest


class CopyValueWorker:
    """See :class:`pipelines.work.UnitWorker`; rows are those of :data:`~pipelines.detection.rows.HEAD_VALUES_SCHEMA`
    and say where their needle is."""

    def __init__(self, settings: DetectorSettings, copying: CopySettings, qrels: Qrels) -> None:
        self._reading = HeadValueWorker(replace(settings, scorer=replace(settings.scorer, depth="full")), qrels)
        self._trial_of = TrialMaker(self._reading.scorer, settings.scorer, copying.answer_prefix)
        self._copy: CopyDetector = load_method(COPY).build(**copying.building)

    def answer(self, unit: UnitRows) -> tuple[pa.Table, UnitMetrics]:
        """The unit's output rows in input order, and what they took."""
        started = time.time()
        rows = read_input_rows(unit.table)
        values = partial(self._values, needles_of(unit.table, rows))
        answers = list(answered((request_of(row, unit, place) for place, row in enumerate(rows)), values))
        table, metrics = values_table(unit, rows, answers, started)
        for field, column in zip(PLACE_FIELDS, needle_columns(unit.table), strict=True):
            table = table.append_column(field, column)
        return table, metrics

    def _values(self, needles: Mapping[str | None, Needle], request: RankRequest) -> HeadValues:
        found = self._reading.values(request)
        if found.values is None:
            return found
        needle = needles[request.query_id]
        outcome = self._outcome(request, needle)
        copied = [float(value) for value in outcome.values.flatten()]
        # A trial in which the model said something else tells nothing of how it copies.
        conditional = copied if outcome.success else [math.nan] * len(copied)
        return replace(
            found,
            values={**found.values, COPY: copied, COPY_CONDITIONAL: conditional},
            content_sha256=content_hash([found.content_sha256, needle.start, needle.end]),
        )

    def _outcome(self, request: RankRequest, needle: Needle) -> CopyOutcome:
        (outcome,) = self._copy.outcomes(self._trial_of.model, [self._trial_of(request, needle)])
        if isinstance(outcome, ScoreError):
            raise outcome
        return outcome
