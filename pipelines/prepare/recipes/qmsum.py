"""QMSum-like transcripts: a meeting in turns, and questions with the spans of turns that answer them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipelines.prepare.recipes import Recipe, Tools
from pipelines.prepare.recipes.dialogue import turn_pieces
from pipelines.prepare.records import Prepared, invalid, list_of, struct_of, text_of


def prepare(row: dict[str, Any], tools: Tools) -> Iterator[Prepared]:
    """One row for each specific question; general ones ask for the whole meeting and come without gold."""
    name = text_of(row, "meeting_id", optional=True) or text_of(row, "_source")
    turns = list_of(row, "meeting_transcripts")
    pieces = turn_pieces(name, turns, tools.turns)
    for kind in ("specific", "general"):
        for number, entry in enumerate(row.get(f"{kind}_query_list") or []):
            asked = struct_of(entry, f"{kind}_query_list")
            relevant = _turns(asked.get("relevant_text_span") or [])
            gold = {pieces[turn // tools.turns].doc_id: 1 for turn in sorted(relevant) if turn < len(turns)}
            yield Prepared(
                f"{name}/{kind}-{number}",
                text_of(asked, "query"),
                pieces,
                answers=(text_of(asked, "answer"),) if "answer" in asked else None,
                kind=kind,
                group=name,
                gold=gold or None,
                carried=row,
            )


def _turns(spans: list[Any]) -> set[int]:
    """Turns of inclusive spans, counted from 0; numbers may be written as text."""
    try:
        return {turn for first, last in spans for turn in range(int(first), int(last) + 1)}
    except (TypeError, ValueError) as error:
        raise invalid(
            f"relevant_text_span: expected [first, last] turns, got {str(spans)[:60]!r}. Correct the row."
        ) from error


RECIPE = Recipe(
    {
        "meeting_id": "text; without it the file and the row are the name",
        "meeting_transcripts": "list of turns with speaker and content",
        "specific_query_list": "list of objects with query, answer, relevant_text_span",
        "general_query_list": "list of objects with query and answer, optional",
    },
    prepare,
)
