"""A dialogue a row, split into its turns.

The text that offsets count in is every turn as ``role: content`` and a line end, one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pipelines.prepare.recipes import Recipe, Tools
from pipelines.prepare.records import Piece, Prepared, invalid, list_of, struct_of, text_of
from qrcore.errors import ScoreError


def prepare(row: dict[str, Any], tools: Tools) -> Iterator[Prepared]:
    """One row for each dialogue; a piece is ``split.turns`` turns."""
    query_id = text_of(row, "query_id")
    gold = None if tools.gold is None else tools.gold.get(query_id)
    pieces = turn_pieces(text_of(row, "document_id", optional=True) or query_id, list_of(row, "turns"), tools.turns)
    yield Prepared(query_id, text_of(row, "query"), pieces, gold=gold, carried=row)


def turn_pieces(dialogue_id: str, turns: Sequence[Any], together: int, title: str | None = None) -> list[Piece]:
    """Pieces of ``together`` turns, named ``dialogue_id/1`` and so on. Raises :class:`ScoreError` for no turns."""
    texts = [f"{speaker(turn)}: {content(turn)}\n" for turn in (struct_of(one, "turn") for one in turns)]
    if not any(content(turn).strip() for turn in turns):
        raise ScoreError(
            "empty_document",
            f"dialogue {dialogue_id!r}: expected turns with text, got {len(turns)} without. Remove the row.",
            stage="prepare",
        )
    pieces, start = [], 0
    for number, first in enumerate(range(0, len(texts), together), start=1):
        text = "".join(texts[first : first + together])
        stop = start + len(text)
        pieces.append(Piece(f"{dialogue_id}/{number}", text, title, source_id=dialogue_id, start=start, stop=stop))
        start = stop
    return pieces


def speaker(turn: dict[str, Any]) -> str:
    """Who speaks: ``role`` or ``speaker``. Raises :class:`ScoreError`."""
    name = turn.get("role") or turn.get("speaker")
    if not isinstance(name, str):
        raise invalid(f"turn: expected a role or a speaker, got fields {', '.join(turn) or 'none'}. Add it.")
    return name


def content(turn: dict[str, Any]) -> str:
    """What is said: ``content`` or ``text``. Raises :class:`ScoreError`."""
    said = turn.get("content", turn.get("text"))
    if not isinstance(said, str):
        raise invalid(f"turn: expected content or text, got fields {', '.join(turn) or 'none'}. Add it.")
    return said


RECIPE = Recipe({"query_id": "text", "query": "text", "turns": "list of objects with role and content"}, prepare)
