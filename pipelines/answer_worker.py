"""The worker that answers the questions of units, and has the answers judged."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from pipelines.answers.gold import Answers
from pipelines.answers.judging import Judge, ToJudge
from pipelines.answers.rows import ANSWER_FIELDS as ANSWER_FIELDS
from pipelines.answers.rows import KEPT_FIELD, answer_row
from pipelines.answers.variants import RowAnswers, Said, Variants, usable
from pipelines.metrics import unit_metrics
from pipelines.rows import Row, read_input_rows
from pipelines.units import UnitRows
from pipelines.work import UnitMetrics
from qrcore.errors import ScoreError

_OWN: Final = frozenset({*(field.name for field in ANSWER_FIELDS), KEPT_FIELD.name})


class AnswerWorker:
    """Answers the rows of units; see :class:`pipelines.work.UnitWorker`. ``gold``: answers of rows that carry none."""

    def __init__(
        self, variants: Variants, schema: pa.Schema, gold: Answers | None = None, judge: Judge | None = None
    ) -> None:
        self._variants, self._schema, self._gold, self._judge = variants, schema, gold or {}, judge
        self._carried = [name for name in schema.names if name not in _OWN]

    def answer(self, unit: UnitRows) -> tuple[pa.Table, UnitMetrics]:
        """The unit's answers in input order, and what they took."""
        started = time.time()
        rows = read_input_rows(unit.table)
        carried = [name for name in self._carried if name in unit.table.schema.names]
        others = unit.table.select(carried).to_pylist()
        askable = [usable(row, unit, place) for place, row in enumerate(rows)]
        found = self._variants.of(unit, askable, others)
        gold = [self._gold_of(row, other) for row, other in zip(rows, others, strict=True)]
        judged = self._judged(askable, found, gold)
        out = [
            {
                **answer_row(row, found[place], gold[place], others[place].get("group"), judged[place]),
                **others[place],
                "source": {"uri": unit.uri, "row": unit.first_row + place},
            }
            for place, row in enumerate(rows)
        ]
        return pa.Table.from_pylist(out, schema=self._schema), _metrics(found, started)

    def _gold_of(self, row: Row | ScoreError, carried: Mapping[str, Any]) -> Sequence[str] | None:
        own: Sequence[str] | None = carried.get("answers")
        return own if own or isinstance(row, ScoreError) else self._gold.get(row["query_id"], own)

    def _judged(
        self, rows: Sequence[Row | ScoreError], found: Sequence[RowAnswers], gold: Sequence[Sequence[str] | None]
    ) -> list[dict[str, bool | None]]:
        """What the judge says of each variant's answer, row by row."""
        judged: list[dict[str, bool | None]] = [{} for _ in rows]
        if self._judge is None:
            return judged
        asked = {
            (place, name): ToJudge(row["query"], gold[place] or (), one.answer.text)
            for place, row in enumerate(rows)
            for name, one in found[place].said.items()
            if isinstance(one, Said) and not isinstance(row, ScoreError) and gold[place]
        }
        for (place, name), verdict in zip(asked, self._judge.verdicts(list(asked.values())), strict=True):
            judged[place][name] = verdict
        return judged


def _metrics(found: Sequence[RowAnswers], started: float) -> UnitMetrics:
    own = [next(iter(one.said.values())) for one in found]
    errors = [one for one in own if isinstance(one, ScoreError)]
    said = [one.answer for row in found for one in row.said.values() if isinstance(one, Said)]
    return unit_metrics(len(found), errors, sum(one.prompt_tokens + one.new_tokens for one in said), started)
