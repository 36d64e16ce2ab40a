"""The worker that answers questions from contexts, wherever those come from."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import pyarrow as pa

from pipelines.labels import Qrels
from pipelines.metrics import unit_metrics
from pipelines.ranked_run import RankedRun, StoredRows
from pipelines.rows import Row, duplicate_query_id, error_fields, query_id_of, read_input_rows, request_from_row
from pipelines.schemas import ERROR, SCHEMA_VERSION, SCHEMA_VERSION_KEY, SOURCE
from pipelines.storage import StorageOptions
from pipelines.units import UnitRows
from pipelines.work import UnitMetrics
from qrcore.answers import score_answer, without_mark
from qrcore.contracts.answerer import Answer, Answerer, Question
from qrcore.errors import ScoreError
from qrcore.records import Document
from qrcore.rendering import CONTEXT_TEMPLATE, TextTemplate

ANSWER_FIELDS: Final[tuple[pa.Field, ...]] = (
    pa.field("query_id", pa.string()),
    pa.field("query", pa.string()),
    pa.field("answer", pa.string()),
    pa.field("ended", pa.bool_()),
    pa.field("prompt_tokens", pa.int64()),
    pa.field("new_tokens", pa.int32()),
    pa.field("exact_match", pa.float32()),
    pa.field("sub_em", pa.float32()),
    pa.field("token_f1", pa.float32()),
    pa.field("gold", pa.list_(pa.string())),
    pa.field("pair", pa.string()),
    pa.field("source", SOURCE),
    pa.field("error", ERROR),
)
_BUNDLE_COLUMNS: Final = ("segments", "context", "source", "error")


def answer_schema(carried: Sequence[pa.Field]) -> pa.Schema:
    """The output schema of answer: the answer row and the carried columns."""
    return pa.schema([*ANSWER_FIELDS, *carried], metadata={SCHEMA_VERSION_KEY: SCHEMA_VERSION.encode()})


@dataclass(frozen=True, slots=True)
class Context:
    """What a question is answered from: documents in order, and the same as one text."""

    documents: tuple[Document, ...]
    text: str


class Contexts(Protocol):
    """Where the contexts of a unit's rows come from."""

    def of(self, unit: UnitRows, rows: Sequence[Row | ScoreError]) -> list[Context | ScoreError]:
        """The context of each row of the unit in order, or why there is none. ``rows``: as the input has them."""
        ...


class AnswerWorker:
    """Answers the rows of units; see :class:`pipelines.work.UnitWorker`. ``template``: of the user's turn, None: the
    model's own retrieval prompt."""

    def __init__(self, answerer: Answerer, contexts: Contexts, template: str | None, schema: pa.Schema) -> None:
        self._answerer, self._contexts, self._schema = answerer, contexts, schema
        self._template = TextTemplate(template, "answer.template") if template is not None else None
        self._carried = [name for name in schema.names if name not in {field.name for field in ANSWER_FIELDS}]

    def answer(self, unit: UnitRows) -> tuple[pa.Table, UnitMetrics]:
        """The unit's answers in input order, and what they took."""
        started = time.time()
        rows = read_input_rows(unit.table)
        carried = [name for name in self._carried if name in unit.table.schema.names]
        others = unit.table.select(carried).to_pylist()
        contexts = self._contexts.of(unit, rows)
        asked = [
            self._question(row, unit.first_row + place in unit.duplicates, contexts[place], others[place])
            for place, row in enumerate(rows)
        ]
        answered = iter(self._answerer.answer_many([one for one in asked if isinstance(one, Question)]))
        answers = [next(answered) if isinstance(one, Question) else one for one in asked]
        out = [
            {**_row(row, answer, other), **other, "source": {"uri": unit.uri, "row": unit.first_row + place}}
            for place, (row, answer, other) in enumerate(zip(rows, answers, others, strict=True))
        ]
        errors = [answer for answer in answers if isinstance(answer, ScoreError)]
        tokens = sum(one.prompt_tokens + one.new_tokens for one in answers if isinstance(one, Answer))
        return pa.Table.from_pylist(out, schema=self._schema), unit_metrics(len(out), errors, tokens, started)

    def _question(
        self, row: Row | ScoreError, repeated: bool, context: Context | ScoreError, carried: Mapping[str, Any]
    ) -> Question | ScoreError:
        if isinstance(row, ScoreError):
            return row
        if repeated:
            return duplicate_query_id(row)
        if isinstance(request := request_from_row(row), ScoreError):
            return request
        if isinstance(context, ScoreError):
            return context
        if self._template is None:
            return Question(row["query"], context.documents)
        known = {"date": None, **carried, "query": row["query"], "query_id": row["query_id"], "context": context.text}
        try:
            return Question(row["query"], text=self._template.render(known))
        except ScoreError as error:
            return error


