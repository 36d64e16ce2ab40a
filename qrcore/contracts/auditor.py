"""The contract of methods that ask a model whether it is sure: two turns in, verdicts and looks of heads out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from qrcore.heads import Head
from qrcore.models import LanguageModel
from qrcore.records import Span


@dataclass(frozen=True, slots=True)
class FollowUp:
    """Turn 2: its tokens, up to where the verdict begins, and which of them name the options."""

    ids: tuple[int, ...]
    options: Span


@dataclass(frozen=True, slots=True)
class FlipTrial:
    """``first_turn``: prompt and answer, with what ends the answer; ``follow_ups``: ways to ask again."""

    first_turn: tuple[int, ...]
    follow_ups: tuple[FollowUp, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the model says when asked again. ``logit_margin``: logit of the likeliest "yes" token over that of the
    likeliest "no" token; ``entropy``: of the next token, in nats."""

    p_yes: float
    p_no: float
    logit_margin: float
    entropy: float
    coherent: bool

    @property
    def flipped(self) -> bool:
        """Whether "no" is likelier."""
        return self.p_no > self.p_yes


class Auditor(Protocol):
    """Verdicts with and without heads, and where every head looks when the model is asked again."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything beside model and trials that verdicts depend on, in plain values."""
        ...

    def verdicts(
        self, model: LanguageModel, trial: FlipTrial, masks: Sequence[Sequence[Head]] = ((),)
    ) -> list[list[Verdict]]:
        """Verdicts by mask and follow-up; an empty mask is the model as it is. Raises :class:`ScoreError`."""
        ...

    def looks(self, model: LanguageModel, trial: FlipTrial) -> list[dict[Head, bool]]:
        """Whether each head looks at the options, by follow-up. Raises :class:`ScoreError`."""
        ...


def case_of(flipped: bool, looks: bool) -> int:
    """The case (1 to 4) of one head on one row."""
    if flipped:
        return 1 if looks else 3
    return 4 if looks else 2


def count_cases(rows: Iterable[tuple[bool, Mapping[Head, bool]]]) -> dict[Head, Counter[int]]:
    """Cases of every head over rows of (flipped, looks by head)."""
    counts: dict[Head, Counter[int]] = {}
    for flipped, looks in rows:
        for head, looked in looks.items():
            counts.setdefault(head, Counter())[case_of(flipped, looked)] += 1
    return counts


def rank_heads(counts: Mapping[Head, Counter[int]]) -> list[tuple[Head, float]]:
    """Heads by the share of rows in the union of cases 1 and 2, best first; of equal heads the first of the model."""
    scores = {head: (cases[1] + cases[2]) / cases.total() for head, cases in counts.items()}
    return sorted(scores.items(), key=lambda entry: (-entry[1], entry[0]))
