"""The actor that holds a model, and what it does to one unit."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import ray
import torch

from pipelines.rows import (
    Row,
    Source,
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
from qrcore.contracts.scorer import Scorer
from qrcore.errors import ScoreError
from qrcore.loading import load_scorer
from qrcore.models import use_threads
from qrcore.records import Ranking, RankRequest


def open_scorer(settings: ScorerSettings) -> Scorer:
    """The scorer of these settings, in this process."""
    use_threads(settings.threads)
    arguments: dict[str, Any] = asdict(settings)
    del arguments["threads"]
    return load_scorer(**arguments)


class UnitScorer:
    """Holds one scorer and ranks the rows of units with it; see :class:`pipelines.work.UnitWorker`."""

    def __init__(self, settings: ScorerSettings, schema: pa.Schema) -> None:
        self._scorer = open_scorer(settings)
        self._schema = schema

    def answer(self, unit: UnitRows) -> tuple[pa.Table, UnitMetrics]:
        """The unit's output rows in input order, and what they took."""
        started = time.time()
        input_rows = read_input_rows(unit.table)
        answers = list(answer_rows(self._scorer, input_rows, unit))
        sources = [Source(unit.uri, unit.first_row + place) for place in range(len(input_rows))]
        rows = [
            row_from_answer(query_id_of(row), answer, source)
            for row, answer, source in zip(input_rows, answers, sources, strict=True)
        ]
        table = table_from_rows(rows, _carried(unit.table, self._schema), self._schema)
        return table, _metrics(answers, started)


def answer_rows(scorer: Scorer, rows: Sequence[Row | ScoreError], unit: UnitRows) -> Iterator[Ranking | ScoreError]:
    """An answer for every row in order: unusable rows get their error, the others go to the scorer together."""
    requests = [request_of(row, unit, place) for place, row in enumerate(rows)]
    scored = scorer.rank_many(request for request in requests if isinstance(request, RankRequest))
    for request in requests:
        yield next(scored) if isinstance(request, RankRequest) else request


def request_of(row: Row | ScoreError, unit: UnitRows, place: int) -> RankRequest | ScoreError:
    """What the row at ``place`` of a unit asks, or why it cannot be answered."""
    if isinstance(row, ScoreError):
        return row
    return duplicate_query_id(row) if unit.first_row + place in unit.duplicates else request_from_row(row)


def _carried(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The carried columns of ``table`` in the output schema's types; null where the file has no such column."""
    names = [name for name in schema.names if name not in _OWN_COLUMNS]
    columns = [
        table.column(name) if name in table.schema.names else pa.nulls(len(table), schema.field(name).type)
        for name in names
    ]
    return pa.Table.from_arrays(columns, schema=pa.schema([schema.field(name) for name in names]))


_OWN_COLUMNS = frozenset(field.name for field in RANKING_FIELDS)


def _metrics(answers: Sequence[Ranking | ScoreError], started: float) -> UnitMetrics:
    rankings = [answer for answer in answers if isinstance(answer, Ranking)]
    return unit_metrics(
        rows=len(answers),
        errors=[answer for answer in answers if isinstance(answer, ScoreError)],
        prompt_tokens=sum(ranking.prompt_tokens for ranking in rankings),
        started=started,
        uninformative=sum(bool(ranking.flags) for ranking in rankings),
    )


def unit_metrics(
    rows: int, errors: Sequence[ScoreError], prompt_tokens: int, started: float, uninformative: int = 0
) -> UnitMetrics:
    """What a unit that ends now has taken in this process since ``started`` (seconds of the epoch)."""
    now = time.time()
    return UnitMetrics(
        rows=rows,
        scored=rows - len(errors),
        failed=len(errors),
        uninformative=uninformative,
        prompt_tokens=prompt_tokens,
        errors=dict(Counter(error.code for error in errors)),
        score_s=now - started,
        started_at=_stamp(started),
        finished_at=_stamp(now),
        actor_pid=os.getpid(),
        node=ray.util.get_node_ip_address(),
        memory_bytes=_memory_bytes(),
        gpu_memory_bytes=torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
    )


def _memory_bytes() -> int:
    """Largest resident memory of this process so far; Linux counts it in KiB, macOS in bytes."""
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
