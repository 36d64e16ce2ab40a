"""MuSiQue: twenty paragraphs a question, each marked as supporting or not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipelines.prepare.recipes import Recipe, Tools
from pipelines.prepare.records import Piece, Prepared, list_of, struct_of, text_of


def prepare(row: dict[str, Any], tools: Tools) -> Iterator[Prepared]:
    """One row for each question."""
    query_id = text_of(row, "id")
    paragraphs = [struct_of(entry, "paragraph") for entry in list_of(row, "paragraphs")]
    pieces = [
        Piece(
            f"{query_id}/{entry.get('idx', place)}",
            text_of(entry, "paragraph_text"),
            text_of(entry, "title", optional=True) or None,
        )
        for place, entry in enumerate(paragraphs)
    ]
    marked = zip(pieces, paragraphs, strict=True)
    answers = [row.get("answer"), *(row.get("answer_aliases") or [])]
    yield Prepared(
        query_id,
        text_of(row, "question"),
        pieces,
        answers=tuple(str(answer) for answer in answers if answer is not None) or None,
        kind=query_id.split("__", 1)[0],
        gold={piece.doc_id: 1 for piece, entry in marked if entry.get("is_supporting")} or None,
        carried=row,
    )


RECIPE = Recipe(
    {
        "id": "text",
        "question": "text",
        "paragraphs": "list of objects with idx, title, paragraph_text, is_supporting",
        "answer, answer_aliases": "text, list of text",
    },
    prepare,
)
