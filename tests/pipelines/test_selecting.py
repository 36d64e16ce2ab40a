"""Bundles of one row: exact tokens, byte-equal text, original order, and rows that hold nothing to choose."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.selecting import Bundler, BundleSettings
from qrcore.counting import TextTokenizer
from qrcore.errors import ScoreError
from qrcore.splitting import paragraphs

TOKENIZER = TextTokenizer.load("embedded")
TEXT = "\n\n".join(
    ["The bridge was built in spring.", "Salt is sold.", "A lamp is old.", "Wool is warm in winter.", "Bees fly."]
)


def row(texts: list[str] | None = None, **changes: Any) -> dict[str, Any]:
    spans = paragraphs(TEXT)
    candidates = [
        {
            "doc_id": f"a/{n}",
            "title": None,
            "text": TEXT[s.start : s.stop],
            "source_id": "a",
            "start": s.start,
            "stop": s.stop,
        }
        for n, s in enumerate(spans)
    ]
    if texts is not None:
        candidates = [{"doc_id": f"a/{n}", "title": None, "text": text} for n, text in enumerate(texts)]
    return {"query_id": "q", "query": "When?", "candidates": candidates, **changes}


def ranking(given: dict[str, Any], order: list[int], rounds: list[int] | None = None) -> list[dict[str, Any]]:
    ids = [entry["doc_id"] for entry in given["candidates"]]
    return [
        {"doc_id": ids[place], "rank": rank, "score": float(len(order) - rank), "round": (rounds or [1] * 99)[rank - 1]}
        for rank, place in enumerate(order, start=1)
    ]


def bundle(given: dict[str, Any], ranked: list[int], **chosen: Any) -> dict[str, Any]:
    made = Bundler(BundleSettings(**chosen)).bundle(given, ranking(given, ranked), {})
    assert made["context_tokens"] == TOKENIZER.count(made["context"])
    return made


@pytest.mark.parametrize("policy", ["token_budget", "top_k", "neighbours", "source_quota", "score_mass"])
@settings(max_examples=15)
@given(order=st.permutations(range(5)), budget=st.none() | st.integers(0, 60))
def test_what_every_bundle_keeps(policy: str, order: list[int], budget: int | None) -> None:
    made = bundle(row(), order, policy=policy, budget_tokens=budget, top=2)
    assert made["context_tokens"] <= (60 if budget is None else budget)
    positions = [segment["position"] for segment in made["segments"]]
    assert positions == sorted(positions)
    ids = [name for segment in made["segments"] for name in segment["doc_ids"]]
    assert len(ids) == len(set(ids))
    for segment in made["segments"]:
        assert segment["text"] in TEXT and segment["text"].rstrip() in made["context"]
        assert segment["tokens"] == TOKENIZER.count(segment["text"])
    assert made == bundle(row(), order, policy=policy, budget_tokens=budget, top=2)


@settings(max_examples=25)
@given(order=st.permutations(range(5)), small=st.integers(0, 50), more=st.integers(0, 30))
def test_a_larger_budget_holds_the_smaller_bundle(order: list[int], small: int, more: int) -> None:
    kept = [
        {
            name
            for one in bundle(row(), order, budget_tokens=budget, overflow="stop")["segments"]
            for name in one["doc_ids"]
        }
        for budget in (small, small + more)
    ]
    assert kept[0] <= kept[1]


def test_neighbours_that_touch_are_one_stretch_of_the_source() -> None:
    made = bundle(row(), [2, 0, 1, 3, 4], policy="neighbours", top=1)
    (segment,) = made["segments"]
    assert segment["doc_ids"] == ["a/1", "a/2", "a/3"]
    assert segment["text"] == "Salt is sold.\n\nA lamp is old.\n\nWool is warm in winter.\n\n"
    assert (segment["doc_id"], segment["rank"], segment["position"]) == ("a/2", 1, 1)


def test_windows_that_overlap_are_merged_once() -> None:
    given = row()
    spans = [(0, 20), (15, 40), (38, 60)]
    given["candidates"] = [
        {"doc_id": f"a/{n}", "title": None, "text": TEXT[start:stop], "source_id": "a", "start": start, "stop": stop}
        for n, (start, stop) in enumerate(spans)
    ]
    made = bundle(given, [1, 0, 2], policy="neighbours", top=1)
    assert [segment["text"] for segment in made["segments"]] == [TEXT[:60]]


def test_orders_and_messages() -> None:
    texts = ["one", "two", "three"]
    made = bundle(row(texts), [2, 0, 1], policy="top_k", order="best_last", system="Be brief.", assistant="{{ query }}")
    assert made["context"] == "two\n\none\n\nthree"
    assert made["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "two\n\none\n\nthree\n\nQuestion: When?"},
        {"role": "assistant", "content": "When?"},
    ]
    assert made["source_tokens"] == sum(TOKENIZER.count_many(texts))
    assert made["compression_ratio"] == made["context_tokens"] / made["source_tokens"]


def test_a_budget_below_every_piece_gives_an_empty_bundle_with_its_reason() -> None:
    made = bundle(row(), [0, 1, 2, 3, 4], budget_tokens=1)
    assert (made["segments"], made["context"], made["flags"]) == ([], "", ["budget_below_every_piece"])
    assert made["messages"][0]["content"] == "\n\nQuestion: When?"


def test_pieces_of_white_space_are_left_out_and_said() -> None:
    made = bundle(row([" \n", "text", ""]), [0, 1, 2], policy="top_k")
    assert ([s["doc_id"] for s in made["segments"]], made["flags"]) == (["a/1"], ["blank_pieces_left_out"])
    empty = bundle(row([" ", "\n"]), [0, 1], policy="top_k")
    assert (empty["segments"], empty["flags"]) == ([], ["no_text"])


def test_one_piece() -> None:
    assert bundle(row(["alone"]), [0], policy="score_mass")["context"] == "alone"


def test_thresholds_use_the_final_prompt() -> None:
    given = row(["one", "two", "three"])
    ranked = ranking(given, [0, 1, 2], rounds=[2, 2, 1])
    made = Bundler(BundleSettings(policy="score_mass", mass=1.0)).bundle(given, ranked, {})
    assert [segment["doc_id"] for segment in made["segments"]] == ["a/0", "a/1"]
    ranked[2]["score"] = 50.0
    again = Bundler(BundleSettings(policy="relative_threshold", relative=0.5)).bundle(given, ranked, {})
    assert [segment["doc_id"] for segment in again["segments"]] == ["a/0", "a/1"]


def test_a_ranking_of_other_documents_is_refused() -> None:
    given = row(["one", "two"])
    with pytest.raises(ScoreError, match="expected the 2 candidates of its row, got 2 documents, 1 of them"):
        Bundler(BundleSettings()).bundle(given, [*ranking(given, [0]), {**ranking(given, [0])[0], "doc_id": "x"}], {})
