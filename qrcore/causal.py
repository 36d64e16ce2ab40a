"""Whether heads do the copying: what a model answers with them held back, and with other heads held back.

Held-back heads attend alike to all keys (:func:`qrcore.attention.gate.uniform`). Wu et al., arXiv 2404.15574, mask
heads and see facts get lost; controls are drawn from the same or later layers, because earlier ones feed the retrieving
heads.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import torch

from qrcore.attention.gate import uniform
from qrcore.attention.logits import next_token_logits
from qrcore.contracts.copy_detector import CopyTrial
from qrcore.errors import ScoreError
from qrcore.heads import Head, ModelShape, all_heads, unique_heads
from qrcore.models import LanguageModel, out_of_memory_as_error

#: Draws for one set before there are taken to be no more.
_DRAWS_PER_SET: Final = 50


@dataclass(frozen=True, slots=True)
class CopyAccuracy:
    """One teacher-forced trial: the share of the needle's tokens that the model says next, and whether it says every
    token of the answer before it (None where none is given)."""

    copied: float
    answered: bool | None


def copy_accuracy(model: LanguageModel, trial: CopyTrial, masked: Iterable[Head] = ()) -> CopyAccuracy:
    """The model's own next tokens in the trial with ``masked`` heads held back.

    Raises :class:`ScoreError` for a trial that is longer than the model takes, and if logits are no numbers.
    """
    expected = torch.tensor([*trial.answer_prefix, *trial.needle_ids])
    ids = (*trial.prompt_ids, *expected.tolist())
    _check_length(len(ids), model.decoder.source.max_tokens)
    with torch.inference_mode(), out_of_memory_as_error():
        # The row of a token tells the next one.
        logits = next_token_logits(model.model, ids[:-1], len(expected), uniform(masked))
    if not bool(torch.isfinite(logits).all()):
        raise ScoreError(
            "non_finite",
            f"logits: expected finite numbers, got NaN or infinity in {model.model.dtype}. "
            "Run again with dtype=float32.",
            stage="score",
        )
    right = logits.argmax(dim=-1).cpu() == expected
    given = len(trial.answer_prefix)
    return CopyAccuracy(float(right[given:].float().mean()), bool(right[:given].all()) if given else None)


def draw_controls(chosen: Sequence[Head], heads: Sequence[Head], count: int, seed: int) -> list[tuple[Head, ...]]:
    """Up to ``count`` distinct sets of as many heads as ``chosen``, from the other ``heads`` of its first layer or
    later ones; all there are if there are no more."""
    first = min(head.layer for head in chosen)
    others = sorted(head for head in heads if head.layer >= first and head not in chosen)
    if math.comb(len(others), len(chosen)) <= count:
        return list(combinations(others, len(chosen)))
    draw = random.Random(seed)
    found: dict[tuple[Head, ...], None] = {}
    while len(found) < count:
        found[tuple(sorted(draw.sample(others, len(chosen))))] = None
    return list(found)


def draw_same_layer(chosen: Sequence[Head], shape: ModelShape, count: int, seed: int) -> list[tuple[Head, ...]]:
    """Up to ``count`` distinct sets of heads outside ``chosen``, with as many in each layer as ``chosen`` has there.

    Where a layer has too few others, the rest comes from the other layers from the first of ``chosen`` on; fewer sets
    where there are no more, none where the model has too few heads.
    """
    heads = unique_heads(chosen)
    first = min(head.layer for head in heads)
    others = [head for head in all_heads(shape).head_list if head.layer >= first and head not in heads]
    if len(others) < len(heads):
        return []
    draw = random.Random(seed)
    found: dict[tuple[Head, ...], None] = {}
    for _ in range(count * _DRAWS_PER_SET):
        if len(found) == count:
            break
        found[_one_like(heads, others, draw)] = None
    return list(found)


def _one_like(chosen: Sequence[Head], others: Sequence[Head], draw: random.Random) -> tuple[Head, ...]:
    drawn: list[Head] = []
    for layer, wanted in sorted(Counter(head.layer for head in chosen).items()):
        there = [head for head in others if head.layer == layer]
        drawn += draw.sample(there, min(wanted, len(there)))
    rest = [head for head in others if head not in drawn]
    return tuple(sorted([*drawn, *draw.sample(rest, len(chosen) - len(drawn))]))


def _check_length(tokens: int, limit: int) -> None:
    if tokens > limit:
        raise ScoreError(
            "context_too_long",
            f"trial: expected at most {limit} tokens with its answer for this model, got {tokens}. "
            "Use shorter haystacks.",
            stage="tokenise",
        )
