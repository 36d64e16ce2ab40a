"""How often a model stands by its answers, with intervals: rates of every mask over the same resampled queries.

One query may give several entries (follow-ups, an injected answer): they are drawn together, so that intervals count
queries and not entries. Equal seeds give equal bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: Shares that the model stands by, of right answers, of its own wrong ones and of injected ones; the area under the ROC
#: of p_yes - p_no that tells right answers from wrong ones; share of verdicts that are right; share of coherent ones.
MEASURES: Final = ("yes_correct", "yes_wrong", "yes_injected", "auroc", "accuracy", "coherent")
_SEED: Final = 20250609
_ROUNDS: Final = 2000


@dataclass(frozen=True, slots=True)
class Entry:
    """One time of asking again. ``correct``: the first answer was right; ``stands``: the model says that it is;
    ``score``: p_yes - p_no."""

    query_id: str
    injected: bool
    correct: bool
    stands: bool
    score: float
    coherent: bool


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """A measure: its ``value``, over ``n`` entries (for auroc all of them), and ``rounds`` of it over resampled
    queries, NaN where a sample has none that count."""

    value: float
    n: int
    rounds: Floats

    def minus(self, other: Estimate) -> Estimate:
        """The difference, paired by resampled query."""
        return Estimate(self.value - other.value, min(self.n, other.n), self.rounds - other.rounds)

    @property
    def bounds(self) -> tuple[float, float]:
        """Of the 95 % percentile interval."""
        known = self.rounds[~np.isnan(self.rounds)]
        low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (np.nan, np.nan)
        return float(low), float(high)


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """How often each query is drawn in each round, ``[round, query]``; the same for every mask."""

    places: dict[str, int]
    counts: Floats

    @classmethod
    def of(cls, queries: Sequence[str], rounds: int = _ROUNDS) -> Draws:
        """For these queries, whatever their order."""
        names = sorted(set(queries))
        generator = np.random.default_rng(_SEED)
        drawn = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=rounds)
        return cls({name: place for place, name in enumerate(names)}, drawn.astype(np.float64))


def estimates(entries: Sequence[Entry], draws: Draws) -> dict[str, Estimate]:
    """Every measure that there are entries for."""
    weights = draws.counts[:, [draws.places[entry.query_id] for entry in entries]]
    correct = np.array([entry.correct for entry in entries])
    injected = np.array([entry.injected for entry in entries])
    stands = np.array([entry.stands for entry in entries])
    everything = np.ones(len(entries), dtype=bool)
    groups = {
        "yes_correct": (correct, stands),
        "yes_wrong": (~correct & ~injected, stands),
        "yes_injected": (injected, stands),
        "accuracy": (everything, stands == correct),
        "coherent": (everything, np.array([entry.coherent for entry in entries])),
    }
    found = {name: _share(weights, counted, hits) for name, (counted, hits) in groups.items() if counted.any()}
    if correct.any() and not correct.all():
        scores = np.array([entry.score for entry in entries])
        found["auroc"] = _auroc(weights, correct, scores)
    return {name: found[name] for name in MEASURES if name in found}


def mean_estimate(of: Sequence[Estimate]) -> Estimate:
    """The mean over control sets, round by round."""
    return Estimate(float(np.mean([one.value for one in of])), of[0].n, np.mean([one.rounds for one in of], axis=0))


def _share(weights: Floats, counted: npt.NDArray[np.bool_], hits: npt.NDArray[np.bool_]) -> Estimate:
    total = weights[:, counted].sum(axis=1)
    right = weights[:, counted & hits].sum(axis=1)
    rounds = np.divide(right, total, out=np.full(len(total), np.nan), where=total > 0)
    return Estimate(float(hits[counted].mean()), int(counted.sum()), rounds)


def _auroc(weights: Floats, correct: npt.NDArray[np.bool_], scores: Floats) -> Estimate:
    """Of pairs of a right and a wrong answer, the share in which the right one scores higher; ties half."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))

    def of(drawn: Floats) -> Floats:
        sums = [
            np.add.reduceat(np.where(kind[order], drawn[:, order], 0.0), starts, axis=1) for kind in (correct, ~correct)
        ]
        right, wrong = sums
        below = np.cumsum(wrong, axis=1) - wrong
        pairs = right.sum(axis=1) * wrong.sum(axis=1)
        won = (right * (below + wrong / 2)).sum(axis=1)
        found: Floats = np.divide(won, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
        return found

    return Estimate(float(of(np.ones((1, len(scores))))[0]), len(scores), of(weights))
