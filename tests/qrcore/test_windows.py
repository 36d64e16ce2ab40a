"""Windows, survivors and orders: what the pure decisions promise, whatever the scores are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrcore.errors import ConfigError
from qrcore.windows import (
    ContextSettings,
    Item,
    Standing,
    cut_windows,
    final_order,
    going_on,
    in_context_order,
    pool,
    standings,
)

TOURNAMENT = ContextSettings(policy="tournament")
sizes = st.lists(st.integers(1, 20), min_size=1, max_size=40)


@given(tokens=sizes, room=st.integers(20, 60))
def test_windows_cover_everything_once_fit_and_are_as_few_as_can_be(tokens: list[int], room: int) -> None:
    windows = cut_windows(tokens, room)
    assert [place for start, stop in windows for place in range(start, stop)] == list(range(len(tokens)))
    assert all(sum(tokens[start:stop]) <= room for start, stop in windows)
    greedy, used = 1, 0
    for size in tokens:
        greedy, used = (greedy, used + size) if used + size <= room else (greedy + 1, size)
    assert len(windows) == greedy


@given(tokens=sizes, room=st.integers(20, 60))
def test_no_other_cut_of_as_many_windows_has_a_smaller_largest_one(tokens: list[int], room: int) -> None:
    windows = cut_windows(tokens, room)
    largest = max(sum(tokens[start:stop]) for start, stop in windows)
    assert len(cut_windows(tokens, largest - 1)) > len(windows) or largest == max(tokens)


def test_windows_do_not_depend_on_a_little_room_more_or_less() -> None:
    assert cut_windows([10] * 30, 100) == cut_windows([10] * 30, 109) == [(0, 10), (10, 20), (20, 30)]
    assert cut_windows([10] * 11, 100) == [(0, 6), (6, 11)]
    assert cut_windows([], 10) == []


def test_standings_pool_pieces_and_break_ties_by_input_rank_and_id() -> None:
    items = [Item(0), Item(1, 0), Item(1, 1), Item(2), Item(3)]
    found = standings(1, 4, items, [1.0, -1.0, 3.0, 1.0, 1.0], [(2, "b"), (9, "x"), (2, "a"), (1, "z")], TOURNAMENT)
    assert [(one.document, one.rank, one.score) for one in found] == [
        (1, 1, 3.0),
        (3, 2, 1.0),
        (2, 3, 1.0),
        (0, 4, 1.0),
    ]
    assert found[0].pieces == (Item(1, 1), Item(1, 0))
    assert {(one.round, one.prompt) for one in found} == {(1, 4)}


def test_pooling() -> None:
    mean = ContextSettings(policy="tournament", pooling="mean", pool_top=2)
    assert pool([0.5, 4.0, 1.0], TOURNAMENT) == 4.0
    assert pool([0.5, 4.0, 1.0], mean) == 2.5
    assert pool([0.1], mean) == 0.1


def ranked(prompt: int, *pieces: tuple[Item, ...]) -> list[Standing]:
    return [Standing(of[0].document, 1, prompt, rank, -rank, of) for rank, of in enumerate(pieces, start=1)]


def test_the_best_of_each_window_go_on_and_at_most_half_of_it() -> None:
    first = ranked(0, *[(Item(n),) for n in (3, 1, 2, 0)])
    second = ranked(1, (Item(4),))
    assert going_on([first, second], TOURNAMENT) == [(Item(3),), (Item(4),), (Item(1),)]
    assert going_on([first, second], ContextSettings(policy="tournament", survivors=1)) == [(Item(3),), (Item(4),)]
    assert in_context_order([(Item(3),), (Item(4),), (Item(1),)]) == [Item(1), Item(3), Item(4)]


def test_a_document_goes_on_with_its_best_pieces() -> None:
    window = ranked(0, (Item(0, 2), Item(0, 0), Item(0, 1)), (Item(1, 1), Item(1, 0)), (Item(2),))
    assert going_on([window], TOURNAMENT) == [(Item(0, 2),), (Item(1, 1),), (Item(2),)]
    mean = ContextSettings(policy="tournament", pooling="mean", pool_top=2)
    assert going_on([window], mean) == [(Item(0, 2), Item(0, 0)), (Item(1, 1),)]


def test_the_last_round_decides_then_the_rank_in_it_then_the_input() -> None:
    ties = [(place + 1, str(place)) for place in range(5)]
    first = [
        [Standing(0, 1, 0, 1, 9.0, ()), Standing(1, 1, 0, 2, 8.0, ()), Standing(2, 1, 0, 3, 7.0, ())],
        [Standing(3, 1, 1, 1, 0.3, ()), Standing(4, 1, 1, 2, 0.2, ())],
    ]
    last = [[Standing(3, 2, 0, 1, 5.0, ()), Standing(0, 2, 0, 2, -1.0, ())]]
    order = final_order([first, last], ties)
    assert [(one.document, one.round, one.score) for one in order] == [
        (3, 2, 5.0),
        (0, 2, -1.0),
        (1, 1, 8.0),
        (4, 1, 0.2),
        (2, 1, 7.0),
    ]


def test_pieces_in_several_windows_stand_where_the_document_did_best() -> None:
    rounds = [[[Standing(0, 1, 0, 2, 9.0, ())], [Standing(0, 1, 1, 1, 1.0, ())], [Standing(0, 1, 2, 1, 3.0, ())]]]
    assert [(one.prompt, one.score) for one in final_order(rounds, [(1, "a")])] == [(1, 1.0)]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"survivors": 0}, r"contexts\.survivors: expected at least 1, got 0"),
        ({"rounds": 1}, r"contexts\.rounds: expected at least 2, got 1"),
        ({"max_document_tokens": 0}, "expected at least 1"),
        ({"long_documents": "truncate_documents"}, "truncate_documents needs to know where to cut"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ContextSettings(**wrong)  # type: ignore[arg-type]


def test_limits_are_the_smallest_of_what_there_is() -> None:
    assert TOURNAMENT.within(4096).window_tokens == 4096
    found = ContextSettings(policy="tournament", window_tokens=1000).within(4096, sight=2000, largest_pass=600)
    assert (found.window_tokens, found.pass_tokens, found.max_document_tokens) == (1000, 600, 150)
    assert ContextSettings(window_tokens=9000).within(4096, sight=512).window_tokens == 512
    assert ContextSettings(max_document_tokens=7).within(4096).max_document_tokens == 7
    with pytest.raises(ConfigError, match=r"engine\.memory_bytes: expected room"):
        TOURNAMENT.within(4096, largest_pass=0)
