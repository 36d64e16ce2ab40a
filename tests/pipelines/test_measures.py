"""Measures against values worked out by hand, fusion, and the interval of a difference."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import measures
from pipelines.measures import evaluate, paired_bootstrap, reciprocal_rank_fusion
from qrcore.errors import ConfigError, InputError

RANKINGS = st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True), max_size=4)
VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def test_measures_by_hand() -> None:
    qrels = {"q1": {"a": 1, "b": 2}, "q2": {"c": 1}}
    run = {"q1": ["x", "b", "a"], "q2": ["c", "x"]}
    result = evaluate(qrels, run, ("ndcg@10", "ndcg@2", "recall@1", "recall@2", "success@1"))
    found = 2 / math.log2(3) + 1 / math.log2(4)
    best = 2 / math.log2(2) + 1 / math.log2(3)
    assert result.per_query["ndcg@10"] == pytest.approx({"q1": found / best, "q2": 1.0}, abs=1e-4)
    assert result.per_query["ndcg@2"]["q1"] == pytest.approx(2 / math.log2(3) / best, abs=1e-4)
    assert result.per_query["recall@1"] == {"q1": 0.0, "q2": 1.0}
    assert result.per_query["recall@2"]["q1"] == 0.5
    assert result.means["success@1"] == 0.5


def test_missing_and_empty_rankings_count_zero() -> None:
    qrels = {"q1": {"a": 1}, "q2": {"a": 1}, "q3": {"a": 1}, "q4": {"a": 1}}
    result = evaluate(qrels, {"q1": ["a"], "q2": [], "unjudged": ["a"]})
    assert result.per_query["recall@1"] == {"q1": 1.0, "q2": 0.0, "q3": 0.0, "q4": 0.0}
    assert result.means == {"ndcg@10": 0.25, "recall@1": 0.25, "recall@5": 0.25}


def test_the_given_order_counts() -> None:
    # trec_eval would break ties by doc_id, and keeps scores in single precision.
    documents = [f"d{number:02d}" for number in range(50)]
    for place in (0, 1, 9, 10):
        gain = evaluate({"q": {documents[place]: 1}}, {"q": documents}).means["ndcg@10"]
        assert gain == pytest.approx(1 / math.log2(place + 2) if place < 10 else 0.0, abs=1e-4)


@pytest.mark.parametrize("measure", ["ndcg", "ndcg@0", "mrr@10", "NDCG@10", "recall@5 "])
def test_unknown_measures_are_refused(measure: str) -> None:
    with pytest.raises(ConfigError, match="expected a measure"):
        evaluate({"q": {"a": 1}}, {"q": ["a"]}, [measure])


def test_wrong_input_is_refused() -> None:
    with pytest.raises(InputError, match="ranked twice"):
        evaluate({"q": {"a": 1}}, {"q": ["a", "b", "a"]})
    with pytest.raises(InputError, match="got none"):
        evaluate({}, {"q": ["a"]})


def test_fusion_by_hand() -> None:
    # 1/61 + 1/63 for b beats 1/62 + 1/62 for a; c has 1/63 + nothing; d has nothing + 1/61.
    assert reciprocal_rank_fusion([["b", "a", "c"], ["d", "a", "b"]]) == ["b", "a", "d", "c"]
    # With k = 60 two middling places beat one first place; with k = 0 they do not.
    rankings = [["a", "b", "c", "x"], ["d", "b", "c", "x"]]
    assert reciprocal_rank_fusion(rankings) == ["b", "c", "x", "a", "d"]
    assert reciprocal_rank_fusion(rankings, k=0) == ["a", "b", "d", "c", "x"]


@given(RANKINGS)
def test_fusion_keeps_every_document_once(rankings: list[list[str]]) -> None:
    fused = reciprocal_rank_fusion(rankings)
    assert sorted(fused) == sorted({doc_id for ranking in rankings for doc_id in ranking})


@given(st.lists(st.sampled_from("abcdefgh"), unique=True), st.integers(1, 3))
def test_fusing_a_ranking_with_itself_changes_nothing(ranking: list[str], times: int) -> None:
    assert reciprocal_rank_fusion([ranking] * times) == ranking


def test_fusion_ties_follow_the_first_ranking() -> None:
    assert reciprocal_rank_fusion([["a", "b"], ["b", "a"]]) == ["a", "b"]
    assert reciprocal_rank_fusion([["b", "a"], ["a", "b"]]) == ["b", "a"]
    # Ranks 1, 7, 2 and 2, 1, 7: added one after the other in floating point the second sum is the larger one.
    three = [["a", "b"], ["b", *"vwxyz", "a"], ["m", "a", *"nopq", "b"]]
    assert reciprocal_rank_fusion(three)[:2] == ["a", "b"]


@given(VALUES, st.floats(-1, 1), st.integers(0, 99))
def test_interval_of_a_constant_difference_is_a_point(values: list[float], shift: float, seed: int) -> None:
    b = {str(number): value for number, value in enumerate(values)}
    a = {query_id: value + shift for query_id, value in b.items()}
    difference = paired_bootstrap(a, b, seed, rounds=20)
    assert (difference.mean, difference.low, difference.high) == pytest.approx((shift, shift, shift))


def test_interval_agrees_with_the_normal_one() -> None:
    a = {str(number): (number % 10) / 10 for number in range(400)}
    b = dict.fromkeys(a, 0.2)
    difference = paired_bootstrap(a, b, seed=1, rounds=4000)
    half_width = 1.96 * math.sqrt(sum((value - 0.45) ** 2 for value in a.values()) / 400) / math.sqrt(400)
    assert difference.mean == pytest.approx(0.25)
    assert difference != paired_bootstrap(a, b, seed=2, rounds=4000)
    assert difference == paired_bootstrap(dict(reversed(a.items())), b, seed=1, rounds=4000)
    assert difference.low == pytest.approx(0.25 - half_width, abs=0.003)
    assert difference.high == pytest.approx(0.25 + half_width, abs=0.003)


def test_bootstrap_is_paired_seeded_and_antisymmetric() -> None:
    a = {"q1": 0.1, "q2": 0.9, "q3": 0.4}
    b = {"q3": 0.2, "q1": 0.3, "q2": 0.5}
    forth = paired_bootstrap(a, b, seed=7, rounds=500)
    assert forth == paired_bootstrap(a, b, seed=7, rounds=500)
    back = paired_bootstrap(b, a, seed=7, rounds=500)
    assert (back.mean, back.low, back.high) == pytest.approx((-forth.mean, -forth.high, -forth.low))
    assert forth.mean == pytest.approx((-0.2 + 0.4 + 0.2) / 3)
    assert forth.low <= forth.mean <= forth.high


def test_bootstrap_draws_in_parts_what_it_draws_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    a = {str(number): number % 7 / 7 for number in range(50)}
    whole = paired_bootstrap(a, dict.fromkeys(a, 0.0), seed=3, rounds=100)
    monkeypatch.setattr(measures, "_PLACES_AT_ONCE", 7 * 9)
    assert paired_bootstrap(a, dict.fromkeys(a, 0.0), seed=3, rounds=100) == whole


def test_bootstrap_of_very_many_queries_resamples_them_all() -> None:
    a = {str(number): float(number % 4 == 0) for number in range(100_000)}
    difference = paired_bootstrap(a, dict.fromkeys(a, 0.0), seed=0)
    half_width = 1.96 * math.sqrt(0.25 * 0.75 / 100_000)
    assert (difference.low, difference.high) == pytest.approx((0.25 - half_width, 0.25 + half_width), abs=1e-4)


def test_bootstrap_refuses_different_queries() -> None:
    with pytest.raises(InputError, match="same queries"):
        paired_bootstrap({"q1": 0.1}, {"q2": 0.1}, seed=0)
    with pytest.raises(InputError, match="same queries"):
        paired_bootstrap({}, {}, seed=0)
    with pytest.raises(ConfigError, match="at least 1 round"):
        paired_bootstrap({"q1": 0.1}, {"q1": 0.1}, seed=0, rounds=0)
