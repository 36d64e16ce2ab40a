"""The contract of what answers questions from contexts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

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
