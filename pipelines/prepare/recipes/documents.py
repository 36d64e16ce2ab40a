"""One long document a row, split into pieces; queries in the same row or in a table of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pipelines.prepare.recipes import Recipe, Tools
from pipelines.prepare.records import Piece, Prepared, text_of
from qrcore.errors import ScoreError


def prepare(row: dict[str, Any], tools: Tools) -> Iterator[Prepared]:
    """One row for each query of the document."""
    document_id = text_of(row, "document_id", optional=True) or text_of(row, "query_id")
    pieces = cut(document_id, text_of(row, "text"), tools, text_of(row, "title", optional=True) or None)
    for query_id, query in _queries(row, document_id, tools):
        yield Prepared(
            query_id,
            query,
            pieces,
            group=document_id,
            gold=None if tools.gold is None else tools.gold.get(query_id),
            carried=row,
        )


def cut(document_id: str, text: str, tools: Tools, title: str | None = None) -> list[Piece]:
    """The pieces of a document, named ``document_id/1`` and so on. Raises :class:`ScoreError` if it has no text."""
    if not text.strip():
        raise ScoreError(
            "empty_document",
            f"document {document_id!r}: expected text, got {'white space only' if text else 'none'}. Remove the row.",
            stage="prepare",
        )
    return [
        Piece(
            f"{document_id}/{number}",
            text[span.start : span.stop],
            title,
            source_id=document_id,
            start=span.start,
            stop=span.stop,
        )
        for number, span in enumerate(tools.split(text), start=1)
    ]


def _queries(row: dict[str, Any], document_id: str, tools: Tools) -> Sequence[tuple[str, str]]:
    if tools.queries is None:
        return [(text_of(row, "query_id"), text_of(row, "query"))]
    asked = [*tools.queries.get(document_id, ()), *_of_all(tools, document_id)]
    if not asked:
        raise ScoreError(
            "null_query",
            f"document {document_id!r}: expected queries in the table of queries, found none. Add some, or leave the "
            "document out.",
            stage="prepare",
        )
    return asked


def _of_all(tools: Tools, document_id: str) -> list[tuple[str, str]]:
    """Queries that name no document ask every one, each time under a name of its own."""
    queries = (tools.queries or {}).get("", ())
    return [(f"{document_id}/{query_id}", query) for query_id, query in queries]


RECIPE = Recipe(
    {
        "document_id": "text",
        "text": "text",
        "title": "text, optional",
        "query_id, query": "text; or a table of queries with query_id, query and document_id",
    },
    prepare,
)
