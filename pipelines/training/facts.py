"""What a model card is written from: the runs of one model, their data, and what was measured of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from pipelines.training.findings import Findings, ListQuality
from pipelines.training.ranking_study import HEADS
from qrcore.training.model import ModelShape
from qrcore.training.progress import Progress
from qrcore.training.teaching import TaughtHeads

# What helping heads are taught: where they look from, and at what.
_FIND_MARKS: Final = "from tokens of a document at its mark `[i]`"
_FIND_TOKENS_BEFORE: Final = (
    "from tokens of an answer, and of what it copies, at the token before, at the one before that, and so on"
)
_FIND_SENTENCES: Final = "from tokens of a document at the first token of their sentence"
_FIND_ANSWERS: Final = "from a query, and from the mark that begins its answer, at the sentence that answers"
_FIND_COPIES: Final = "from tokens of an answer at the document's token to copy next"


@dataclass(frozen=True, slots=True)
class TrainingText:
    """What one source gave to train on; ``questions`` with their paragraphs, or ``characters`` of text, or both."""

    source: str
    licence: str
    characters: int = 0
    questions: int = 0


@dataclass(frozen=True, slots=True)
class SeedFacts:
    """One training run: its totals, the last state of each of its stages, and what was measured, if anything was."""

    seed: int
    tokens: int
    steps: int
    seconds: float
    machine: str
    stages: tuple[Progress, ...]
    findings: Findings | None = None


@dataclass(frozen=True, slots=True)
class CardFacts:
    """Everything that the card is written from.

    ``limit_tokens``: the longest prompt that was trained; the model takes those of ``shape.max_positions`` tokens.
    ``prompt``: the prompt in one line, and ``notes``: limits that no measurement tells; both are Markdown.
    ``seeds``: every run of this shape, ``shipped``: the seed whose weights the card stands beside.
    ``taught``: heads whose attention had a loss of its own. ``chosen_on``: lists whose dev queries chose the shipped
    seed, empty: all; ``length_on``: the list of quality against length, if it is known.
    """

    name: str
    parameters: int
    file_bytes: int
    shape: ModelShape
    vocabulary: int
    prompt: str
    limit_tokens: int
    texts: tuple[TrainingText, ...]
    seeds: tuple[SeedFacts, ...]
    shipped: int
    taught: TaughtHeads | None = None
    notes: tuple[str, ...] = ()
    chosen_on: tuple[str, ...] = ()
    length_on: str | None = None

    @property
    def shipped_run(self) -> SeedFacts:
        """The run whose weights are shipped."""
        return {run.seed: run for run in self.seeds}[self.shipped]


def dev_qualities(findings: Findings | None, lists: Collection[str] = ()) -> list[ListQuality]:
    """Quality of the chosen heads on dev queries, of every list or only of those named."""
    return [
        one
        for one in (findings.qualities if findings else ())
        if (one.part, one.method) == ("dev", HEADS) and (not lists or one.name in lists)
    ]


def dev_mean(findings: Findings | None, lists: Collection[str] = ()) -> float | None:
    """Mean nDCG@10 of the chosen heads on dev queries of ``lists`` (empty: all), each list alike; None if none was
    measured."""
    means = [one.ndcg_10.mean for one in dev_qualities(findings, lists)]
    return fmean(means) if means else None


def best_on_dev(seeds: Sequence[SeedFacts], lists: Collection[str] = ()) -> int | None:
    """The seed with the highest dev mean over ``lists`` (empty: all), the first of equal ones; None if none was
    measured."""
    means = {run.seed: mean for run in seeds if (mean := dev_mean(run.findings, lists)) is not None}
    return max(means, key=lambda seed: means[seed]) if means else None


def taught_names(taught: TaughtHeads | None) -> tuple[str, ...]:
    """The heads that were taught to retrieve, as ``layer-head``."""
    return _names(taught.layer, range(taught.heads)) if taught and taught.weight else ()


def helping_heads(taught: TaughtHeads | None, shape: ModelShape) -> dict[str, tuple[str, ...]]:
    """What other heads were taught, and which ones, as ``layer-head``: see
    :class:`~qrcore.training.teaching.TaughtHeads`. Lessons without weight, or of a layer that the model lacks, are
    left out."""
    if not taught or not taught.weight or not taught.marking_heads:
        return {}
    first, last = range(taught.marking_heads), range(shape.heads - taught.marking_heads, shape.heads)
    lessons = (
        (_FIND_MARKS, taught.layer - 1, last, taught.marking_weight),
        (_FIND_TOKENS_BEFORE, taught.layer - 1, first, taught.copying_weight),
        (_FIND_SENTENCES, taught.layer, last, taught.sentence_weight),
        (_FIND_ANSWERS, taught.layer + 1, first, taught.sentence_weight),
        (_FIND_COPIES, taught.layer + 2, first, taught.copying_weight),
    )
    return {
        purpose: _names(layer, heads)
        for purpose, layer, heads, weight in lessons
        if weight and layer in range(shape.layers)
    }


def _names(layer: int, heads: Sequence[int]) -> tuple[str, ...]:
    return tuple(f"{layer}-{head}" for head in heads)
