"""The contracts of methods that answer: prompts in, text in tokens out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from qrcore.errors import ScoreError
from qrcore.models import LanguageModel


@dataclass(frozen=True, slots=True)
class Generated:
    """The new tokens of one prompt; ``ended``: an end token came, not the limit; ``figures``: what the method tells of
    it beside the text, by name."""

    ids: tuple[int, ...]
    ended: bool
    figures: Mapping[str, float]


class Generator(Protocol):
    """Answers prompts with one language model, greedily."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything beside model and prompts that answers depend on, in plain values."""
        ...

    def answers(self, model: LanguageModel, prompts: Sequence[Sequence[int]]) -> list[Generated | ScoreError]:
        """The answer to each prompt in order, or why there is none."""
        ...


class Contraster(Generator, Protocol):
    """A generator whose answers set what the model says against what it says with heads masked; figures of an answer:
    ``mean_alpha``, the weight of the contrast, mean over ``steps``, and ``tokens_changed``, steps at which the model
    as it is would have said another token."""

    def plain(self, model: LanguageModel, prompts: Sequence[Sequence[int]]) -> list[Generated | ScoreError]:
        """What the model says as it is."""
        ...

    def negatives(self, model: LanguageModel, prompts: Sequence[Sequence[int]]) -> list[Generated | ScoreError]:
        """What it says with the heads masked."""
        ...
