"""The actor's part of finding heads: read all heads of an example once, and let every method judge them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch

from pipelines.actors import open_scorer, unit_metrics
from pipelines.detection.examples import answered, check_relevant, read_example, relevance_of, relevant_elsewhere
from pipelines.detection.rows import HEAD_VALUES_SCHEMA, HeadValues, row_from_values
from pipelines.identity import content_hash
from pipelines.labels import Qrels
from pipelines.rows import Row, Source, query_id_of, read_input_rows, request_of
from pipelines.scorers import ScorerSettings
from pipelines.splits import Part, part_of
from pipelines.units import UnitRows
from pipelines.work import UnitMetrics
from qrcore.contracts.detector import Detector
from qrcore.contracts.scorer import Reading, Scorer
from qrcore.errors import ScoreError
from qrcore.loading import load_method
from qrcore.matching import query_digest
from qrcore.records import RankRequest


@dataclass(frozen=True, slots=True)
class DetectorSettings:
    """What a worker is told: the scorer that reads (all heads), each method with its settings, and on which part of
    the queries heads are found (None: on all)."""

    scorer: ScorerSettings
    methods: Mapping[str, Mapping[str, Any]]
    part: Part | None


class HeadValueWorker:
    """See :class:`pipelines.work.UnitWorker`; rows are those of :data:`HEAD_VALUES_SCHEMA`."""

    def __init__(self, settings: DetectorSettings, qrels: Qrels) -> None:
        self._scorer = open_scorer(settings.scorer)
        self._detectors: dict[str, Detector] = {
            name: load_method(name).build(**chosen) for name, chosen in settings.methods.items()
        }
        self._part = settings.part
        self._qrels = qrels

    @property
    def scorer(self) -> Scorer:
        """What reads."""
        return self._scorer

    def answer(self, unit: UnitRows) -> tuple[pa.Table, UnitMetrics]:
        """The unit's output rows in input order, and what they took."""
        started = time.time()
        rows = read_input_rows(unit.table)
        answers = list(answered((request_of(row, unit, place) for place, row in enumerate(rows)), self.values))
        return values_table(unit, rows, answers, started)

    def values(self, request: RankRequest) -> HeadValues:
        """What every method says of every head on one example. Raises :class:`ScoreError`."""
        relevance = relevance_of(request, self._qrels)
        part, relevant = part_of(str(request.query_id)), sum(grade > 0 for grade in relevance)
        elsewhere = relevant_elsewhere(request, self._qrels)
        if self._part is not None and part != self._part:
            return HeadValues(part, len(relevance), relevant, elsewhere, None)
        check_relevant(request, relevance, self._qrels)
        reading = read_example(self._scorer, request)
        values = {name: _finite(one, reading, relevance) for name, one in self._detectors.items()}
        content = content_hash([request.query, [(d.title, d.text) for d in request.documents], relevance])
        return HeadValues(
            part,
            len(relevance),
            relevant,
            elsewhere,
            values,
            reading.prompt_tokens,
            content,
            query_digest(request.query_id, request.query),
        )


def values_table(
    unit: UnitRows, rows: Sequence[Row | ScoreError], answers: Sequence[HeadValues | ScoreError], started: float
) -> tuple[pa.Table, UnitMetrics]:
    """Output rows in input order from the answers to a unit's rows, and what they took since ``started``."""
    sources = [Source(unit.uri, unit.first_row + place) for place in range(len(rows))]
    written = [
        row_from_values(query_id_of(row), answer, source)
        for row, answer, source in zip(rows, answers, sources, strict=True)
    ]
    errors = [answer for answer in answers if isinstance(answer, ScoreError)]
    tokens = sum(answer.prompt_tokens for answer in answers if isinstance(answer, HeadValues))
    table = pa.Table.from_pylist(written, schema=HEAD_VALUES_SCHEMA)
    return table, unit_metrics(len(rows), errors, tokens, started)


def _finite(detector: Detector, reading: Reading, relevance: Sequence[int]) -> list[float]:
    values = detector.head_values(reading, relevance)
    if not bool(torch.isfinite(values).all()):
        raise ScoreError(
            "non_finite",
            "values of heads: expected finite numbers, got NaN or infinity. Run again with dtype=float32.",
            stage="score",
        )
    return [float(value) for value in values.cpu()]
