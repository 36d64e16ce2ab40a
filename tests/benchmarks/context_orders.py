"""Orders of the pieces of a context, without a model or of several, and how much of the gold each of them keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from pipelines.bm25 import Bm25Index
from pipelines.measures import evaluate, reciprocal_rank_fusion
from qrcore.counting import TextTokenizer
from qrcore.selection import Piece, fill, policy

FIRST, LAST, BM25, ALL, HEADS, FUSED = "first pieces", "last pieces", "BM25", "all heads", "QRHeads", "fusion"
WAYS: Final = (FIRST, LAST, BM25, ALL, HEADS, FUSED)
RECALLS: Final = ("recall@5", "recall@10")
#: Shares of a context's tokens.
BUDGETS: Final = {"gold recall at 25 %": 0.25, "gold recall at 50 %": 0.5}
MEASURES: Final = (*RECALLS, *BUDGETS)
#: The constant of Cormack et al. (SIGIR 2009), never tuned.
FUSION_K: Final = 60

#: doc_ids by query, best first.
Orders = dict[str, list[str]]
#: By measure and query.
Values = dict[str, dict[str, float]]


def plain_orders(rows: Sequence[dict[str, Any]]) -> dict[str, Orders]:
    """The ways that need no model."""
    places = {row["query_id"]: [one["doc_id"] for one in row["candidates"]] for row in rows}
    found = {row["query_id"]: _by_words(row) for row in rows}
    return {
        FIRST: places,
        LAST: {query_id: ids[::-1] for query_id, ids in places.items()},
        # What shares no word with the query stands behind what does, as in the context.
        BM25: {query_id: [*found[query_id], *_others(ids, found[query_id])] for query_id, ids in places.items()},
    }


def _by_words(row: dict[str, Any]) -> list[str]:
    candidates = row["candidates"]
    texts = tuple(f"{one['title'] or ''} {one['text']}" for one in candidates)
    return [candidates[hit.position]["doc_id"] for hit in _index(texts).top(row["query"], len(texts))]


@lru_cache(maxsize=16)
def _index(texts: tuple[str, ...]) -> Bm25Index:
    return Bm25Index(texts)


def _others(ids: Sequence[str], found: Sequence[str]) -> list[str]:
    known = set(found)
    return [name for name in ids if name not in known]


def fused(rows: Sequence[dict[str, Any]], heads: Orders) -> Orders:
    """BM25's hits and the heads' order; what BM25 does not find gets nothing from it."""
    return {
        row["query_id"]: reciprocal_rank_fusion([_by_words(row), order], FUSION_K) if order else []
        for row in rows
        for order in [heads[row["query_id"]]]
    }


def measure(qrels: Mapping[str, Mapping[str, int]], orders: Orders, tokens: Mapping[str, Mapping[str, int]]) -> Values:
    """Values by measure and query; ``tokens``: of each piece by query. A query without an order counts 0."""
    values = evaluate(qrels, orders, RECALLS).per_query
    for name, share in BUDGETS.items():
        values[name] = {
            query_id: _kept(judged, orders[query_id], tokens[query_id], share) for query_id, judged in qrels.items()
        }
    return values


def _kept(judged: Mapping[str, int], order: Sequence[str], tokens: Mapping[str, int], share: float) -> float:
    """Share of the gold pieces that a share of the context's tokens holds, filled as select does."""
    pieces = [Piece(name, place, place + 1, 0.0, tokens[name]) for place, name in enumerate(order)]
    wanted = policy("token_budget")(pieces, {}).positions
    held = {order[place] for place in fill(pieces, wanted, int(share * sum(tokens.values())))}
    gold = {name for name, relevance in judged.items() if relevance > 0}
    return len(gold & held) / len(gold)


def piece_tokens(rows: Sequence[dict[str, Any]], tokenizer: TextTokenizer) -> dict[str, dict[str, int]]:
    """Tokens of each piece by query."""

    @lru_cache(maxsize=16)
    def counted(texts: tuple[str, ...]) -> list[int]:
        return tokenizer.count_many(texts)

    return {
        row["query_id"]: {
            one["doc_id"]: count
            for one, count in zip(
                row["candidates"], counted(tuple(one["text"] for one in row["candidates"])), strict=True
            )
        }
        for row in rows
    }
