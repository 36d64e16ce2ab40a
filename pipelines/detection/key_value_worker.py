"""The actor's part of finding heads by the key-value task: one language model, which copies values by their keys."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import pyarrow as pa

from pipelines.actors import open_scorer
from pipelines.detection.copying import KEY_VALUE, KEY_VALUE_CONDITIONAL, KeyValueTask
from pipelines.detection.examples import answered
from pipelines.detection.needle_rows import Needle, PairTrialMaker, needle_columns, needles_of
from pipelines.detection.rows import HeadValues
from pipelines.detection.worker import values_table
from pipelines.identity import content_hash
from pipelines.needle_columns import PLACE_FIELDS
from pipelines.rows import read_input_rows, request_of
from pipelines.scorers import ScorerSettings
from pipelines.splits import Part, part_of
from pipelines.units import UnitRows
from pipelines.work import UnitMetrics
from qrcore.contracts.copy_detector import CopyOutcome
from qrcore.errors import ScoreError
from qrcore.matching import query_digest
from qrcore.records import RankRequest


class KeyValueWorker:
    """See :class:`pipelines.work.UnitWorker`; rows are those of :data:`~pipelines.detection.rows.HEAD_VALUES_SCHEMA`
    and say where their value is. Nothing is read of how heads rank: a key says nothing of its value."""

    def __init__(self, scorer: ScorerSettings, part: Part | None, task: KeyValueTask) -> None:
        self._trial_of = PairTrialMaker(open_scorer(replace(scorer, depth="full")), task.building)
        self._part = part

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
        part, pairs = part_of(str(request.query_id)), len(request.documents)
        if self._part is not None and part != self._part:
            return HeadValues(part, pairs, 1, 0, None)
        needle = needles[request.query_id]
        trial = self._trial_of(request, needle)
        (outcome,) = self._trial_of.method.outcomes(self._trial_of.model, [trial])
        if isinstance(outcome, ScoreError):
            raise outcome
        return HeadValues(
            part,
            pairs,
            1,
            0,
            _by_mean(outcome),
            len(trial.prompt_ids) + len(trial.needle_ids),
            content_hash([request.query, [(d.title, d.text) for d in request.documents], needle.doc_id]),
            query_digest(request.query_id, request.query),
        )


def _by_mean(outcome: CopyOutcome) -> dict[str, list[float]]:
    copied = [float(value) for value in outcome.values.flatten()]
    # A trial in which the model said something else tells nothing of how it copies.
    conditional = copied if outcome.success else [math.nan] * len(copied)
    return {KEY_VALUE_CONDITIONAL: conditional, KEY_VALUE: copied}
