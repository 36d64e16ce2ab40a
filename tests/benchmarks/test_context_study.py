"""The study of contexts, on planted ones: who is asked, what each order keeps, and what the tables say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.splits import part_of
from qrcore.counting import TextTokenizer
from qrcore.matching import query_digest
from tests.benchmarks.context_orders import BM25, FIRST, FUSED, HEADS, LAST, fused, measure, piece_tokens, plain_orders
from tests.benchmarks.context_study import Reading, collections_in, read, report, sample, table
from tests.benchmarks.embedded_lists import JudgedRows

TEXTS = ("The lamp is old.", "A river floods the town.", "Wool is warm.", "The river sleeps.")


def row(query_id: str, query: str = "Which river floods?") -> dict[str, Any]:
    candidates = [{"doc_id": f"d{place}", "title": None, "text": text} for place, text in enumerate(TEXTS)]
    return {"query_id": query_id, "query": query, "candidates": candidates}


def test_only_queries_that_no_choice_has_seen_are_asked() -> None:
    rows = [row(f"q{number}") for number in range(40)]
    collection = JudgedRows(rows, {one["query_id"]: {"d1": 1} for one in rows})
    drawn = sample("planted", collection, 10)
    asked = [one["query_id"] for one in drawn.rows]
    assert len(asked) == 10 and {part_of(name) for name in asked} == {"test"}
    assert drawn.held_out == sum(part_of(one["query_id"]) == "dev" for one in rows) > 0
    assert asked == [one["query_id"] for one in sample("planted", JudgedRows(rows[::-1], collection.qrels), 10).rows]
    found_on = frozenset({query_digest(asked[0], "Which river floods?")})
    assert asked[0] not in [one["query_id"] for one in sample("planted", collection, 40, found_on).rows]


def test_orders_without_a_model() -> None:
    orders = plain_orders([row("q")])
    assert orders[FIRST]["q"] == ["d0", "d1", "d2", "d3"]
    assert orders[LAST]["q"] == ["d3", "d2", "d1", "d0"]
    assert orders[BM25]["q"] == ["d1", "d3", "d0", "d2"]


def test_fusion_gives_nothing_for_what_words_do_not_find() -> None:
    heads = {"q": ["d2", "d3", "d0", "d1"], "failed": []}
    # d1: first by words and last by heads; d3: second by both, which is more.
    assert fused([row("q"), row("failed")], heads) == {"q": ["d3", "d1", "d2", "d0"], "failed": []}


def test_what_a_budget_keeps_of_the_gold() -> None:
    qrels = {"q": {"d1": 2, "d3": 1, "d0": 0}, "none": {"d1": 1}}
    tokens = {name: {"d0": 10, "d1": 25, "d2": 40, "d3": 25} for name in qrels}
    values = measure(qrels, {"q": ["d2", "d1", "d3", "d0"], "none": []}, tokens)
    # A quarter of 100 tokens: d2 is skipped, d1 fits; half of them: d2 takes 40 and leaves room for d0 alone.
    assert values["gold recall at 25 %"] == {"q": 0.5, "none": 0.0}
    assert values["gold recall at 50 %"] == {"q": 0.0, "none": 0.0}
    assert values["recall@5"] == {"q": 1.0, "none": 0.0}


def test_the_heads_order_all_pieces_and_the_tables_tell() -> None:
    rows = [row("a"), row("b", "Where is wool sold?")]
    heads = read("embedded", None, rows)
    assert all(sorted(order) == ["d0", "d1", "d2", "d3"] for order in heads.orders.values())
    assert list(heads.windows) == [1, 1] and not heads.failed and heads.prompt_tokens > 0
    drawn = sample("planted", JudgedRows(rows, {"a": {"d1": 1}, "b": {"d2": 1}}), 9, part=part_of("a"))
    lost = Reading({one["query_id"]: [] for one in drawn.rows}, [], 0, {"a": "oom"}, 0.0)
    found = report(drawn, {HEADS: heads, "all heads": lost}, TextTokenizer.load("embedded"))
    assert found["ways"]["all heads"]["recall@5"]["mean"] == 0.0 and found["readings"]["all heads"]["windows"] is None
    assert found["differences"]["QRHeads − BM25"]["recall@5"]["mean"] == 0.0
    head, _, cells = table({"collections": {"planted": found}}).split("### ")[1].splitlines()[2:5]
    told = dict(zip(head.strip("|").split(" | "), cells.strip("|").split(" | "), strict=True))
    assert (told["pieces"], told["prompts"], told["QRHeads"]) == ("4", "1", "1.000")
    assert told["QRHeads − BM25"] == "+0.000 [+0.000, +0.000]" and told[FUSED] == "1.000"


def test_tokens_are_those_of_the_texts() -> None:
    tokenizer = TextTokenizer.load("embedded")
    counted = piece_tokens([row("a")], tokenizer)["a"]
    assert counted == {f"d{place}": tokenizer.count(text) for place, text in enumerate(TEXTS)}


def test_a_folder_without_collections_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="expected the collections in"):
        collections_in(tmp_path)
    assert f"policyqa: not in {tmp_path}, left out" in capsys.readouterr().out
