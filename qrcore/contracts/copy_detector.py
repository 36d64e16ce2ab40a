"""The contract of methods that find copying heads: trials in, a value of every head out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from torch import Tensor

from qrcore.errors import ScoreError
from qrcore.heads import ModelShape
from qrcore.models import LanguageModel
from qrcore.records import Span
from qrcore.tokens import PromptEncoder

Answering = Literal["decode", "teacher_forced"]

#: Recall of the needle's tokens above which a trial is a success, as in the published code.
SUCCESS: Final = 0.5


@dataclass(frozen=True, slots=True)
class CopyTrial:
    """A prompt with a needle in it.

    ``prompt_ids``: up to where the answer begins; ``needle``: tokens of the prompt that the answer is to copy;
    ``answer_prefix``: tokens that are given at the beginning of a teacher-forced answer and not counted.
    """

    prompt_ids: tuple[int, ...]
    needle: Span
    answer_prefix: tuple[int, ...] = ()

    @property
    def needle_ids(self) -> tuple[int, ...]:
        """The tokens to copy."""
        return self.prompt_ids[self.needle.start : self.needle.stop]


@dataclass(frozen=True, slots=True, eq=False)
class CopyOutcome:
    """One trial: ``values`` ``[layer, head]`` (float32), the answer's tokens, and the share of the needle's tokens in
    it (``recall``, 0 to 1, with multiplicity)."""

    values: Tensor
    answer_ids: tuple[int, ...]
    recall: float

    @property
    def success(self) -> bool:
        """Whether the trial counts in the conditional mean."""
        return self.recall > SUCCESS


class CopyDetector(Protocol):
    """Says how often each head of a language model copies; a head's score is the mean over trials."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything beside model and trials that values depend on, in plain values."""
        ...

    def outcomes(self, model: LanguageModel, trials: Sequence[CopyTrial]) -> list[CopyOutcome | ScoreError]:
        """The outcome of each trial in order, or why there is none."""
        ...


@dataclass(frozen=True, slots=True)
class PairTrial:
    """A trial that is made, not found: pairs of a key and a value in their order, and the ``place`` (from 0) of the one
    that is asked for."""

    number: int
    pairs: tuple[tuple[str, str], ...]
    place: int

    @property
    def key(self) -> str:
        """The key that is asked for."""
        return self.pairs[self.place][0]


class PairDetector(CopyDetector, Protocol):
    """A copy detector that makes its own trials, in a prompt of its own."""

    def trials(
        self, texts: Sequence[str], encoder: PromptEncoder, max_tokens: int, numbers: Iterable[int]
    ) -> Iterator[PairTrial]:
        """The trials of these ``numbers``, with sentences of ``texts`` as values, for a model that takes
        ``max_tokens``; what a trial is made of depends on its number and on nothing that came before."""
        ...

    def copy_trial(self, encoder: PromptEncoder, pairs: Sequence[tuple[str, str]], place: int) -> CopyTrial:
        """The prompt over the pairs in this order, and the tokens of the value that is asked for."""
        ...

    def top(self, shape: ModelShape) -> int:
        """How many heads of a model are chosen."""
        ...
