"""The actor's part of proving a choice: many head sets on the same queries, most of them from one reading.

Queries of the test part only. Every set ranks the candidates of a query; what is kept is nDCG@10 and whether the most
relevant candidate stands above the longest of the others. The chosen set is read in further orders of the documents,
too, because where a document stands in the prompt matters.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Final

import pyarrow as pa

from pipelines.actors import open_scorer, unit_metrics
from pipelines.detection.examples import answered, check_relevant, read_example, relevance_of
from pipelines.detection.needle_rows import Needle, PairTrialMaker, TrialMaker, needle_columns, needles_of
from pipelines.labels import Qrels
from pipelines.measures import ndcg_of
from pipelines.needle_columns import PLACE_FIELDS
from pipelines.rows import Row, Source, error_fields, query_id_of, read_input_rows, request_of
from pipelines.schemas import ERROR, SCHEMA_VERSION, SCHEMA_VERSION_KEY, SOURCE
from pipelines.scorers import ScorerSettings
from pipelines.splits import Part, part_of
from pipelines.units import UnitRows
from pipelines.work import UnitMetrics
from qrcore.causal import CopyAccuracy, copy_accuracy
from qrcore.contracts.scorer import Reading, Scorer
from qrcore.errors import ScoreError
from qrcore.heads import Head, HeadSet, parse_head
from qrcore.records import Order, RankRequest

#: The candidates as the first stage has them, measured beside the head sets.
FIRST_STAGE: Final = "first-stage"
CUTOFF: Final = 10

_TRIAL: Final = pa.struct(
    [
        pa.field("head_set", pa.string()),
        pa.field("order", pa.string()),
        pa.field("ndcg_10", pa.float32()),
        pa.field("above_longest", pa.bool_()),
        pa.field("gold_place", pa.float32()),
    ]
)
_MASKED: Final = pa.struct(
    [pa.field("masked", pa.string()), pa.field("copied", pa.float32()), pa.field("answered", pa.bool_())]
)
#: One row a query. ``gold_place``: where the most relevant candidate (the first of several) stands in the prompt, 0
#: first, 1 last; ``above_longest``: whether it is ranked above the longest other candidate, null without others;
#: ``masked``: of a needle trial, what the model says with each set of heads held back, see
#: :class:`~qrcore.causal.CopyAccuracy`.
TRIALS_SCHEMA: Final = pa.schema(
    [
        pa.field("query_id", pa.string()),
        pa.field("part", pa.string()),
        pa.field("trials", pa.list_(_TRIAL)),
        pa.field("masked", pa.list_(_MASKED)),
        pa.field("prompt_tokens", pa.int64()),
        pa.field("source", SOURCE),
        pa.field("error", ERROR),
    ],
    metadata={SCHEMA_VERSION_KEY: SCHEMA_VERSION.encode()},
)


@dataclass(frozen=True, slots=True)
class TrialSettings:
    """The scorer that reads, each set's heads by name, and which sets are read in which order of the documents;
    ``masks``: heads to hold back in needle trials, by name, none: rows are no trials; ``pairs``: the trials are those
    of the key-value method that is built with this."""

    scorer: ScorerSettings
    sets: Mapping[str, tuple[str, ...]]
    orders: Mapping[Order, tuple[str, ...]]
    part: Part | None
    masks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    answer_prefix: str = "auto"
    pairs: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """One set on one query."""

    head_set: str
    order: str
    ndcg_10: float
    above_longest: bool | None
    gold_place: float


@dataclass(frozen=True, slots=True)
class QueryTrials:
    """All sets on one query; ``trials`` is None for a query that the choice was made on, ``masked`` for one that is no
    needle trial."""

    part: Part
    trials: tuple[Trial, ...] | None
    prompt_tokens: int = 0
    masked: Mapping[str, CopyAccuracy] | None = None


class TrialWorker:
    """See :class:`pipelines.work.UnitWorker`; rows are those of :data:`TRIALS_SCHEMA`."""

    def __init__(self, settings: TrialSettings, qrels: Qrels) -> None:
        self._settings = settings
        self._qrels = qrels
        self._heads = {name: tuple(map(parse_head, heads)) for name, heads in settings.sets.items()}
        self._masks = {name: tuple(map(parse_head, heads)) for name, heads in settings.masks.items()}
        loaded = open_scorer(replace(settings.scorer, depth="full") if settings.masks else settings.scorer)
        self._trial_of = _trial_maker(loaded, settings) if settings.masks else None
        self._scorers = {
            order: loaded.variant(_union(order, [self._heads[name] for name in names]), order)
            for order, names in settings.orders.items()
        }

    def answer(self, unit: UnitRows) -> tuple[pa.Table, UnitMetrics]:
        """The unit's output rows in input order, and what they took."""
        started = time.time()
        input_rows = read_input_rows(unit.table)
        needles = needles_of(unit.table, input_rows) if self._masks else {}
        requests = (request_of(row, unit, place) for place, row in enumerate(input_rows))
        answers = list(answered(requests, partial(self._trials, needles)))
        rows = [
            _row(query_id_of(row), answer, Source(unit.uri, unit.first_row + place))
            for place, (row, answer) in enumerate(zip(input_rows, answers, strict=True))
        ]
        errors = [answer for answer in answers if isinstance(answer, ScoreError)]
        tokens = sum(answer.prompt_tokens for answer in answers if isinstance(answer, QueryTrials))
        table = pa.Table.from_pylist(rows, schema=TRIALS_SCHEMA)
        if self._masks:
            for column, values in zip(PLACE_FIELDS, needle_columns(unit.table), strict=True):
                table = table.append_column(column, values)
        return table, unit_metrics(len(rows), errors, tokens, started)

    def _trials(self, needles: Mapping[str | None, Needle], request: RankRequest) -> QueryTrials:
        part = part_of(str(request.query_id))
        if self._settings.part is not None and part != self._settings.part:
            return QueryTrials(part, None)
        relevance = relevance_of(request, self._qrels)
        check_relevant(request, relevance, self._qrels)
        trials: list[Trial] = []
        tokens = 0
        for order, scorer in self._scorers.items():
            reading = read_example(scorer, request)
            tokens += reading.prompt_tokens
            judge = _Judge(request, reading, relevance, order)
            if not trials:
                places = [-place for place in range(len(request.documents))]
                trials.append(judge(FIRST_STAGE, list(map(float, places))))
            for name in self._settings.orders[order]:
                trials.append(judge(name, scorer.score_reading(reading, self._heads[name])))
        masked = self._masked(request, needles[request.query_id]) if self._masks else None
        return QueryTrials(part, tuple(trials), tokens, masked)

    def _masked(self, request: RankRequest, needle: Needle) -> dict[str, CopyAccuracy] | None:
        if self._trial_of is None:
            return None
        model, trial = self._trial_of.model, self._trial_of(request, needle)
        return {name: copy_accuracy(model, trial, heads) for name, heads in self._masks.items()}


