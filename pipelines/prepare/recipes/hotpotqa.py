"""HotpotQA and 2WikiMultihopQA: ten paragraphs a question, gold by the titles of the supporting facts.

Both the published form (lists of ``[title, sentences]``) and the columnar one of data hubs (``{"title": [...],
"sentences": [...]}``) are read. Paragraphs are named ``question/place``, since titles may repeat.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipelines.prepare.recipes import Recipe, Tools
from pipelines.prepare.records import Piece, Prepared, invalid, text_of


def prepare(row: dict[str, Any], tools: Tools) -> Iterator[Prepared]:
    """One row for each question."""
    query_id = text_of(row, "_id") if "_id" in row else text_of(row, "id")
    paragraphs = list(_pairs(row, "context", ("title", "sentences")))
    supporting = {title for title, _ in _pairs(row, "supporting_facts", ("title", "sent_id"), optional=True)}
    pieces = [
        Piece(f"{query_id}/{place}", _joined(sentences), str(title))
        for place, (title, sentences) in enumerate(paragraphs)
    ]
    gold = {piece.doc_id: 1 for piece in pieces if piece.title in supporting}
    answer = row.get("answer")
    yield Prepared(
        query_id,
        text_of(row, "question"),
        pieces,
        answers=None if answer is None else (str(answer),),
        kind=text_of(row, "type", optional=True) or None,
        gold=gold or None,
        carried=row,
    )


def _pairs(
    row: dict[str, Any], name: str, keys: tuple[str, str], *, optional: bool = False
) -> Iterator[tuple[Any, Any]]:
    value = row.get(name)
    if value is None and optional:
        return
    if isinstance(value, dict) and all(isinstance(value.get(key), list) for key in keys):
        yield from zip(value[keys[0]], value[keys[1]], strict=False)
        return
    if not isinstance(value, list):
        raise invalid(f"{name}: expected a list of pairs, got {type(value).__name__}. Correct the row.")
    for entry in value:
        if isinstance(entry, dict):
            yield entry.get(keys[0]), entry.get(keys[1])
        elif isinstance(entry, list) and len(entry) == 2:
            yield entry[0], entry[1]
        else:
            raise invalid(f"{name}: expected [{keys[0]}, {keys[1]}], got {str(entry)[:60]!r}. Correct the row.")


def _joined(sentences: Any) -> str:
    if isinstance(sentences, str):
        return sentences
    if not isinstance(sentences, list) or not all(isinstance(one, str) for one in sentences):
        raise invalid(f"context: expected sentences of text, got {str(sentences)[:60]!r}. Correct the row.")
    # HotpotQA's sentences bring their spaces along, 2Wiki's do not.
    spaced = any(one[:1].isspace() for one in sentences[1:])
    return ("" if spaced else " ").join(sentences)


RECIPE = Recipe(
    {
        "_id or id": "text",
        "question": "text",
        "context": "list of [title, sentences]",
        "supporting_facts": "list of [title, sentence number]",
        "answer": "text",
        "type": "text, optional",
    },
    prepare,
)
