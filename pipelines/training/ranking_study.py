"""How well a trained model's heads order judged lists, beside a random order, BM25 and the first stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from pipelines.measures import paired_bootstrap
from pipelines.splits import Part
from pipelines.training.findings import Comparison, Interval, ListQuality
from pipelines.training.judged import JudgedSet
from pipelines.training.orders import (
    Order,
    OrderQuality,
    bm25_order,
    first_stage_order,
    fused_order,
    interval,
    open_scorer,
    quality,
    random_quality,
    scorer_order,
)

RANDOM: Final = "random"
BM25: Final = "BM25"
FIRST_STAGE: Final = "first stage"
ALL_HEADS: Final = "all heads"
HEADS: Final = "heads"
FUSED: Final = "fused"

_COMPARED: Final = ((HEADS, BM25), (HEADS, FIRST_STAGE), (FUSED, FIRST_STAGE), (HEADS, ALL_HEADS))


def list_qualities(
    folder: str, judged: JudgedSet, part: Part, *, seed: int = 0, device: str = "auto"
) -> tuple[ListQuality, ...]:
    """The quality of every method on one part of a set: of a random order, the first stage (BM25 over these lists
    where there is none), all heads, the folder's head set, and, with a first stage, both fused.

    Lists beyond the model's limit count in prompt order. Empty if the part has no list.
    """
    lists = judged.part(part)
    if not lists:
        return ()
    every, every_too_long = scorer_order(lists, open_scorer(folder, "all", device))
    heads, heads_too_long = scorer_order(lists, open_scorer(folder, device=device))
    orders: list[tuple[str, Order, int]] = [(ALL_HEADS, every, every_too_long), (HEADS, heads, heads_too_long)]
    if judged.ranked:
        first = first_stage_order(lists)
        orders = [(FIRST_STAGE, first, 0), *orders, (FUSED, fused_order(first, heads), heads_too_long)]
    else:
        orders = [(BM25, bm25_order(lists), 0), *orders]
    measured = [(RANDOM, random_quality(lists, seed), 0)]
    measured += [(method, quality(lists, order), too_long) for method, order, too_long in orders]
    return tuple(
        _list_quality(judged.name, part, method, values, too_long, seed) for method, values, too_long in measured
    )


def _list_quality(name: str, part: Part, method: str, values: OrderQuality, too_long: int, seed: int) -> ListQuality:
    return ListQuality(
        name=name,
        part=part,
        method=method,
        queries=len(values.ndcg_10),
        too_long=too_long,
        ndcg_10=interval(values.ndcg_10, seed),
        recall_1=interval(values.recall_1, seed),
        per_query=values.ndcg_10,
    )


def comparisons(qualities: Sequence[ListQuality], *, seed: int = 0) -> tuple[Comparison, ...]:
    """The heads against BM25, the first stage and all heads, and the fused order against the first stage, for each
    list name and part in which both were measured. ``better`` less ``worse``, whichever is larger."""
    return tuple(
        Comparison(one.name, one.part, one.method, other.method, _difference(one, other, seed))
        for one, other in _pairs(qualities)
    )


def _pairs(qualities: Sequence[ListQuality]) -> Iterator[tuple[ListQuality, ListQuality]]:
    found = {(entry.name, entry.part, entry.method): entry for entry in qualities}
    for name, part in dict.fromkeys((entry.name, entry.part) for entry in qualities):
        for better, worse in _COMPARED:
            one, other = found.get((name, part, better)), found.get((name, part, worse))
            if one and other:
                yield one, other


def _difference(one: ListQuality, other: ListQuality, seed: int) -> Interval:
    found = paired_bootstrap(one.per_query, other.per_query, seed)
    return Interval(found.mean, found.low, found.high)
