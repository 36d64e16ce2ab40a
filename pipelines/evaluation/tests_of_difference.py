"""How sure a mean and a difference of means are: bootstrap over queries, randomisation test, Holm's correction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Final

import numpy as np

from pipelines.measures import Difference, paired_bootstrap
from qrcore.errors import InputError

_AT_ONCE: Final = 4 * 2**20  # signs held at once


def mean_interval(values: Mapping[str, float], seed: int, rounds: int) -> Difference:
    """The mean over queries and its 95 % percentile bootstrap interval."""
    return paired_bootstrap(values, dict.fromkeys(values, 0.0), seed, rounds)


def randomisation_test(a: Mapping[str, float], b: Mapping[str, float], seed: int, rounds: int) -> float:
    """The two-sided p-value of the paired randomisation test of equal means (Fisher; Smucker et al., CIKM 2007).

    Each round swaps the two runs' values of every query with chance one half; the rounds include the data themselves,
    so that p is never 0. Raises :class:`InputError` unless both are over the same queries.
    """
    if not a or a.keys() != b.keys():
        raise InputError(
            f"expected values for the same queries, got {len(a)} and {len(b)}. Evaluate both against the same qrels."
        )
    differences = np.array([a[query_id] - b[query_id] for query_id in sorted(a)])
    different = differences[differences != 0]
    if not len(different):
        return 1.0
    observed = abs(different.sum())
    generator = np.random.default_rng(seed)
    at_once, beyond = max(1, _AT_ONCE // len(different)), 0
    for start in range(0, rounds, at_once):
        signs = generator.integers(0, 2, size=(min(at_once, rounds - start), len(different)), dtype=np.int8) * 2 - 1
        # A sum that equals the observed one but for its last digits is as extreme.
        beyond += int((np.abs(signs @ different) >= observed * (1 - 1e-12)).sum())
    return (beyond + 1) / (rounds + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of one family of tests, in the order given (Holm 1979)."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for step, place in enumerate(sorted(range(len(p_values)), key=lambda one: p_values[one])):
        highest = max(highest, min(1.0, (len(p_values) - step) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def mean(values: Mapping[str, float]) -> float:
    """The mean over queries."""
    return fmean(values.values())
