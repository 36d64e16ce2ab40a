"""Seconds by part: only where somebody listens, added up, and of encoding for real."""

from __future__ import annotations

import time

import pytest

from qrcore import Document, load_scorer
from qrcore.records import RankRequest
from qrcore.timing import TOKENISE, part, seconds_by_part
from tests.small_model import HEADS, MODEL


@part("slow")
def slow(seconds: float, *, fails: bool = False) -> str:
    time.sleep(seconds)
    if fails:
        raise ValueError("broken")
    return "done"


def test_parts_add_up_for_the_one_who_listens() -> None:
    assert slow(0) == "done"
    with seconds_by_part() as outer:
        slow(0.02)
        with seconds_by_part() as inner:
            slow(0.01)
        with pytest.raises(ValueError, match="broken"):
            slow(0.02, fails=True)
    slow(0.02)
    assert 0.04 <= outer["slow"] < 10
    assert set(inner) == set(outer) == {"slow"}
    assert inner["slow"] >= 0.01
    with seconds_by_part() as nothing:
        pass
    assert nothing == {}


def test_tokenising_is_a_part_of_ranking() -> None:
    scorer = load_scorer(MODEL, heads=HEADS)
    request = RankRequest("which bee", (Document("a", "a bee"), Document("b", "a town")))
    started = time.perf_counter()
    with seconds_by_part() as spent:
        answers = list(scorer.rank_many([request, request]))
    seconds = time.perf_counter() - started
    assert len(answers) == 2
    assert 0 < spent[TOKENISE] < seconds
