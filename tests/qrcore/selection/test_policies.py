"""What every policy and the budget guarantee, over any scored context."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qrcore import selection
from qrcore.errors import ConfigError
from qrcore.selection import NO_POSITIVE_SCORE, Piece, fill, ordered

SETTINGS: dict[str, Any] = {"top": 3, "mass": 0.6, "relative": 0.5, "around": 1, "per_source": 1}


@st.composite
def contexts(draw: st.DrawFn) -> list[Piece]:
    count = draw(st.integers(1, 12))
    ranks = draw(st.permutations(range(1, count + 1)))
    scores = sorted(draw(st.lists(st.floats(-2, 5), min_size=count, max_size=count)), reverse=True)
    final = draw(st.integers(1, count))
    return [
        Piece(
            f"d{place}",
            place,
            rank,
            scores[rank - 1],
            draw(st.integers(0, 9)),
            final=rank <= final,
            source=draw(st.sampled_from([None, "a", "b"])),
        )
        for place, rank in enumerate(ranks)
    ]


def piece(position: int, rank: int, score: float = 1.0, **changes: Any) -> Piece:
    return Piece(f"d{position}", position, rank, score, **{"tokens": 1, **changes})


@pytest.mark.parametrize("name", selection.names())
@settings(max_examples=40)
@given(pieces=contexts(), budget=st.none() | st.integers(0, 40), overhead=st.integers(0, 2))
def test_no_piece_twice_and_never_over_the_budget(
    name: str, pieces: list[Piece], budget: int | None, overhead: int
) -> None:
    wanted = selection.policy(name)(pieces, SETTINGS)
    assert wanted == selection.policy(name)(list(reversed(pieces)), SETTINGS)
    kept = fill(pieces, wanted.positions, budget, overhead)
    assert len(set(kept)) == len(kept) and set(kept) <= set(wanted.positions) <= {one.position for one in pieces}
    tokens = {one.position: one.tokens for one in pieces}
    assert budget is None or sum(tokens[place] + overhead for place in kept) <= budget
    assert wanted.positions


@settings(max_examples=40)
@given(pieces=contexts(), small=st.integers(0, 40), more=st.integers(0, 20))
def test_a_larger_budget_keeps_what_a_smaller_one_keeps_when_the_first_overflow_stops(
    pieces: list[Piece], small: int, more: int
) -> None:
    wanted = selection.policy("token_budget")(pieces, SETTINGS).positions
    assert set(fill(pieces, wanted, small, overflow="stop")) <= set(fill(pieces, wanted, small + more, overflow="stop"))


@pytest.mark.parametrize(
    ("name", "field", "sizes"),
    [
        ("top_k", "top", st.tuples(st.integers(1, 12), st.integers(1, 12))),
        ("neighbours", "top", st.tuples(st.integers(1, 12), st.integers(1, 12))),
        ("neighbours", "around", st.tuples(st.integers(0, 4), st.integers(0, 4))),
        ("source_quota", "per_source", st.tuples(st.integers(1, 4), st.integers(1, 4))),
        ("score_mass", "mass", st.tuples(st.floats(0.01, 1), st.floats(0.01, 1))),
    ],
)
@settings(max_examples=40)
@given(pieces=contexts(), data=st.data())
def test_nested_policies(name: str, field: str, sizes: Any, pieces: list[Piece], data: st.DataObject) -> None:
    low, high = sorted(data.draw(sizes))
    base = {**SETTINGS, "top": 99} if name == "source_quota" else SETTINGS
    small, large = (selection.policy(name)(pieces, {**base, field: value}) for value in (low, high))
    assert set(small.positions) <= set(large.positions)


@settings(max_examples=40)
@given(pieces=contexts(), relative=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)))
def test_a_lower_threshold_keeps_more(pieces: list[Piece], relative: tuple[float, float]) -> None:
    low, high = sorted(relative)
    strict, loose = (
        selection.policy("relative_threshold")(pieces, {**SETTINGS, "relative": value}) for value in (high, low)
    )
    assert set(strict.positions) <= set(loose.positions)


@settings(max_examples=40)
@given(pieces=contexts())
def test_orders(pieces: list[Piece]) -> None:
    positions = [one.position for one in pieces]
    rank = {one.position: one.rank for one in pieces}
    assert ordered(pieces, positions[::-1], "original") == sorted(positions)
    assert [rank[place] for place in ordered(pieces, positions, "best_first")] == sorted(rank.values())
    assert [rank[place] for place in ordered(pieces, positions, "best_last")] == sorted(rank.values(), reverse=True)


def test_budgets_skip_what_is_too_large_or_stop_there() -> None:
    pieces = [piece(0, 1, tokens=5), piece(1, 2, tokens=9), piece(2, 3, tokens=2)]
    assert fill(pieces, [0, 1, 2], 8) == [0, 2]
    assert fill(pieces, [0, 1, 2], 8, overflow="stop") == [0]
    assert fill(pieces, [0, 1, 2], 8, overhead_tokens=1) == [0]
    assert fill(pieces, [0, 1, 2], None) == [0, 1, 2]


@pytest.mark.parametrize("name", ["score_mass", "relative_threshold"])
def test_scores_count_in_the_final_prompt_only(name: str) -> None:
    pieces = [piece(0, 1, 4.0), piece(1, 2, 2.0), piece(2, 3, 9.0, final=False)]
    assert selection.policy(name)(pieces, {**SETTINGS, "mass": 1.0}).positions == (0, 1)
    negative = [piece(0, 2, -1.0), piece(1, 1, 0.0)]
    assert selection.policy(name)(negative, SETTINGS) == ((1,), (NO_POSITIVE_SCORE,))


def test_score_mass_takes_as_few_as_reach_it() -> None:
    pieces = [piece(0, 3, 1.0), piece(1, 1, 6.0), piece(2, 2, 3.0), piece(3, 4, -8.0)]
    assert selection.policy("score_mass")(pieces, {**SETTINGS, "mass": 0.6}).positions == (1,)
    assert selection.policy("score_mass")(pieces, {**SETTINGS, "mass": 0.61}).positions == (1, 2)
    assert selection.policy("score_mass")(pieces, {**SETTINGS, "mass": 1.0}).positions == (1, 2, 0)


def test_neighbours_stay_in_their_document() -> None:
    pieces = [piece(place, rank, source=source) for place, rank, source in [(0, 4, "a"), (1, 1, "a"), (2, 2, "b")]]
    assert selection.policy("neighbours")(pieces, {**SETTINGS, "top": 1}).positions == (1, 0)


def test_a_quota_is_per_document() -> None:
    pieces = [piece(0, 1, source="a"), piece(1, 2, source="a"), piece(2, 3, source="b"), piece(3, 4), piece(4, 5)]
    assert selection.policy("source_quota")(pieces, {**SETTINGS, "top": 9}).positions == (0, 2, 3, 4)


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ConfigError, match="neighbours, relative_threshold, score_mass"):
        selection.policy("all")
