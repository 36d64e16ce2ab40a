"""Scores, choices and their stability from values of heads on examples."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrcore.detection import choose_heads, head_scores, stability
from qrcore.errors import ConfigError, InputError
from qrcore.heads import Head

HEADS = tuple(Head(layer, head) for layer in range(3) for head in range(2))


def _values(seed: int = 0, examples: int = 30, spread: float = 0.1) -> np.ndarray:
    """Heads 2-1, 1-0, 0-1, … in falling order."""
    levels = np.array([0.1, 0.5, 0.7, 0.3, 0.2, 0.9])
    return levels + np.random.default_rng(seed).normal(scale=spread, size=(examples, 6))


def test_scores_are_means_and_deviations_best_first() -> None:
    values = _values()
    ranked = head_scores(HEADS, values)
    assert [str(one.head) for one in ranked] == ["2-1", "1-0", "0-1", "1-1", "2-0", "0-0"]
    for one in ranked:
        own = values[:, HEADS.index(one.head)].tolist()
        assert one.score == pytest.approx(statistics.fmean(own))
        assert one.std == pytest.approx(statistics.stdev(own))
        assert one.examples == 30
        error = one.std / 30**0.5
        assert one.low == pytest.approx(one.score - 1.96 * error, abs=0.4 * error)
        assert one.high == pytest.approx(one.score + 1.96 * error, abs=0.4 * error)


def test_equal_scores_keep_the_order_of_layers_and_heads() -> None:
    assert [one.head for one in head_scores(HEADS, np.ones((3, 6)))] == list(HEADS)


def test_examples_that_say_nothing_of_a_head_do_not_count_for_it() -> None:
    values = _values(examples=4)
    values[1:, 0] = np.nan
    one = next(one for one in head_scores(HEADS, values) if one.head == HEADS[0])
    assert (one.examples, one.score, one.std) == (1, pytest.approx(values[0, 0]), 0.0)
    assert one.low == one.high == pytest.approx(values[0, 0])


def test_intervals_cover_the_true_mean_as_often_as_they_say() -> None:
    covered = [
        one.low <= level <= one.high
        for seed in range(40)
        for one in head_scores(HEADS, _values(seed, examples=40), seed=seed, rounds=500)
        for level in [np.array([0.1, 0.5, 0.7, 0.3, 0.2, 0.9])[HEADS.index(one.head)]]
    ]
    assert 0.88 < np.mean(covered) < 0.99


def test_a_depth_budget_leaves_layers_above_out() -> None:
    ranked = head_scores(HEADS, _values())
    assert [str(one.head) for one in choose_heads(ranked, 2)] == ["2-1", "1-0"]
    assert [str(one.head) for one in choose_heads(ranked, 2, max_layer=1)] == ["1-0", "0-1"]
    with pytest.raises(ConfigError, match="expected 1 to 2 heads up to layer 0, got 3"):
        choose_heads(ranked, 3, max_layer=0)
    with pytest.raises(ConfigError, match="expected 1 to 6 heads, got 0"):
        choose_heads(ranked, 0)


def test_clear_choices_are_stable_and_random_ones_are_not() -> None:
    clear = stability(HEADS, _values(), top=2)
    assert clear is not None
    assert (clear.overlap, clear.chance) == (1.0, pytest.approx(1 / 3))
    assert clear.kept == {Head(1, 0): 1.0, Head(2, 1): 1.0}
    noise = [np.random.default_rng(seed).normal(size=(30, 6)) for seed in range(30)]
    drawn = [one for values in noise if (one := stability(HEADS, values, top=2, draws=20))]
    assert np.mean([one.overlap for one in drawn]) < 0.5
    assert np.mean([min(one.kept.values()) for one in drawn]) < 0.8


@given(st.integers(2, 9), st.integers(1, 6))
def test_halves_share_no_example(examples: int, top: int) -> None:
    """Each example favours heads of its own: disjoint halves can then not choose alike."""
    values = np.zeros((2, 6))
    values[0, :3], values[1, 3:] = 1.0, 1.0
    found = stability(HEADS, np.repeat(values, 1, axis=0), top=min(top, 3), draws=examples)
    assert found is not None and found.overlap == 0.0


def test_one_example_has_no_halves() -> None:
    assert stability(HEADS, _values(examples=1), top=2) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((0, 6)), "at least one that can be used"),
        (np.zeros((3, 5)), r"expected \[example, 6 heads\], got \[3, 5\]"),
        (np.full((3, 6), np.nan), "only NaN for 0-0, 0-1, 1-0"),
    ],
)
def test_values_that_cannot_be_used(values: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        head_scores(HEADS, values)
