"""Rows over the same candidates lie next to each other in a prepared shard, and none is lost."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipelines.prepare.work import side_by_side


def row(number: int, texts: list[str]) -> dict[str, Any]:
    return {
        "query_id": f"q{number}",
        "query": "x",
        "candidates": [
            {"doc_id": f"{number}-{place}", "title": None, "text": text} for place, text in enumerate(texts)
        ],
    }


@given(st.lists(st.lists(st.sampled_from(["a", "b", "ab", ""]), max_size=3), max_size=20))
def test_rows_over_the_same_texts_are_neighbours_in_the_order_of_the_first(lists: list[list[str]]) -> None:
    rows = [row(number, texts) for number, texts in enumerate(lists)]
    sorted_rows = side_by_side(rows)
    assert sorted(one["query_id"] for one in sorted_rows) == sorted(one["query_id"] for one in rows)
    texts = [tuple(entry["text"] for entry in one["candidates"]) for one in sorted_rows]
    changes = [one for one, before in zip(texts, [None, *texts], strict=False) if one != before]
    assert changes == list(dict.fromkeys(tuple(one) for one in lists))
    for content in set(texts):
        numbers = [int(one["query_id"][1:]) for one, found in zip(sorted_rows, texts, strict=True) if found == content]
        assert numbers == sorted(numbers)
