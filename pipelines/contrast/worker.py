"""The actor's part of answering with contrast."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import pyarrow as pa

from pipelines.answers.contexts import Context, Contexts
from pipelines.answers.variants import QuestionMaker, usable
from pipelines.contrast.model import ContrastFacts, ContrastModel, TuningSettings
from pipelines.contrast.rows import CONTRAST_FIELDS, answer_columns, negative_columns
from pipelines.metrics import UnitMetrics, unit_metrics
from pipelines.rows import Row, error_fields, query_id_of, read_input_rows
from pipelines.units import UnitRows
from qrcore.contracts.answerer import Answer, Question
from qrcore.contracts.contrast import ContrastedAnswer, Contrastive
from qrcore.contrasting import ContrastParts, load_contrast_answerer
from qrcore.errors import ScoreError
from qrcore.models import use_threads
from qrcore.rendering import TextTemplate


def open_contrast(settings: ContrastModel) -> Contrastive:
    """The answerer of these settings, in this process."""
    answerer: dict[str, Any] = asdict(settings.answerer)
    use_threads(answerer.pop("threads"))
    parts = ContrastParts(dict(settings.method), settings.controls, settings.seed, settings.plain, settings.masked)
    return load_contrast_answerer(parts=parts, heads=settings.heads, on_mismatch=settings.on_mismatch, **answerer)


def probe(settings: ContrastModel, template: str | None) -> ContrastFacts:
    """Load the model and the template as a worker would; refuses what cannot work."""
    if template is not None:
        TextTemplate(template, "answer.template")
    answerer = open_contrast(settings)
    return ContrastFacts(answerer.identity, answerer.contrast)


class ContrastWorker:
    """Answers the rows of units with contrast; see :class:`pipelines.work.UnitWorker`. ``tuning``: that masked answers
    become samples, and how; None: they do not."""

    def __init__(
        self,
        answerer: Contrastive,
        contexts: Contexts,
        template: str | None,
        schema: pa.Schema,
        tuning: TuningSettings | None = None,
    ) -> None:
        self._contrastive, self._contexts, self._maker = answerer, contexts, QuestionMaker(template)
        self._schema, self._tuning = schema, tuning
        own = {field.name for field in CONTRAST_FIELDS}
        self._carried = [name for name in schema.names if name not in own]

    def answer(self, unit: UnitRows) -> tuple[pa.Table, UnitMetrics]:
        """The unit's answers in input order, and what they took."""
        started = time.time()
        rows = read_input_rows(unit.table)
        carried = [name for name in self._carried if name in unit.table.schema.names]
        others = unit.table.select(carried).to_pylist()
        askable = [usable(row, unit, place) for place, row in enumerate(rows)]
        contexts = self._contexts.of(unit, askable)
        asked = [self._maker.question(*one) for one in zip(askable, contexts, others, strict=True)]
        answered = iter(self._contrastive.answer_many([one for one in asked if isinstance(one, Question)]))
        answers = [next(answered) if isinstance(one, Question) else one for one in asked]
        out = [
            {
                **others[place],
                "query_id": query_id_of(row),
                "gold": others[place].get("answers"),
                "source": {"uri": unit.uri, "row": unit.first_row + place},
                **self._columns(answers[place], asked[place], contexts[place], others[place]),
            }
            for place, row in enumerate(rows)
        ]
        errors = [answer for answer in answers if isinstance(answer, ScoreError)]
        tokens = sum(one.prompt_tokens + one.new_tokens for one in answers if isinstance(one, Answer))
        return pa.Table.from_pylist(out, schema=self._schema), unit_metrics(len(out), errors, tokens, started)

    def _columns(
        self,
        answer: Answer | ScoreError,
        asked: Question | ScoreError,
        context: Context | ScoreError,
        carried: Mapping[str, Any],
    ) -> Row:
        if isinstance(answer, ScoreError):
            return {"error": error_fields(answer)}
        if not (isinstance(answer, ContrastedAnswer) and isinstance(asked, Question) and isinstance(context, Context)):
            raise RuntimeError("an answer without its question or its contrast; this is a defect")
        gold = carried.get("answers")
        columns = {"query": asked.query, **answer_columns(answer, gold)}
        if self._tuning is None:
            return columns
        support = partial(self._contrastive.support, context=context.text)
        return columns | {
            "prompt": self._contrastive.turn_text(asked),
            "negative": negative_columns(answer, gold, support, self._tuning),
        }
