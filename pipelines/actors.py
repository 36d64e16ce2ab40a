"""The actor that holds a model, and what it does to one unit."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from pipelines.metrics import unit_metrics as unit_metrics
from pipelines.rows import (
    Row,
    Source,
    carried_columns,
    duplicate_query_id,
    query_id_of,
    read_input_rows,
    request_from_row,
    row_from_answer,
    table_from_rows,
)
from pipelines.schemas import RANKING_FIELDS
from pipelines.scorers import ScorerSettings
from pipelines.units import UnitRows
from pipelines.work import UnitMetrics
from qrcore.contexts import ContextRanker
from qrcore.contracts.scorer import Scorer
from qrcore.engine import EngineSettings
from qrcore.errors import ScoreError
from qrcore.loading import load_scorer
from qrcore.models import use_threads
from qrcore.records import UNINFORMATIVE_QUERY, Ranking, RankRequest
from qrcore.windows import ContextSettings

_OWN_COLUMNS = frozenset(field.name for field in RANKING_FIELDS)


def open_scorer(settings: ScorerSettings) -> Scorer:
    """The scorer of these settings, in this process."""
    use_threads(settings.threads)
    arguments: dict[str, Any] = asdict(settings)
    del arguments["threads"]
    engine = EngineSettings(memory_bytes=arguments.pop("memory_bytes"))
    return load_scorer(**arguments, engine=engine)


class UnitScorer:
    """Holds one scorer and ranks the rows of units with it; see :class:`pipelines.work.UnitWorker`."""

    def __init__(self, settings: ScorerSettings, contexts: ContextSettings, schema: pa.Schema) -> None:
        self._scorer = open_scorer(settings)
        self._contexts = contexts
        self._schema = schema

    def answer(self, unit: UnitRows) -> tuple[pa.Table, UnitMetrics]:
        """The unit's output rows in input order, and what they took."""
        started = time.time()
        input_rows = read_input_rows(unit.table)
        answers = list(answer_rows(self._scorer, self._contexts, input_rows, unit))
        sources = [Source(unit.uri, unit.first_row + place) for place in range(len(input_rows))]
        rows = [
            row_from_answer(query_id_of(row), answer, source)
            for row, answer, source in zip(input_rows, answers, sources, strict=True)
        ]
        table = table_from_rows(rows, carried_columns(unit.table, self._schema, _OWN_COLUMNS), self._schema)
        return table, _metrics(answers, started)


class ScoredRankings:
    """Holds one scorer and ranks units for select; see :class:`pipelines.select_worker.Rankings`."""

    def __init__(self, settings: ScorerSettings, contexts: ContextSettings) -> None:
        self._scorer = open_scorer(settings)
        self._contexts = contexts

    def of(self, unit: UnitRows) -> list[Row | ScoreError]:
        """A ranking row for each row of the unit, or why there is none."""
        rows = read_input_rows(unit.table)
        return [
            answer
            if isinstance(answer, ScoreError)
            else row_from_answer(answer.query_id, answer, Source(unit.uri, unit.first_row + place))
            for place, answer in enumerate(answer_rows(self._scorer, self._contexts, rows, unit))
        ]


def answer_rows(
    scorer: Scorer, contexts: ContextSettings, rows: Sequence[Row | ScoreError], unit: UnitRows
) -> Iterator[Ranking | ScoreError]:
    """An answer for every row in order: unusable rows get their error, the others go to the scorer together."""
    requests = [request_of(row, unit, place) for place, row in enumerate(rows)]
    usable = (request for request in requests if isinstance(request, RankRequest))
    scored = ContextRanker(scorer, contexts).rank_many(usable)
    for request in requests:
        yield next(scored) if isinstance(request, RankRequest) else request


def request_of(row: Row | ScoreError, unit: UnitRows, place: int) -> RankRequest | ScoreError:
    """What the row at ``place`` of a unit asks, or why it cannot be answered."""
    if isinstance(row, ScoreError):
        return row
    return duplicate_query_id(row) if unit.first_row + place in unit.duplicates else request_from_row(row)


def _metrics(answers: Sequence[Ranking | ScoreError], started: float) -> UnitMetrics:
    rankings = [answer for answer in answers if isinstance(answer, Ranking)]
    return unit_metrics(
        rows=len(answers),
        errors=[answer for answer in answers if isinstance(answer, ScoreError)],
        prompt_tokens=sum(ranking.prompt_tokens for ranking in rankings),
        started=started,
        uninformative=sum(UNINFORMATIVE_QUERY in ranking.flags for ranking in rankings),
    )
