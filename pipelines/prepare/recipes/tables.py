"""Queries in a table, documents in another, and a run or BM25 that says which belong together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipelines.prepare.recipes import Recipe, Tools
from pipelines.prepare.records import Prepared, text_of
from qrcore.errors import ConfigError


def prepare(row: dict[str, Any], tools: Tools) -> Iterator[Prepared]:
    """One row for each query; with ``only_judged``, queries without judgements are left out."""
    if tools.corpus is None:
        raise ConfigError("recipe tables: expected a corpus, got none. Give it with --corpus.")
    query_id, query = text_of(row, "query_id"), text_of(row, "query")
    gold = None if tools.gold is None else tools.gold.get(query_id)
    if gold is None and tools.only_judged:
        return
    yield Prepared(query_id, query, tools.corpus.candidates(query_id, query), gold=gold, carried=row)


RECIPE = Recipe({"query_id": "text", "query": "text"}, prepare)
