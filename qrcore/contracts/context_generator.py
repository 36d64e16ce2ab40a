"""The contract of methods that answer from documents which they choose themselves: a question and documents in, one
answer a variant out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from qrcore.errors import ScoreError
from qrcore.models import LanguageModel
from qrcore.records import Document


@dataclass(frozen=True, slots=True)
class ContextAnswer:
    """The new tokens of one answer; ``ended``: an end token came, not the limit.

    ``shown``: places of the given documents in the order of the prompt, which had so many tokens (``prompt_tokens``);
    ``steered``: those of them that attention was pushed to.
    """

    ids: tuple[int, ...]
    ended: bool
    prompt_tokens: int
    shown: tuple[int, ...]
    steered: tuple[int, ...]


class ContextGenerator(Protocol):
    """Answers questions over documents with one language model, in several variants, of which the first is its own."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything beside model, questions and documents that answers depend on, in plain values."""
        ...

    def answers(
        self,
        model: LanguageModel,
        question: str,
        documents: Sequence[Document],
        variants: Sequence[str],
        gold: Sequence[int] = (),
    ) -> dict[str, ContextAnswer | ScoreError]:
        """The answer of each variant, or why there is none. ``gold``: places of the right documents, for variants
        that need them."""
        ...
