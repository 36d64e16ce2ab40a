"""Build the lists on which choices of heads are compared: ``python -m tests.benchmarks.head_lists --output FOLDER``.

One folder a collection, with ``lists.parquet`` (an input shard) and ``qrels.parquet``, of every collection beside the
repository whose lists can be cut to what the embedded models read: the first ten candidates, of each the first hundred
words. Queries without a relevant document among these ten are left out, because no order of theirs is better than
another. Long contexts are not here: they need several prompts a query.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.embedded_lists import COLLECTIONS, JudgedRows, cut, read_collection, write

CANDIDATES: Final = 10
WORDS: Final = 100
#: Of larger collections as many, the same ones always: intervals are narrow enough, and a study takes minutes.
MOST_QUERIES: Final = 120

NAMES: Final = (
    "2wikimultihopqa",
    "adi",
    "birco_doris_mae",
    "birco_wtb",
    "cisi",
    "climate_fever",
    "cranfield",
    "hotpotqa",
    "liveqa_med",
    "med",
    "npl",
    "nq_pool",
    "scifact",
)


def build(name: str) -> JudgedRows:
    """The lists of one collection of :data:`NAMES`, candidates in first-stage order with rank and score."""
    collection = read_collection(name)
    lists = [_first(row) for row in collection.lists]
    judged = [row for row in lists if _holds_relevant(row, collection.qrels.get(row["query_id"], {}))]
    return JudgedRows(sorted(judged, key=_spread)[:MOST_QUERIES], collection.qrels)


def _first(row: dict[str, Any]) -> dict[str, Any]:
    candidates = [{**one, "text": cut(one["text"], WORDS)} for one in row["candidates"][:CANDIDATES]]
    return {"query_id": row["query_id"], "query": row["query"], "candidates": candidates}


def _holds_relevant(row: dict[str, Any], relevance: dict[str, int]) -> bool:
    return any(relevance.get(one["doc_id"], 0) > 0 for one in row["candidates"])


def _spread(row: dict[str, Any]) -> bytes:
    # Neighbours in a collection often ask for the same document; the first ones should not stand for all.
    return hashlib.sha256(f"{row['query_id']} head study".encode()).digest()


def main() -> None:
    """Build and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--names", nargs="*", choices=NAMES, default=NAMES)
    arguments = parser.parse_args()
    if not COLLECTIONS.is_dir():
        raise SystemExit(f"expected the collections in {COLLECTIONS}; they are not part of the repository")
    for name in arguments.names:
        built = build(name)
        write(built, arguments.output / name)
        print(f"{name}: {len(built.lists)} lists", flush=True)


if __name__ == "__main__":
    main()
