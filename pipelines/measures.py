"""Measures of rankings against judgements, fusion of rankings, and how sure a difference is."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

import numpy as np
import pytrec_eval

from qrcore.errors import ConfigError, InputError

DEFAULT_MEASURES: Final = ("ndcg@10", "recall@1", "recall@5")

# Resampled places held at once: 32 MiB of indices.
_PLACES_AT_ONCE: Final = 4 * 2**20

_FAMILIES: Final = {"ndcg": "ndcg_cut", "recall": "recall", "success": "success", "map": "map_cut", "p": "P"}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Values by measure: `per_query` for each judged query, `means` over all of them."""

    per_query: dict[str, dict[str, float]]
    means: dict[str, float]


@dataclass(frozen=True, slots=True)
class Difference:
    """The mean of a minus b over queries, and the bounds of its 95 % interval."""

    mean: float
    low: float
    high: float


def evaluate(
    qrels: Mapping[str, Mapping[str, int]],
    run: Mapping[str, Sequence[str]],
    measures: Sequence[str] = DEFAULT_MEASURES,
) -> Evaluation:
    """Measure a run against judgements with trec_eval's definitions.

    `qrels`: relevance by query_id and doc_id. `run`: doc_ids by query_id, best first; the order counts, so equal
    scores cannot be reordered. A judged query that the run lacks counts 0; queries without judgements are ignored.
    `measures`: `ndcg@K` (gain = relevance, discount log2(rank + 1)), `recall@K`, `success@K`, `map@K`, `p@K`.
    Raises :class:`ConfigError` for another measure and :class:`InputError` for an empty `qrels` or a document that
    is ranked twice for one query.
    """
    if not qrels:
        raise InputError("expected judgements of at least one query, got none. Check the qrels.")
    keys = {measure: _trec_name(measure) for measure in measures}
    judged = {query_id: dict(relevant) for query_id, relevant in qrels.items()}
    scored = {query_id: _as_scores(query_id, run[query_id]) for query_id in qrels if query_id in run}
    evaluator = pytrec_eval.RelevanceEvaluator(judged, set(keys.values()))
    values = evaluator.evaluate(scored) if scored else {}
    per_query = {
        measure: {query_id: float(values.get(query_id, {}).get(key.replace(".", "_"), 0.0)) for query_id in qrels}
        for measure, key in keys.items()
    }
    return Evaluation(per_query, {measure: fmean(by_query.values()) for measure, by_query in per_query.items()})


def ndcg_of(scores: Sequence[float], relevance: Sequence[int], cutoff: int) -> float:
    """nDCG of one list by falling score, as :func:`evaluate` computes it; equal scores stay in the order given."""
    judged = {str(place): grade for place, grade in enumerate(relevance)}
    ranked = sorted(range(len(scores)), key=lambda place: -scores[place])
    measure = f"ndcg@{cutoff}"
    return evaluate({"query": judged}, {"query": [str(place) for place in ranked]}, (measure,)).means[measure]


def reciprocal_rank_fusion(rankings: Sequence[Sequence[str]], k: int = 60) -> list[str]:
    """Fuse rankings of one query: a document's score is the sum of 1 / (k + rank) over the rankings that hold it.

    Cormack, Clarke and Büttcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning methods",
    SIGIR 2009. Documents with equal sums come in the order in which the rankings, read one after the other, name them.
    """
    shares: dict[str, list[float]] = {}
    for ranking in rankings:
        for rank, doc_id in enumerate(ranking, start=1):
            shares.setdefault(doc_id, []).append(1.0 / (k + rank))
    # An exact sum, so that the order of the rankings cannot break a tie by rounding.
    return sorted(shares, key=lambda doc_id: -math.fsum(shares[doc_id]))


def paired_bootstrap(a: Mapping[str, float], b: Mapping[str, float], seed: int, rounds: int = 10_000) -> Difference:
    """The 95 % percentile interval of the mean of a minus b, from `rounds` resamples of the queries with replacement.

    `a`, `b`: one value per query_id, over the same queries, else :class:`InputError`. Equal seeds give equal bounds.
    """
    if rounds < 1:
        raise ConfigError(f"expected at least 1 round, got {rounds}. Use 1000 or more.")
    if not a or a.keys() != b.keys():
        raise InputError(
            f"expected values for the same queries, got {len(a)} and {len(b)}, {len(a.keys() & b.keys())} in common. "
            "Evaluate both runs against the same judgements."
        )
    differences = np.array([a[query_id] - b[query_id] for query_id in sorted(a)])
    means = np.sort(_resampled_means(differences, np.random.default_rng(seed), rounds))
    outside = math.floor(0.025 * (rounds - 1))
    return Difference(fmean(differences.tolist()), float(means[outside]), float(means[rounds - 1 - outside]))


def _resampled_means(values: np.ndarray, generator: np.random.Generator, rounds: int) -> np.ndarray:
    """The mean of each of ``rounds`` samples of ``values`` with replacement, each as large as ``values``."""
    # How often each different value is drawn follows a multinomial law. Measures of short lists take few values, so
    # that this is a small draw where drawing every query would be a large one.
    different, first, counts = np.unique(values, return_index=True, return_counts=True)
    as_met = np.argsort(first)  # so that swapping the two sides draws the same samples
    different, counts = different[as_met], counts[as_met]
    at_once = max(1, _PLACES_AT_ONCE // len(different))
    drawn = (
        generator.multinomial(len(values), counts / len(values), size=min(at_once, rounds - start)) @ different
        for start in range(0, rounds, at_once)
    )
    means: np.ndarray = np.concatenate(list(drawn)) / len(values)
    return means


def _trec_name(measure: str) -> str:
    parts = re.fullmatch(r"([a-z]+)@([1-9]\d*)", measure)
    if parts is None or parts[1] not in _FAMILIES:
        known = ", ".join(f"{family}@K" for family in _FAMILIES)
        raise ConfigError(f"expected a measure of {known}, got {measure!r}. Use one of these with a cut-off K.")
    return f"{_FAMILIES[parts[1]]}.{parts[2]}"


def _as_scores(query_id: str, ranking: Sequence[str]) -> dict[str, float]:
    # trec_eval sorts by score itself, and equal scores by doc_id: falling whole numbers keep our order.
    scores = {doc_id: float(len(ranking) - place) for place, doc_id in enumerate(ranking)}
    if len(scores) != len(ranking):
        raise InputError(f"query {query_id}: expected each document once, got one ranked twice. Check the run.")
    return scores
