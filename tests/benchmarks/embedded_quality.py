"""Ranking quality of the embedded model: ``python -m tests.benchmarks.embedded_quality [--model FOLDER] [--part dev]``.

Prints nDCG@10 and recall@1 with bootstrap 95 % intervals for a random order, BM25, all heads and the shipped head set,
on the lists of :mod:`tests.benchmarks.embedded_lists`, and writes them as JSON beside this file. ``dev`` queries (40 %
by hash) serve every choice; ``test`` queries are for reporting.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import bm25s
import numpy as np
import pytrec_eval
import Stemmer
import torch

from qrcore import ScoreError, Scorer, load_scorer
from tests.benchmarks.embedded_lists import BUILDERS, COLLECTIONS, JudgedList, build_lists

RESULTS = Path(__file__).parent / "results"
_RESAMPLES = 2000
_RANDOM_ORDERS = 20

ScoreLists = Callable[[JudgedList], Sequence[float] | None]


@dataclass(frozen=True, slots=True)
class Quality:
    """Mean and 95 % bootstrap interval of two measures over `queries` queries.

    ``too_long``: lists that exceed the model's limit; they count in the order in which they were given.
    """

    queries: int
    too_long: int
    ndcg_10: float
    ndcg_10_low: float
    ndcg_10_high: float
    recall_1: float
    recall_1_low: float
    recall_1_high: float


def evaluate(lists: Sequence[JudgedList], scores: Sequence[Sequence[float] | None]) -> Quality:
    """Quality of `scores`, one list of them for each judged list, or None where it could not be scored."""
    as_given = [[-float(place) for place in range(len(entry.documents))] for entry in lists]
    ndcg, recall = per_query(lists, [as_given[i] if own is None else own for i, own in enumerate(scores)])
    return Quality(len(lists), sum(own is None for own in scores), *_with_interval(ndcg), *_with_interval(recall))


def per_query(lists: Sequence[JudgedList], scores: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """nDCG@10 (trec_eval; the ideal is taken over the list) and recall@1 of each query."""
    judge = pytrec_eval.RelevanceEvaluator({e.query_id: e.relevance for e in lists}, {"ndcg_cut.10", "recall.1"})
    run = {
        entry.query_id: {document.doc_id: float(score) for document, score in zip(entry.documents, own, strict=True)}
        for entry, own in zip(lists, scores, strict=True)
    }
    outcome = judge.evaluate(run)
    return (
        [outcome[entry.query_id]["ndcg_cut_10"] for entry in lists],
        [outcome[entry.query_id]["recall_1"] for entry in lists],
    )


def random_quality(lists: Sequence[JudgedList]) -> Quality:
    """The mean over random orders."""
    rng = np.random.default_rng(0)
    runs = [evaluate(lists, [rng.random(len(e.documents)).tolist() for e in lists]) for _ in range(_RANDOM_ORDERS)]
    names = [name for name in asdict(runs[0]) if name not in ("queries", "too_long")]
    return Quality(len(lists), 0, **{name: statistics.mean(getattr(run, name) for run in runs) for name in names})


def bm25_scores(lists: Sequence[JudgedList]) -> list[list[float]]:
    """BM25 (k1 0.9, b 0.4, Lucene's formula) with the statistics of all documents of these lists."""
    documents = {d.doc_id: d for entry in lists for d in entry.documents}
    row = {doc_id: number for number, doc_id in enumerate(documents)}
    stemmer = Stemmer.Stemmer("english")
    texts = [f"{d.title or ''} {d.text}" for d in documents.values()]
    index = bm25s.BM25(k1=0.9, b=0.4, method="lucene")
    index.index(bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False), show_progress=False)
    found = []
    for entry in lists:
        words = bm25s.tokenize([entry.query], stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False)[0]
        known = [word for word in words if word in index.vocab_dict]
        scores = index.get_scores(known) if known else np.zeros(len(row))
        found.append([float(scores[row[d.doc_id]]) for d in entry.documents])
    return found


def measure_list(lists: Sequence[JudgedList], scorers: Mapping[str, ScoreLists]) -> dict[str, Quality]:
    """Quality of a random order, BM25 and each scorer."""
    table = {"random": random_quality(lists), "BM25": evaluate(lists, bm25_scores(lists))}
    for name, score in scorers.items():
        table[name] = evaluate(lists, [score(entry) for entry in lists])
    return table


def scores_of(scorer: Scorer) -> ScoreLists:
    """The scorer's scores of a list; None where the list exceeds its limit."""

    def score(entry: JudgedList) -> Sequence[float] | None:
        try:
            return scorer.score(entry.query, entry.documents)
        except ScoreError as error:
            if error.code != "context_too_long":
                raise
            return None

    return score


def _with_interval(values: Sequence[float]) -> tuple[float, float, float]:
    sample = np.asarray(values)
    rng = np.random.default_rng(0)
    means = sample[rng.integers(0, len(sample), size=(_RESAMPLES, len(sample)))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(sample.mean()), float(low), float(high)


def _lines(name: str, table: Mapping[str, Quality]) -> Iterable[str]:
    for method, quality in table.items():
        yield (
            f"{name:24} {method:12} n={quality.queries:<4} "
            f"nDCG@10 {quality.ndcg_10:.3f} [{quality.ndcg_10_low:.3f}, {quality.ndcg_10_high:.3f}]  "
            f"recall@1 {quality.recall_1:.3f} [{quality.recall_1_low:.3f}, {quality.recall_1_high:.3f}]"
            + (f"  ({quality.too_long} too long)" if quality.too_long else "")
        )


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--part", choices=("dev", "test"), default="test")
    parser.add_argument("--lists", nargs="*", choices=tuple(BUILDERS), default=tuple(BUILDERS))
    parser.add_argument("--output", type=Path, default=RESULTS / "embedded_quality.json")
    arguments = parser.parse_args()
    if not COLLECTIONS.is_dir():
        raise SystemExit(f"expected the collections in {COLLECTIONS}; they are not part of the repository")
    torch.set_num_threads(1)
    shipped = load_scorer(arguments.model)
    every = load_scorer(arguments.model, heads="all")
    scorers: dict[str, ScoreLists] = {
        "all heads": scores_of(every),
        "head set": scores_of(shipped),
    }
    tables: dict[str, dict[str, Quality]] = {}
    for name in arguments.lists:
        lists = [entry for entry in build_lists(name) if entry.is_dev == (arguments.part == "dev")]
        tables[name] = measure_list(lists, scorers)
        print("\n".join(_lines(name, tables[name])), flush=True)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "head_set": shipped.heads.id,
        "part": arguments.part,
        "lists": {
            name: {method: asdict(quality) for method, quality in table.items()} for name, table in tables.items()
        },
    }
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
