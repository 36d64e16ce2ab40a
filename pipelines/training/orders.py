"""Ways to put the candidates of judged lists in order, and how good an order is."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

import bm25s
import Stemmer

from pipelines.measures import evaluate, paired_bootstrap, reciprocal_rank_fusion
from pipelines.training.findings import Interval
from pipelines.training.judged import JudgedList
from qrcore.contracts.scorer import Scorer
from qrcore.errors import ScoreError
from qrcore.heads import Head
from qrcore.loading import load_scorer
from qrcore.prompts import EMBEDDED

#: doc_ids by query_id, best first.
Order = dict[str, list[str]]

NDCG: Final = "ndcg@10"
RECALL: Final = "recall@1"

_RANDOM_ORDERS: Final = 20


@dataclass(frozen=True, slots=True)
class OrderQuality:
    """nDCG@10 and recall@1 by query; the ideal is taken over the list."""

    ndcg_10: dict[str, float]
    recall_1: dict[str, float]


def quality(lists: Sequence[JudgedList], order: Order) -> OrderQuality:
    """How good an order of these lists is."""
    measured = evaluate({entry.query_id: entry.relevance for entry in lists}, order, (NDCG, RECALL)).per_query
    return OrderQuality(measured[NDCG], measured[RECALL])


def random_quality(lists: Sequence[JudgedList], seed: int) -> OrderQuality:
    """The mean over 20 random orders of each list."""
    runs = [quality(lists, _random_order(lists, f"{seed} {number}")) for number in range(_RANDOM_ORDERS)]
    return OrderQuality(
        ndcg_10={entry.query_id: fmean(run.ndcg_10[entry.query_id] for run in runs) for entry in lists},
        recall_1={entry.query_id: fmean(run.recall_1[entry.query_id] for run in runs) for entry in lists},
    )


def _random_order(lists: Sequence[JudgedList], seed: str) -> Order:
    return {
        entry.query_id: random.Random(f"{seed} {entry.query_id}").sample(_as_given(entry), len(entry.documents))
        for entry in lists
    }


def first_stage_order(lists: Sequence[JudgedList]) -> Order:
    """The candidates by their first stage's rank."""
    return {
        entry.query_id: [d.doc_id for d in sorted(entry.documents, key=lambda document: document.rank or 0)]
        for entry in lists
    }


def bm25_order(lists: Sequence[JudgedList]) -> Order:
    """BM25 (k1 0.9, b 0.4, Lucene's formula) with the statistics of all documents of these lists."""
    documents = {d.doc_id: d for entry in lists for d in entry.documents}
    row = {doc_id: number for number, doc_id in enumerate(documents)}
    index = bm25s.BM25(k1=0.9, b=0.4, method="lucene")
    index.index(_stems([f"{d.title or ''} {d.text}" for d in documents.values()]), show_progress=False)
    found = {}
    for entry, words in zip(lists, _stems([entry.query for entry in lists]), strict=True):
        # bm25s fails on a query without words of its own vocabulary.
        known = [word for word in words if word in index.vocab_dict]
        scores = index.get_scores(known).tolist() if known else [0.0] * len(row)
        found[entry.query_id] = best_first(entry, [scores[row[d.doc_id]] for d in entry.documents])
    return found


def _stems(texts: Sequence[str]) -> list[list[str]]:
    stemmer = Stemmer.Stemmer("english")
    words: list[list[str]] = bm25s.tokenize(
        list(texts), stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False
    )
    return words


def open_scorer(folder: str, heads: str | Sequence[Head] | None = None, device: str = "auto") -> Scorer:
    """A scorer of the trained model in ``folder`` as every study uses it: its own prompt, float32; ``heads`` None
    stands for the folder's head set."""
    return load_scorer(folder, heads=heads, prompt=EMBEDDED.name, dtype="float32", device=device)


def scorer_order(lists: Sequence[JudgedList], scorer: Scorer) -> tuple[Order, int]:
    """The candidates by their scores, and how many lists exceed the model's limit: these stay as they were given."""
    order = {}
    too_long = 0
    for entry in lists:
        try:
            order[entry.query_id] = best_first(entry, scorer.score(entry.query, entry.documents))
        except ScoreError as error:
            if error.code != "context_too_long":
                raise
            order[entry.query_id] = _as_given(entry)
            too_long += 1
    return order, too_long


def fused_order(first: Order, second: Order) -> Order:
    """Both orders fused by reciprocal rank, k = 60."""
    return {query_id: reciprocal_rank_fusion([first[query_id], second[query_id]], k=60) for query_id in first}


def best_first(entry: JudgedList, scores: Sequence[float]) -> list[str]:
    """The list's doc_ids by falling score; equal scores stay in prompt order."""
    places = sorted(range(len(entry.documents)), key=lambda place: -scores[place])
    return [entry.documents[place].doc_id for place in places]


def interval(values: dict[str, float], seed: int) -> Interval:
    """The mean over queries and its 95 % bootstrap interval."""
    found = paired_bootstrap(values, dict.fromkeys(values, 0.0), seed)
    return Interval(found.mean, found.low, found.high)


def _as_given(entry: JudgedList) -> list[str]:
    return [document.doc_id for document in entry.documents]
