"""A labelled row on its way through an actor: which candidates are relevant, the reading, and what fails alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from pipelines.labels import Qrels
from qrcore.contracts.scorer import Reading, Scorer
from qrcore.errors import ScoreError
from qrcore.models import out_of_memory_as_error
from qrcore.records import RankRequest

Answer = TypeVar("Answer")


def answered(
    requests: Iterable[RankRequest | ScoreError], answer: Callable[[RankRequest], Answer]
) -> Iterator[Answer | ScoreError]:
    """The answer to each request in order, or why there is none."""
    for request in requests:
        try:
            yield request if isinstance(request, ScoreError) else answer(request)
        except ScoreError as error:
            # The frames behind an error hold its tensors.
            error.__traceback__ = error.__cause__ = error.__context__ = None
            yield error


def relevance_of(request: RankRequest, qrels: Qrels) -> list[int]:
    """The grade of each candidate, at least 0, in the order in which they were given."""
    grades = qrels.get(str(request.query_id), {})
    return [max(0, grades.get(document.doc_id, 0)) for document in request.documents]


def relevant_elsewhere(request: RankRequest, qrels: Qrels) -> int:
    """How many documents are relevant to the query and stand nowhere in its list."""
    relevant = {doc_id for doc_id, grade in qrels.get(str(request.query_id), {}).items() if grade > 0}
    return len(relevant - {document.doc_id for document in request.documents})


def check_relevant(request: RankRequest, relevance: list[int], qrels: Qrels) -> None:
    """Raise :class:`ScoreError` if no candidate is relevant."""
    if any(relevance):
        return
    judged = str(request.query_id) in qrels
    what = "none of those that the judgements name is among them" if judged else "the judgements name none"
    raise ScoreError(
        "nothing_relevant",
        f"candidates: expected one that is relevant to the query, {what}. Add it to the candidates or to the qrels.",
        stage="validate",
        query_id=request.query_id,
    )


def read_example(scorer: Scorer, request: RankRequest) -> Reading:
    """Raw attention over the request's prompt. Raises :class:`ScoreError`."""
    with out_of_memory_as_error():
        return scorer.read(request.query, request.documents)
