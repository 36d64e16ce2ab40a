"""Rows that already follow the input contract, in another format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipelines.prepare.recipes import Recipe, Tools
from pipelines.prepare.records import Piece, Prepared, list_of, struct_of, text_of


def prepare(row: dict[str, Any], tools: Tools) -> Iterator[Prepared]:
    """One row for each."""
    query_id = text_of(row, "query_id")
    answers = row.get("answers")
    yield Prepared(
        query_id,
        text_of(row, "query"),
        [_piece(struct_of(entry, "candidate")) for entry in list_of(row, "candidates")],
        answers=tuple(map(str, answers)) if isinstance(answers, list) else None,
        date=text_of(row, "date", optional=True) or None,
        kind=text_of(row, "kind", optional=True) or None,
        group=text_of(row, "group", optional=True) or None,
        gold=None if tools.gold is None else tools.gold.get(query_id),
        carried=row,
    )


def _piece(entry: dict[str, Any]) -> Piece:
    names = ("title", "score", "rank", "source_id", "start", "stop")
    return Piece(text_of(entry, "doc_id"), text_of(entry, "text"), **{name: entry.get(name) for name in names})


RECIPE = Recipe(
    {
        "query_id": "text",
        "query": "text",
        "candidates": "list of objects with doc_id, text, and optionally title, score, rank",
    },
    prepare,
)
