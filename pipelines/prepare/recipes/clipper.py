"""CLIPPER: a book in chapters, and pairs of a true claim and its false twin.

The data hub keeps the book inside ``messages``: put it into a column ``text`` (with ``split.by: pattern`` for
chapters) or ``chapters`` (a list of texts) first. ``source`` names the chapters of a claim, ``Chapter 1, 17``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pipelines.prepare.recipes import Recipe, Tools
from pipelines.prepare.recipes.documents import cut
from pipelines.prepare.records import Piece, Prepared, text_of

QUESTION = "Is this claim about the book true or false? {claim}"


def prepare(row: dict[str, Any], tools: Tools) -> Iterator[Prepared]:
    """Two rows for each pair, ``pair/true`` and ``pair/false``, with ``group`` the pair."""
    pair = text_of(row, "id")
    pieces = _chapters(text_of(row, "book_name", optional=True) or pair, row, tools)
    named = {int(number) for number in re.findall(r"\d+", text_of(row, "source", optional=True))}
    gold = {pieces[number - 1].doc_id: 1 for number in sorted(named) if 1 <= number <= len(pieces)}
    for kind in ("true", "false"):
        yield Prepared(
            f"{pair}/{kind}",
            text_of(row, f"{kind}_claim"),
            pieces,
            answers=(kind.upper(),),
            kind=kind,
            group=pair,
            gold=gold or None,
            carried=row,
        )


def _chapters(book: str, row: dict[str, Any], tools: Tools) -> list[Piece]:
    chapters = row.get("chapters")
    if not isinstance(chapters, list):
        return cut(book, text_of(row, "text"), tools)
    pieces, start = [], 0
    for number, chapter in enumerate(map(str, chapters), start=1):
        title, stop = f"Chapter {number}", start + len(chapter)
        pieces.append(Piece(f"{book}/{number}", chapter, title, source_id=book, start=start, stop=stop))
        start = stop
    return pieces


RECIPE = Recipe(
    {
        "id": "text",
        "book_name": "text, optional",
        "text or chapters": "the book as text, or a list of chapters",
        "true_claim, false_claim": "text",
        "source": "chapter numbers, optional",
    },
    prepare,
)
