"""The answers of a row: the run's own, and what it is compared with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pipelines.answers.contexts import Context, Contexts
from pipelines.labels import Qrels
from pipelines.rows import Row, duplicate_query_id, request_from_row
from pipelines.units import UnitRows
from qrcore.contracts.answerer import Answer, Answerer, Question, ReadAnswer, Reader
from qrcore.errors import ScoreError
from qrcore.matching import query_digest
from qrcore.records import DETECTION_QUERY, Document
from qrcore.rendering import TextTemplate

Rows = Sequence[Row | ScoreError]


@dataclass(frozen=True, slots=True)
class Said:
    """One answer, the documents that its prompt held in their order, the ids of what those are made of, and of those
    that attention was pushed to; None: nothing is ever pushed."""

    answer: Answer
    documents: tuple[Document, ...]
    doc_ids: tuple[str, ...]
    steered: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class RowAnswers:
    """The answers to one row by the name of their variant, the run's own first, or why there is none; and its flags."""

    said: Mapping[str, Said | ScoreError]
    flags: tuple[str, ...] = ()


class Variants(Protocol):
    """Answers the rows of units in every variant of a run."""

    def of(self, unit: UnitRows, rows: Rows, carried: Sequence[Mapping[str, Any]]) -> list[RowAnswers]:
        """The answers to each row of the unit in order. ``rows``: what cannot be asked is an error already;
        ``carried``: their further columns."""
        ...


class QuestionMaker:
    """Questions of rows and contexts. ``template``: of the user's turn, None: the model's own retrieval prompt."""

    def __init__(self, template: str | None) -> None:
        self._template = TextTemplate(template, "answer.template") if template is not None else None

    def question(
        self, row: Row | ScoreError, context: Context | ScoreError, carried: Mapping[str, Any]
    ) -> Question | ScoreError:
        """What is asked, or why nothing can be; ``carried``: the row's further columns."""
        if isinstance(row, ScoreError):
            return row
        if isinstance(context, ScoreError):
            return context
        if self._template is None:
            return Question(row["query"], context.documents)
        known = {"date": None, **carried, "query": row["query"], "query_id": row["query_id"], "context": context.text}
        try:
            return Question(row["query"], text=self._template.render(known))
        except ScoreError as error:
            return error


def usable(row: Row | ScoreError, unit: UnitRows, place: int) -> Row | ScoreError:
    """The row at ``place`` of a unit, or why it cannot be asked."""
    if isinstance(row, ScoreError):
        return row
    if unit.first_row + place in unit.duplicates:
        return duplicate_query_id(row)
    return request if isinstance(request := request_from_row(row), ScoreError) else row


class ContextVariants:
    """The same questions from several contexts, by name, the run's own first; ``template`` as of
    :class:`QuestionMaker`."""

    def __init__(self, answerer: Answerer, contexts: Mapping[str, Contexts], template: str | None) -> None:
        self._answerer, self._contexts, self._maker = answerer, contexts, QuestionMaker(template)

    def of(self, unit: UnitRows, rows: Rows, carried: Sequence[Mapping[str, Any]]) -> list[RowAnswers]:
        """See :class:`Variants`."""
        contexts = {name: one.of(unit, rows) for name, one in self._contexts.items()}
        asked = {
            (place, name): self._maker.question(row, contexts[name][place], carried[place])
            for place, row in enumerate(rows)
            for name in contexts
        }
        answered = iter(self._answerer.answer_many([one for one in asked.values() if isinstance(one, Question)]))
        answers = {key: next(answered) if isinstance(one, Question) else one for key, one in asked.items()}
        return [
            RowAnswers(
                {name: _said(answers[place, name], contexts[name][place]) for name in contexts},
                _flags(contexts[name][place] for name in contexts),
            )
            for place in range(len(rows))
        ]


def _said(answer: Answer | ScoreError, context: Context | ScoreError) -> Said | ScoreError:
    if isinstance(answer, ScoreError) or isinstance(context, ScoreError):
        return answer if isinstance(answer, ScoreError) else context  # type: ignore[return-value]
    return Said(answer, context.documents, context.doc_ids)


def _flags(contexts: Iterable[Context | ScoreError]) -> tuple[str, ...]:
    told = [flag for one in contexts if isinstance(one, Context) for flag in one.flags]
    return tuple(dict.fromkeys(told))


class ReaderVariants:
    """The variants of a method that chooses its documents from the whole context. ``qrels``: which are right, for the
    variants that need to know."""

    def __init__(self, reader: Reader, contexts: Contexts, names: Sequence[str], qrels: Qrels | None) -> None:
        self._reader, self._contexts, self._names, self._qrels = reader, contexts, tuple(names), qrels or {}
        self._known = reader.reader_identity.detection_queries

    def of(self, unit: UnitRows, rows: Rows, carried: Sequence[Mapping[str, Any]]) -> list[RowAnswers]:
        """See :class:`Variants`."""
        contexts = self._contexts.of(unit, rows)
        return [self._answers(row, context) for row, context in zip(rows, contexts, strict=True)]

    def _answers(self, row: Row | ScoreError, context: Context | ScoreError) -> RowAnswers:
        if isinstance(row, ScoreError):
            return RowAnswers(dict.fromkeys(self._names, row))
        if isinstance(context, ScoreError):
            return RowAnswers(dict.fromkeys(self._names, context))
        judged = self._qrels.get(row["query_id"], {})
        gold = [place for place, one in enumerate(context.documents) if judged.get(one.doc_id, 0) > 0]
        found = self._reader.read(row["query"], context.documents, self._names, gold)
        said = {name: _read(found[name], context.documents) for name in self._names}
        seen = query_digest(row["query_id"], row["query"]) in self._known
        return RowAnswers(said, (*context.flags, DETECTION_QUERY) if seen else context.flags)


def _read(found: ReadAnswer | ScoreError, documents: Sequence[Document]) -> Said | ScoreError:
    if isinstance(found, ScoreError):
        return found
    shown = tuple(documents[place] for place in found.shown)
    steered = tuple(documents[place].doc_id for place in found.steered)
    return Said(found.answer, shown, tuple(document.doc_id for document in shown), steered)