def _row(row: Row | ScoreError, answer: Answer | ScoreError, carried: Mapping[str, Any]) -> Row:
    gold = carried.get("answers")
    judged = {"query_id": query_id_of(row), "gold": gold, "pair": carried.get("group")}
    if isinstance(answer, ScoreError):
        return {**judged, "error": error_fields(answer)}
    scores = score_answer(without_mark(answer.text), gold)._asdict() if gold else {}
    return {
        **judged,
        "query": None if isinstance(row, ScoreError) else row["query"],
        "answer": answer.text,
        "ended": answer.ended,
        "prompt_tokens": answer.prompt_tokens,
        "new_tokens": answer.new_tokens,
        **scores,
    }


class BundleContexts:
    """The contexts of a committed run of select."""

    def __init__(self, bundles: RankedRun, options: StorageOptions) -> None:
        self._rows = StoredRows(bundles, _BUNDLE_COLUMNS, options)

    def of(self, unit: UnitRows, rows: Sequence[Row | ScoreError]) -> list[Context | ScoreError]:
        """See :class:`Contexts`."""
        found = self._rows.of(unit)
        return [_of_bundle(found.get(unit.first_row + place)) for place in range(len(rows))]


def _of_bundle(bundle: Row | None) -> Context | ScoreError:
    if bundle is None or bundle["segments"] is None:
        why = bundle["error"]["message"] if bundle and bundle["error"] else "the run has no such row"
        return ScoreError("no_bundle", f"bundle: expected one, got none ({why})", stage="select")
    return Context(_documents(bundle["segments"]), bundle["context"])


class WholeContexts:
    """All candidates of a row as they stand there; with ``qrels`` only the relevant ones: the oracle's choice."""

    def __init__(self, qrels: Qrels | None = None) -> None:
        self._qrels = qrels
        self._template = TextTemplate(CONTEXT_TEMPLATE, "context")

    def of(self, unit: UnitRows, rows: Sequence[Row | ScoreError]) -> list[Context | ScoreError]:
        """See :class:`Contexts`."""
        return [row if isinstance(row, ScoreError) else self._of_row(row) for row in rows]

    def _of_row(self, row: Row) -> Context | ScoreError:
        if isinstance(request := request_from_row(row), ScoreError):
            return request
        kept = [entry for entry in row["candidates"] if self._is_wanted(row["query_id"], entry["doc_id"])]
        if not kept:
            return ScoreError(
                "nothing_relevant",
                "context: expected judged relevant documents among the candidates, found none. Leave the row out, or "
                "judge it.",
                stage="select",
            )
        return Context(_documents(kept), self._template.render({"segments": [_titled(entry) for entry in kept]}))

    def _is_wanted(self, query_id: str, doc_id: str) -> bool:
        return self._qrels is None or self._qrels.get(query_id, {}).get(doc_id, 0) > 0


def _documents(entries: Sequence[Row]) -> tuple[Document, ...]:
    return tuple(Document(entry["doc_id"], entry["text"], entry.get("title")) for entry in entries)


def _titled(entry: Row) -> Row:
    return {"title": None, **entry}