@dataclass(frozen=True, slots=True, eq=False)
class _Judge:
    """Measures scores of one query's documents in one prompt."""

    request: RankRequest
    reading: Reading
    relevance: Sequence[int]
    order: str

    def __call__(self, head_set: str, scores: Sequence[float]) -> Trial:
        best = self.relevance.index(max(self.relevance))
        places = {document: place for place, document in enumerate(self.reading.prompt_order)}
        return Trial(
            head_set=head_set,
            order=self.order,
            ndcg_10=ndcg_of(scores, self.relevance, CUTOFF),
            above_longest=self._above_longest(scores, best),
            gold_place=places[best] / max(1, len(scores) - 1),
        )

    def _above_longest(self, scores: Sequence[float], best: int) -> bool | None:
        spans = self.reading.document_spans
        others = [place for place, grade in enumerate(self.relevance) if not grade]
        if not others:
            return None
        longest = max(others, key=lambda place: spans[place].stop - spans[place].start)
        return scores[best] > scores[longest]


def _trial_maker(scorer: Scorer, settings: TrialSettings) -> TrialMaker | PairTrialMaker:
    if settings.pairs is not None:
        return PairTrialMaker(scorer, settings.pairs)
    return TrialMaker(scorer, settings.scorer, settings.answer_prefix)


def _union(name: str, sets: Sequence[Sequence[Head]]) -> HeadSet:
    heads = sorted({head for one in sets for head in one})
    return HeadSet(name=name, heads=tuple(map(str, heads)))


def _row(query_id: str | None, answer: QueryTrials | ScoreError, source: Source) -> Row:
    row: Row = dict.fromkeys(TRIALS_SCHEMA.names)
    row |= {"query_id": query_id, "source": {"uri": source.uri, "row": source.row}}
    if isinstance(answer, ScoreError):
        row["error"] = error_fields(answer)
        return row
    row |= {"part": answer.part, "prompt_tokens": answer.prompt_tokens}
    if answer.trials is not None:
        names = _TRIAL.names
        row["trials"] = [{name: getattr(trial, name) for name in names} for trial in answer.trials]
    if answer.masked is not None:
        row["masked"] = [{"masked": name, **asdict(accuracy)} for name, accuracy in answer.masked.items()]
    return row
