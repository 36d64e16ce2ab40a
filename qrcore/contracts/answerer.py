"""The contract of what answers questions from contexts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from qrcore.errors import ScoreError
from qrcore.records import Document


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: ``query`` over ``documents`` in the model's own retrieval prompt, or, where there is a ``text``,
    that text as the user's turn."""

    query: str
    documents: tuple[Document, ...] = ()
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came; ``ended``: the model ended by itself, not by the limit."""

    text: str
    prompt_tokens: int
    new_tokens: int
    ended: bool


@dataclass(frozen=True, slots=True)
class AnswererIdentity:
    """What a loaded answerer is, in plain values."""

    revision: str | None
    weights_sha256: str
    setup_sha256: str
    prompt_sha256: str
    dtype: str
    device: str
    max_tokens: int


class Answerer(Protocol):
    """Answers with one model and fixed settings."""

    @property
    def identity(self) -> AnswererIdentity: ...

    def answer_many(self, questions: Sequence[Question]) -> list[Answer | ScoreError]:
        """An answer, or why there is none, to each question in order."""
        ...


@dataclass(frozen=True, slots=True)
class ReadAnswer:
    """An answer, and which of the given documents it was made from: places in the order of the prompt (``shown``), and
    those of them that attention was pushed to (``steered``)."""

    answer: Answer
    shown: tuple[int, ...]
    steered: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ReaderIdentity:
    """What a method that chooses documents is, beside its model: ``settings`` that answers depend on, the ids of its
    head sets by what they are for, what is not known or not right of them (``warnings``), and the queries that they
    were found on, as :func:`qrcore.matching.query_digest` writes them."""

    settings: Mapping[str, Any]
    head_sets: Mapping[str, str]
    warnings: tuple[str, ...]
    detection_queries: frozenset[str]


class Reader(Protocol):
    """Answers from documents that a method chooses, in several variants."""

    @property
    def reader_identity(self) -> ReaderIdentity: ...

    def read(
        self, question: str, documents: Sequence[Document], variants: Sequence[str], gold: Sequence[int] = ()
    ) -> dict[str, ReadAnswer | ScoreError]:
        """The answer of each variant, or why there is none. ``gold``: places of the right documents."""
        ...
