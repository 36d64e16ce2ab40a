"""How answers are judged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrcore.answers import normalised, pair_accuracy, score_answer, verdict, without_mark


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("The Eiffel Tower.", ["eiffel tower"], (1.0, 1.0, 1.0)),
        ("It is the Eiffel Tower in Paris", ["Eiffel Tower"], (0.0, 1.0, 2 * 2 / (6 + 2))),
        ("blue", ["red", "Blue!"], (1.0, 1.0, 1.0)),
        ("seven", ["7"], (0.0, 0.0, 0.0)),
        ("", ["x"], (0.0, 0.0, 0.0)),
        ("x", [], (0.0, 0.0, 0.0)),
        ("…", ["the"], (1.0, 1.0, 1.0)),
        ("x", ["the"], (0.0, 0.0, 0.0)),
        ("red red blue", ["red blue blue"], (0.0, 0.0, 2 / 3)),
    ],
)
def test_an_answer_is_judged_by_the_gold_answer_that_fits_best(
    answer: str, gold: list[str], expected: tuple[float, float, float]
) -> None:
    assert score_answer(answer, gold) == pytest.approx(expected)


@given(st.text(max_size=30), st.lists(st.text(max_size=30), max_size=3))
def test_measures_lie_between_zero_and_one_and_imply_one_another(answer: str, gold: list[str]) -> None:
    found = score_answer(answer, gold)
    assert all(0 <= value <= 1 for value in found)
    assert found.exact_match <= found.sub_em and found.exact_match <= found.token_f1 + 1e-12
    assert score_answer(answer, [answer, *gold]) == (1.0, 1.0, 1.0)


def test_normalising_leaves_words() -> None:
    assert normalised("  A «Naïve»  answer: the U.S.A.! ") == "naïve answer usa"
    assert without_mark(" [12] The sea.") == "The sea." and without_mark("See [12].") == "See [12]."


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("TRUE", "TRUE"),
        ("<answer>false</answer>", "FALSE"),
        ("It is not true, so FALSE.", "FALSE"),
        ("untrue", None),
        ("", None),
    ],
)
def test_a_verdict_is_the_last_word_of_its_kind(answer: str, expected: str | None) -> None:
    assert verdict(answer) == expected


def test_a_pair_is_right_as_a_whole_or_not() -> None:
    pairs = {
        "both": [("TRUE", "TRUE"), ("false.", "FALSE")],
        "one": [("TRUE", "TRUE"), ("TRUE", "FALSE")],
        "no twin": [("TRUE", "TRUE")],
        "silent": [("", "TRUE"), ("FALSE", "FALSE")],
    }
    assert pair_accuracy(pairs) == {"both": 1.0, "one": 0.0, "no twin": 0.0, "silent": 0.0}
