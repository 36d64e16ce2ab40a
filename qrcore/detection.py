"""From values of heads on examples to a choice of heads, and how far the choice can be trusted.

Values are ``[example, head]`` float64; NaN where an example says nothing of a head. All functions are pure, and equal
seeds give equal answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qrcore.errors import ConfigError, InputError
from qrcore.heads import Head

Values = npt.NDArray[np.float64]

_ROUNDS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class HeadScore:
    """A head's mean over examples, their standard deviation (n - 1; 0 for one example), and the bounds of the mean's
    95 % bootstrap interval."""

    head: Head
    score: float
    std: float
    examples: int
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Stability:
    """How much of a choice survives another draw of examples.

    ``overlap``: mean share of heads that two disjoint halves of the examples both choose; ``chance``: the same for
    random choices; ``kept``: of each chosen head, the share of halves that choose it too.
    """

    overlap: float
    chance: float
    kept: dict[Head, float]
    draws: int


def head_scores(heads: Sequence[Head], values: Values, seed: int = 0, rounds: int = 2000) -> tuple[HeadScore, ...]:
    """Every head's score, best first; equal ones in the order of layer and head.

    Raises :class:`InputError` without examples, or if a head has no value at all.
    """
    _check(heads, values)
    counts = (~np.isnan(values)).sum(axis=0)
    means = np.nanmean(values, axis=0)
    lows, highs = _bootstrap(values, seed, rounds)
    deviations = np.sqrt(np.nansum((values - means) ** 2, axis=0) / np.maximum(counts - 1, 1))
    scored = (
        HeadScore(head, float(mean), float(std), int(count), float(low), float(high))
        for head, mean, std, count, low, high in zip(heads, means, deviations, counts, lows, highs, strict=True)
    )
    return tuple(sorted(scored, key=lambda one: (-one.score, one.head)))


def choose_heads(ranked: Sequence[HeadScore], top: int, max_layer: int | None = None) -> tuple[HeadScore, ...]:
    """The ``top`` best heads, best first; with ``max_layer`` only of the layers up to it: those above need not run.

    Raises :class:`ConfigError` if there are not so many.
    """
    allowed = [one for one in ranked if max_layer is None or one.head.layer <= max_layer]
    if not 1 <= top <= len(allowed):
        below = "" if max_layer is None else f" up to layer {max_layer}"
        raise ConfigError(f"top: expected 1 to {len(allowed)} heads{below}, got {top}. Choose another number.")
    return tuple(allowed[:top])


def stability(heads: Sequence[Head], values: Values, top: int, seed: int = 0, draws: int = 50) -> Stability | None:
    """Choices on random disjoint halves of the examples against one another and against that on all of them.

    None with fewer than two examples: there are no halves.
    """
    _check(heads, values)
    examples = len(values)
    if examples < 2:
        return None
    whole = _best(values, top)
    overlaps, kept = [], np.zeros(len(heads))
    for draw in range(draws):
        order = np.random.default_rng((seed, draw)).permutation(examples)
        first, second = (_best(values[half], top) for half in (order[: examples // 2], order[examples // 2 :]))
        overlaps.append(len(first & second) / top)
        for half in (first, second):
            kept[list(half)] += 1
    shares = {heads[place]: float(kept[place] / (2 * draws)) for place in sorted(whole, key=lambda one: heads[one])}
    return Stability(float(np.mean(overlaps)), top / len(heads), shares, draws)


def _best(values: Values, top: int) -> set[int]:
    with np.errstate(invalid="ignore"):
        sums, counts = np.nansum(values, axis=0), (~np.isnan(values)).sum(axis=0)
        means = np.where(counts > 0, sums / np.maximum(counts, 1), -np.inf)
    return set(np.argsort(-means, kind="stable")[:top].tolist())


def _bootstrap(values: Values, seed: int, rounds: int) -> tuple[Values, Values]:
    """Bounds ``[head]`` of the 95 % percentile interval of each head's mean over resampled examples."""
    generator = np.random.default_rng(seed)
    there = ~np.isnan(values)
    filled = np.where(there, values, 0.0)
    means = []
    for start in range(0, rounds, _ROUNDS_AT_ONCE):
        at_once = min(_ROUNDS_AT_ONCE, rounds - start)
        weights = generator.multinomial(len(values), np.full(len(values), 1 / len(values)), size=at_once)
        counts = weights @ there
        drawn = np.divide(weights @ filled, counts, out=np.full(counts.shape, np.nan), where=counts > 0)
        means.append(drawn)
    low, high = np.nanpercentile(np.concatenate(means), [2.5, 97.5], axis=0)
    return low, high


def _check(heads: Sequence[Head], values: Values) -> None:
    if values.ndim != 2 or values.shape[1] != len(heads):
        raise InputError(
            f"values: expected [example, {len(heads)} heads], got {list(values.shape)}. Check the capture."
        )
    if not len(values):
        raise InputError("examples: expected at least one that can be used, got none. Give labelled examples.")
    empty = [str(head) for place, head in enumerate(heads) if np.isnan(values[:, place]).all()]
    if empty:
        raise InputError(
            f"values: expected a number for every head in some example, got only NaN for {', '.join(empty[:3])}. "
            "Run again with dtype=float32."
        )
