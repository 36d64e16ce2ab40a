"""Rates against the method's own arithmetic, their intervals, and differences that are paired."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.flips.rates import Draws, Entry, estimates, mean_estimate
from qrcore.contracts.auditor import Verdict
from qrcore.methods.flip_audit import flip_rates

_ENTRY = st.builds(
    Entry,
    query_id=st.sampled_from(["a", "b", "c", "d"]),
    injected=st.booleans(),
    correct=st.booleans(),
    stands=st.booleans(),
    score=st.sampled_from([-0.5, 0.0, 0.25, 0.75]),
    coherent=st.booleans(),
)


def _draws(entries: list[Entry]) -> Draws:
    return Draws.of([entry.query_id for entry in entries], rounds=50)


@given(st.lists(_ENTRY, min_size=1, max_size=12))
def test_values_are_those_of_the_method(entries: list[Entry]) -> None:
    entries = [replace(one, correct=one.correct and not one.injected, stands=one.score >= 0) for one in entries]
    found = estimates(entries, _draws(entries))
    rows = [(one.correct, Verdict(one.score, 0.0, 0.0, 0.0, one.coherent)) for one in entries]
    expected = flip_rates(rows)
    for name in ("yes_correct", "auroc", "accuracy"):
        value = getattr(expected, name)
        assert (name in found) == (value is not None)
        if value is not None:
            assert found[name].value == pytest.approx(value)
    own = flip_rates([row for row, one in zip(rows, entries, strict=True) if not one.injected])
    assert ("yes_wrong" in found) == (own.yes_wrong is not None)
    if own.yes_wrong is not None:
        assert found["yes_wrong"].value == pytest.approx(own.yes_wrong)


@given(st.lists(_ENTRY, min_size=2, max_size=12))
def test_a_round_is_the_rate_of_the_queries_it_draws(entries: list[Entry]) -> None:
    entries = [replace(one, correct=one.correct and not one.injected) for one in entries]
    draws = _draws(entries)
    found = estimates(entries, draws)
    for number in range(5):
        drawn = [entry for entry in entries for _ in range(int(draws.counts[number, draws.places[entry.query_id]]))]
        again = estimates(drawn, Draws.of([entry.query_id for entry in drawn], rounds=1)) if drawn else {}
        for name, estimate in found.items():
            value = estimate.rounds[number]
            assert np.isnan(value) if name not in again else value == pytest.approx(again[name].value)


def _entries(stands: list[bool]) -> list[Entry]:
    return [Entry(f"q{n}", False, n % 2 == 0, stand, 0.1 * n, True) for n, stand in enumerate(stands)]


def test_differences_are_paired_and_controls_are_meaned_round_by_round() -> None:
    before, after = _entries([True, False] * 20), _entries([True, True] * 20)
    draws = _draws(before)
    one, other = estimates(before, draws), estimates(after, draws)
    same = one["accuracy"].minus(one["accuracy"])
    assert (same.value, same.bounds) == (0.0, (0.0, 0.0)), "the same queries are drawn for both"
    assert other["yes_wrong"].minus(one["yes_wrong"]).value == 1.0
    mean = mean_estimate([one["accuracy"], other["accuracy"]])
    assert mean.value == pytest.approx(0.75)
    low, high = mean.bounds
    assert low < 0.75 < high
    again = estimates(before, Draws.of([entry.query_id for entry in reversed(before)], rounds=50))
    assert np.array_equal(again["accuracy"].rounds, one["accuracy"].rounds)


def test_entries_of_one_query_are_drawn_together() -> None:
    doubled = [
        replace(entry, query_id=f"q{n // 2}") for n, entry in enumerate(_entries([True, True, False, False] * 8))
    ]
    alone = [replace(entry, query_id=f"q{n}") for n, entry in enumerate(doubled)]
    wide, narrow = (
        estimates(entries, Draws.of([one.query_id for one in entries], rounds=2000))["yes_correct"].bounds
        for entries in (doubled, alone)
    )
    assert wide[1] - wide[0] >= narrow[1] - narrow[0]
