"""The actor that holds a model, and what it does to one unit."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa

from pipelines.metrics import unit_metrics as unit_metrics
from pipelines.process_memory import model_begins
from pipelines.rows import (
    Row,
    Source,
    carried_columns,
    query_id_of,
    read_input_rows,
    request_of,
    row_from_answer,
    table_from_rows,
)
from pipelines.schemas import RANKING_FIELDS
from pipelines.scorers import ScorerSettings
from pipelines.units import Encoded, UnitRows
from pipelines.work import UnitMetrics
from qrcore.contexts import ContextRanker
from qrcore.contracts.scorer import Scorer
from qrcore.engine import EngineSettings
from qrcore.errors import ScoreError
from qrcore.loading import load_encoder, load_scorer
from qrcore.matching import query_digest
from qrcore.models import use_threads
from qrcore.records import DETECTION_QUERY, UNINFORMATIVE_QUERY, Ranking, RankRequest
from qrcore.windows import ContextSettings

_OWN_COLUMNS = frozenset(field.name for field in RANKING_FIELDS)


def open_scorer(settings: ScorerSettings) -> Scorer:
    """The scorer of these settings, in this process."""
    use_threads(settings.threads)
    arguments: dict[str, Any] = asdict(settings)
    del arguments["threads"]
    model_begins()
    return load_scorer(**{**arguments, "engine": EngineSettings(**arguments["engine"])})


class UnitScorer:
    """Holds one scorer and ranks the rows of units with it; see :class:`pipelines.work.UnitWorker`."""

    def __init__(
        self,
        settings: ScorerSettings,
        contexts: ContextSettings,
        schema: pa.Schema,
        detection_queries: frozenset[str] = frozenset(),
    ) -> None:
        self._scorer = open_scorer(settings)
        self._contexts = contexts
        self._schema = schema
        self._detection_queries = detection_queries

    def answer(self, unit: UnitRows) -> tuple[pa.Table, UnitMetrics]:
        """The unit's output rows in input order, and what they took."""
        started = time.time()
        input_rows = read_input_rows(unit.table)
        answers = list(answer_rows(self._scorer, self._contexts, input_rows, unit, self._detection_queries))
        sources = [Source(unit.uri, unit.first_row + place) for place in range(len(input_rows))]
        rows = [
            row_from_answer(query_id_of(row), answer, source)
            for row, answer, source in zip(input_rows, answers, sources, strict=True)
        ]
        table = table_from_rows(rows, carried_columns(unit.table, self._schema, _OWN_COLUMNS), self._schema)
        return table, _metrics(answers, started)


class ScoredRankings:
    """Holds one scorer and ranks units for select; see :class:`pipelines.select_worker.Rankings`."""

    def __init__(
        self, settings: ScorerSettings, contexts: ContextSettings, detection_queries: frozenset[str] = frozenset()
    ) -> None:
        self._scorer = open_scorer(settings)
        self._contexts = contexts
        self._detection_queries = detection_queries

    def of(self, unit: UnitRows) -> list[Row | ScoreError]:
        """A ranking row for each row of the unit, or why there is none."""
        rows = read_input_rows(unit.table)
        answers = answer_rows(self._scorer, self._contexts, rows, unit, self._detection_queries)
        return [
            answer
            if isinstance(answer, ScoreError)
            else row_from_answer(answer.query_id, answer, Source(unit.uri, unit.first_row + place))
            for place, answer in enumerate(answers)
        ]


class RequestUnitEncoder:
    """See :class:`pipelines.encoding.UnitEncoder`; for the scorer of the same settings, where ``contexts`` are plain:
    which windows there are depends on what is asked and scored before."""

    def __init__(self, settings: ScorerSettings, contexts: ContextSettings) -> None:
        if not contexts.plain:
            raise RuntimeError("lists that are cut into windows were to be tokenised ahead; this is a defect")
        encoder = load_encoder(
            model=settings.model,
            revision=settings.revision,
            heads=settings.heads,
            prompt=settings.prompt,
            null_query=settings.null_query,
            query_span=settings.query_span,  # type: ignore[arg-type]
            order=settings.order,  # type: ignore[arg-type]
            document_special_tokens=settings.document_special_tokens,  # type: ignore[arg-type]
            allow_sliding_window=settings.allow_sliding_window,
            order_seed=settings.order_seed,
        )
        self._encoder = encoder.within(contexts.window_tokens, pass_tokens=None)

    def encode(self, unit: UnitRows) -> Encoded:
        """What each row asks in tokens, or why it cannot be answered, in order."""
        asked = [request_of(row, unit, place) for place, row in enumerate(read_input_rows(unit.table))]
        encoded = self._encoder.encode_many(one for one in asked if isinstance(one, RankRequest))
        return tuple(next(encoded) if isinstance(one, RankRequest) else one for one in asked)


def answer_rows(
    scorer: Scorer,
    contexts: ContextSettings,
    rows: Sequence[Row | ScoreError],
    unit: UnitRows,
    known: frozenset[str] = frozenset(),
) -> Iterator[Ranking | ScoreError]:
    """An answer for every row in order: unusable rows get their error, the others go to the scorer together.

    ``known``: digests of the queries that the heads were found on.
    """
    for row, answer in zip(rows, _answers(scorer, contexts, rows, unit), strict=True):
        yield flagged(answer, row, known) if isinstance(answer, Ranking) else answer


def _answers(
    scorer: Scorer, contexts: ContextSettings, rows: Sequence[Row | ScoreError], unit: UnitRows
) -> Iterator[Ranking | ScoreError]:
    if unit.encoded is not None:
        yield from scorer.rank_encoded(unit.encoded)
        return
    requests = [request_of(row, unit, place) for place, row in enumerate(rows)]
    usable = (request for request in requests if isinstance(request, RankRequest))
    scored = ContextRanker(scorer, contexts).rank_many(usable)
    for request in requests:
        yield next(scored) if isinstance(request, RankRequest) else request


def flagged(answer: Ranking, row: Row | ScoreError, known: frozenset[str]) -> Ranking:
    """The answer, marked where its query is one of those ``known`` that the heads were found on."""
    if not known or isinstance(row, ScoreError) or query_digest(row["query_id"], row["query"]) not in known:
        return answer
    return replace(answer, flags=(*answer.flags, DETECTION_QUERY))


def _metrics(answers: Sequence[Ranking | ScoreError], started: float) -> UnitMetrics:
    rankings = [answer for answer in answers if isinstance(answer, Ranking)]
    return unit_metrics(
        rows=len(answers),
        errors=[answer for answer in answers if isinstance(answer, ScoreError)],
        prompt_tokens=sum(ranking.prompt_tokens for ranking in rankings),
        started=started,
        uninformative=sum(UNINFORMATIVE_QUERY in ranking.flags for ranking in rankings),
    )
