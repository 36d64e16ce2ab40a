"""What bfloat16 and neighbours change: ``python -m tests.benchmarks.precision --lists FOLDER`` (with ``make study``).

The embedded model ranks real lists (of :mod:`tests.benchmarks.head_lists`) in float32 and in bfloat16, each alone and
packed. Told of every pair: how like the orders are, which share of top tens changes, and what that is worth in nDCG@10
where documents are judged. Writes ``results/precision.json``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import torch

from pipelines.labels import load_qrels
from pipelines.measures import evaluate, paired_bootstrap
from pipelines.rows import request_from_row
from pipelines.storage import StorageOptions
from pipelines.units import parquet_table
from qrcore import Ranking, RankRequest, load_scorer
from qrcore.engine import EngineSettings
from tests.benchmarks import machine

NAMES: Final = ("hotpotqa", "nq_pool", "scifact")
_TOP: Final = 10
_SEED: Final = 0
_WAYS: Final = {
    "float32 alone": ("float32", 0),
    "float32 packed": ("float32", 4096),
    "bfloat16 alone": ("bfloat16", 0),
    "bfloat16 packed": ("bfloat16", 4096),
}
_PAIRS: Final = (
    ("float32 alone", "float32 packed"),
    ("float32 alone", "bfloat16 alone"),
    ("bfloat16 alone", "bfloat16 packed"),
)

Rankings = dict[str, Ranking]


def measure(lists: Path, model: str = "embedded", names: Sequence[str] = NAMES) -> dict[str, Any]:
    """All pairs on all collections."""
    scorers = {
        way: load_scorer(model, dtype=dtype, device="cpu", engine=EngineSettings(pack_tokens=budget))
        for way, (dtype, budget) in _WAYS.items()
    }
    found: dict[str, Any] = {}
    for name in names:
        requests = _requests(lists / name / "lists.parquet")
        qrels = load_qrels(str(lists / name / "qrels.parquet"), StorageOptions())
        ranked = {way: _ranked(scorer.rank_many(requests)) for way, scorer in scorers.items()}
        found[name] = {f"{one} / {other}": compared(ranked[one], ranked[other], qrels) for one, other in _PAIRS}
    return found


def compared(one: Rankings, other: Rankings, qrels: dict[str, dict[str, int]]) -> dict[str, Any]:
    """How two ways to rank the same queries differ."""
    quality = [_quality(ranked, qrels) for ranked in (one, other)]
    difference = paired_bootstrap(quality[1], quality[0], _SEED)
    return {
        "queries": len(one),
        "kendall_tau": fmean(kendall_tau(_order(one[query]), _order(other[query])) for query in one),
        "changed_top_10": fmean(_order(one[query])[:_TOP] != _order(other[query])[:_TOP] for query in one),
        "changed_first": fmean(_order(one[query])[0] != _order(other[query])[0] for query in one),
        "largest_score_difference": max(_largest(one[query], other[query]) for query in one),
        "ndcg_10": [fmean(values.values()) for values in quality],
        "ndcg_10_difference": [difference.mean, difference.low, difference.high],
    }


def kendall_tau(one: Sequence[str], other: Sequence[str]) -> float:
    """Pairs in the same order less pairs in the other one, over all pairs; 1 for lists of one."""
    place = {doc_id: rank for rank, doc_id in enumerate(other)}
    pairs = [place[first] < place[second] for first, second in combinations(one, 2)]
    return (2 * sum(pairs) - len(pairs)) / len(pairs) if pairs else 1.0


def _requests(path: Path) -> list[RankRequest]:
    requests = [request_from_row(row) for row in parquet_table(path.read_bytes()).to_pylist()]
    return [request for request in requests if isinstance(request, RankRequest)]


def _ranked(answers: Any) -> Rankings:
    return {str(answer.query_id): answer for answer in answers if isinstance(answer, Ranking)}


def _quality(ranked: Rankings, qrels: dict[str, dict[str, int]]) -> dict[str, float]:
    judged = {query: qrels[query] for query in ranked if query in qrels}
    return evaluate(judged, {query: _order(ranked[query]) for query in judged}, ["ndcg@10"]).per_query["ndcg@10"]


def _order(ranking: Ranking) -> list[str]:
    return [document.doc_id for document in ranking.documents]


def _largest(one: Ranking, other: Ranking) -> float:
    scores = {document.doc_id: document.score for document in other.documents}
    return max(abs(document.score - scores[document.doc_id]) for document in one.documents)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lists", type=Path, required=True)
    parser.add_argument("--model", default="embedded")
    given = parser.parse_args()
    torch.set_num_threads(1)
    machine.write("precision", measure(given.lists, given.model))


if __name__ == "__main__":
    main()
