"""The contract of methods that score documents by what heads do for them: token ids in, losses and influence out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from qrcore.errors import ScoreError
from qrcore.heads import Head
from qrcore.models import LanguageModel


@dataclass(frozen=True, slots=True)
class DocumentInfluence:
    """One document.

    ``n_tokens``: of the text; ``n_scored``: tokens whose loss was taken; ``chunks``: pieces it was scored in, each on
    its own; ``loss_base`` and ``loss_masked``: mean cross-entropy in nats over the scored tokens, as the model is and
    with the heads masked; ``influence``: the relative increase; ``controls``: the influence of every control set;
    ``repetition``: see :func:`repetition_rate`; ``noise``: relative change of the loss in a repeated pass without
    masks, None where it was not asked for.
    """

    n_tokens: int
    n_scored: int
    chunks: int
    loss_base: float
    loss_masked: float
    influence: float
    controls: tuple[float, ...]
    repetition: float
    noise: float | None


class InfluenceScorer(Protocol):
    """Scores documents with one language model."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything beside model and documents that values depend on, in plain values."""
        ...

    def control_sets(self, model: LanguageModel) -> list[tuple[Head, ...]]:
        """The heads of every control set, in the order of a document's ``controls``."""
        ...

    def score(self, model: LanguageModel, documents: Sequence[Sequence[int]]) -> list[DocumentInfluence | ScoreError]:
        """The influence on each document (its token ids, without a BOS token) in order, or why there is none."""
        ...


def repetition_rate(ids: Sequence[int], length: int = 4) -> float:
    """The share of a document's runs of ``length`` tokens that have occurred in it before, 0 to 1."""
    runs = [tuple(ids[start : start + length]) for start in range(len(ids) - length + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
