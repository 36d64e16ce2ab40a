"""Whatever names and words stand in a card, its structure is the card's own."""

from __future__ import annotations

import dataclasses
import html
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.training.card import model_card
from pipelines.training.facts import TrainingText
from pipelines.training.findings import AnswerQuality, Comparison
from pipelines.training.markdown import code, filled, plain, table, wrapped
from tests.pipelines.training.card_samples import (
    COMPARISONS,
    around,
    findings,
    replaced,
)
from tests.pipelines.training.card_text import HEADINGS, headings

AWKWARD = st.text(st.characters(codec="utf-8"), max_size=60) | st.sampled_from(
    ["a | b", "x_y_ *z* `q` <img src=x>", "[l](http://u.invalid)", "- 1. # > |", "a\n\n## b", "&lt; \\| ~~c~~"]
)


@given(AWKWARD, st.lists(AWKWARD, min_size=1, max_size=40))
@settings(max_examples=25, deadline=None)
def test_given_text_changes_no_structure(name: str, words: list[str]) -> None:
    answers = (AnswerQuality(name, "test", 5, 1.0, around(0.5), around(0.5), ((" ".join(words), name),)),)
    facts = replaced(
        findings(), answers=answers, comparisons=(*COMPARISONS, Comparison(name, "test", name, "BM25", around(0.1)))
    )
    facts = dataclasses.replace(facts, texts=(TrainingText(name, " ".join(words), 5),), name=name)
    card = model_card(facts)
    assert headings(card)[1:] == HEADINGS[1:]
    for block in card.split("\n\n"):
        if block.startswith("|"):
            lengths = {len(line) for line in block.split("\n")}
            cells = {len(re.findall(r"(?<!\\)\|", line.replace("\\\\", ""))) for line in block.split("\n")}
            assert len(lengths) == len(cells) == 1, block
    spaced = [line for line in card.split("\n") if not line.startswith(("|", "#")) and " " in line.strip()]
    assert all(len(line) <= 140 or max(map(len, line.split(" "))) > 20 for line in spaced)


@given(AWKWARD)
def test_plain_text_is_shown_as_it_is(text: str) -> None:
    markdown_it = pytest.importorskip("markdown_it")
    shown = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    parser = markdown_it.MarkdownIt("commonmark").enable("strikethrough")
    assert html.unescape(parser.renderInline(plain(text))) == shown
    as_code = parser.renderInline(code(text))
    assert as_code == (f"<code>{html.escape(shown)}</code>" if shown else "(nothing)")


MARKS = ["1.", "23)", "-", "+", "*", "#", "###", "word", "another", ">", "longer-words"]


@given(st.lists(st.sampled_from(MARKS), min_size=60, max_size=90))
def test_no_line_of_a_paragraph_begins_another_block(words: list[str]) -> None:
    lines = filled(f"A {' '.join(words)}").split("\n")
    assert " ".join(lines).split() == ["A", *words]
    assert not any(re.match(r"\s*(\d+[.)]|[-+*>#]+)(\s|$)", line) for line in lines)


def test_tables_are_aligned_and_lists_indented() -> None:
    assert table(("list", "n"), [("a", "1"), ("bcdef", "1,234")], numbers=[1]) == (
        "| list  |     n |\n| :---- | ----: |\n| a     |     1 |\n| bcdef | 1,234 |"
    )
    long = "word " * 40
    first, second, third = wrapped(f"- {long}\n- short\n").strip().split("\n")
    assert first.startswith("- word") and second.startswith("  word") and third == "- short"
    assert len(first) <= 118
