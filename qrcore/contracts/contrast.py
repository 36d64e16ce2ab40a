"""The contract of what answers questions with contrast, and tells what it changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from qrcore.contracts.answerer import Answer, Answerer, Question
from qrcore.errors import ScoreError


@dataclass(frozen=True, slots=True)
class ControlAnswer:
    """What comes of a contrast with other heads; numbers as of a :class:`ContrastedAnswer`."""

    text: str
    steps: int
    tokens_changed: int


@dataclass(frozen=True, slots=True)
class ContrastedAnswer(Answer):
    """The contrasted answer, and beside it others to the same prompt.

    ``mean_alpha``: the weight of the contrast, mean over ``steps`` (new tokens and what ended them);
    ``tokens_changed``: steps at which the model as it is would have said another token; ``plain``: the answer of the
    model as it is, ``masked``: with the heads masked, both None where they were not asked for; ``controls``: of every
    control set.
    """

    mean_alpha: float
    steps: int
    tokens_changed: int
    plain: str | None
    controls: tuple[ControlAnswer, ...]
    masked: str | None


@dataclass(frozen=True, slots=True)
class ContrastIdentity:
    """The heads that are masked, those of the control sets, how they are contrasted, and what there is to warn of."""

    head_set_id: str
    heads: tuple[str, ...]
    controls: tuple[tuple[str, ...], ...]
    settings: dict[str, Any]
    warnings: tuple[str, ...]


class Contrastive(Answerer, Protocol):
    """Answers with one model and one set of heads; answers are :class:`ContrastedAnswer`."""

    @property
    def contrast(self) -> ContrastIdentity: ...

    def answer_many(self, questions: Sequence[Question]) -> list[Answer | ScoreError]: ...

    def turn_text(self, question: Question) -> str:
        """What the user says, without the marks around a turn."""
        ...

    def support(self, answer: str, context: str) -> float:
        """The share of an answer's tokens that the context holds, with multiplicity, 0 to 1."""
        ...
