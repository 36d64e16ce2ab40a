"""From answers to output rows, and from masked answers to samples for tuning."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import pytest

from pipelines.contrast.model import TuningSettings
from pipelines.contrast.rows import answer_columns, chat_line, negative_columns, tuning_rows
from qrcore.contracts.contrast import ContrastedAnswer, ControlAnswer

ANSWER: Final = ContrastedAnswer(
    text="[2] the salt of Orrin.",
    prompt_tokens=50,
    new_tokens=7,
    ended=True,
    mean_alpha=0.5,
    steps=8,
    tokens_changed=2,
    plain="[1] bread.",
    controls=(ControlAnswer("salt", 3, 1), ControlAnswer("", 1, 0)),
    masked="[2] the wool of",
)


def _support(text: str) -> float:
    return len(text) / 100


def test_every_way_to_answer_is_measured_against_the_gold_answer() -> None:
    row = answer_columns(ANSWER, ["salt of Orrin", "x"])
    assert (row["exact_match"], row["sub_em"]) == (1.0, 1.0), "the mark and the article do not count"
    assert row["plain"] == {"answer": "[1] bread.", "exact_match": 0.0, "sub_em": 0.0, "token_f1": 0.0}
    first, second = row["controls"]
    assert (first["answer"], first["steps"], first["tokens_changed"]) == ("salt", 3, 1)
    assert first["token_f1"] == pytest.approx(0.5) and second["token_f1"] == 0.0
    bare = answer_columns(replace(ANSWER, plain=None), None)
    assert bare["plain"] is None and "exact_match" not in bare and set(bare["controls"][0]) == {
        "answer", "steps", "tokens_changed",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("faithful", "gold", "kind", "text"),
    [
        ("auto", ["salt"], "gold", "salt"),
        ("auto", None, "plain", "[1] bread."),
        ("auto", [], "plain", "[1] bread."),
        ("plain", ["salt"], "plain", "[1] bread."),
        ("gold", ["salt"], "gold", "salt"),
        ("gold", None, None, None),
    ],
)
def test_the_faithful_sample_is_what_the_settings_say(faithful: Any, gold: Any, kind: Any, text: Any) -> None:
    found = negative_columns(ANSWER, gold, _support, TuningSettings(faithful=faithful))
    assert found is not None
    assert (found["faithful_from"], found["faithful"]) == (kind, text)
    assert found["left_out"] == (None if kind else "nothing_faithful")
    assert found["support"] == pytest.approx(0.15)
    assert found["faithful_support"] == (pytest.approx(len(text) / 100) if text else None)


@pytest.mark.parametrize(
    ("masked", "most", "why"),
    [
        ("[3] Bread", None, "same_answer"),
        (" [3]  ", None, "empty"),
        ("wool", 0.04, None),
        ("wool", 0.03, "supported"),
        ("wool", None, None),
    ],
)
def test_samples_that_teach_nothing_are_left_out_and_say_why(masked: str, most: float | None, why: str | None) -> None:
    settings = TuningSettings(max_support=most)
    found = negative_columns(replace(ANSWER, masked=masked), None, _support, settings)
    assert found is not None and found["left_out"] == why
    assert bool(list(tuning_rows(_row(found), settings))) == (why is None)


def test_without_masked_answers_there_are_no_samples() -> None:
    assert negative_columns(replace(ANSWER, masked=None), ["x"], _support, TuningSettings()) is None
    assert list(tuning_rows(_row(None), TuningSettings())) == []


def test_a_row_gives_a_faithful_and_an_unfaithful_sample_with_their_control_tokens() -> None:
    settings = TuningSettings(faithful_token="<yes>", masked_token="<no>")
    negative = negative_columns(ANSWER, ["salt"], _support, settings)
    good, bad = tuning_rows(_row(negative), settings)
    assert (good["control_token"], good["target"], good["target_from"], good["faithful"]) == (
        "<yes>", "salt", "gold", True,
    )  # fmt: skip
    assert (bad["control_token"], bad["target"], bad["target_from"], bad["faithful"]) == (
        "<no>", "[2] the wool of", "masked", False,
    )  # fmt: skip
    assert good["prompt"] == bad["prompt"] == "\n\nWhich?" and bad["support"] == pytest.approx(0.15)
    line = chat_line(bad)
    assert line["messages"] == [
        {"role": "user", "content": "<no> Which?"},
        {"role": "assistant", "content": "[2] the wool of"},
    ]
    assert (line["id"], line["faithful"]) == ("q", False)


def _row(negative: Any) -> dict[str, Any]:
    return {"query_id": "q", "prompt": "\n\nWhich?", "source": {"uri": "u", "row": 1}, "negative": negative}
