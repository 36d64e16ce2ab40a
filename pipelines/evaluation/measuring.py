"""Measures by name with ``ir-measures``, and those of bundles. The rank column is the order, never a score."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import ir_measures

from pipelines.evaluation.readings import Reading
from pipelines.labels import Qrels
from qrcore.errors import ConfigError, InputError

RANKING_MEASURES: Final = ("ndcg@10", "recall@5", "recall@10", "any@10", "all@10", "map", "mrr", "precision@5")
BUNDLE_MEASURES: Final = ("gold_recall", "any_gold", "all_gold", "tokens_kept", "gold_per_1k_tokens")

_FAMILIES: Final[dict[str, Any]] = {
    "ndcg": ir_measures.nDCG,
    "recall": ir_measures.R,
    "any": ir_measures.Success,
    "all": ir_measures.R,
    "map": ir_measures.AP,
    "mrr": ir_measures.RR,
    "precision": ir_measures.P,
}
_NEEDS_CUTOFF: Final = frozenset({"ndcg", "recall", "any", "all", "precision"})

Values = dict[str, dict[str, float]]


def check_measures(names: Sequence[str]) -> None:
    """Raise :class:`ConfigError` for a name that is no measure."""
    for name in names:
        if name not in BUNDLE_MEASURES:
            _measure(name)


def measure(reading: Reading, qrels: Qrels, names: Sequence[str]) -> Values:
    """Values by measure and judged query. A judged query that the run lacks, or failed, counts as zero.

    ``any@k`` is 1 with at least one relevant document in the first k, ``all@k`` with all of them. Measures of bundles
    are left out for rankings and the other way round. Raises :class:`ConfigError` and :class:`InputError`.
    """
    if not qrels:
        raise InputError("expected judgements of at least one query, got none. Check the qrels.")
    if reading.kind == "bundle":
        return {name: _of_bundles(name, reading, qrels) for name in names if name in BUNDLE_MEASURES}
    wanted = [name for name in names if name not in BUNDLE_MEASURES]
    run = {query_id: _falling(reading.rankings[query_id]) for query_id in qrels if reading.rankings.get(query_id)}
    judged = {query_id: dict(found) for query_id, found in qrels.items()}
    return {name: _values(name, judged, run) for name in wanted}


def _values(name: str, qrels: Qrels, run: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    values = dict.fromkeys(qrels, 0.0)
    if run:
        for metric in ir_measures.iter_calc([_measure(name)], qrels, run):
            values[metric.query_id] = float(metric.value)
    if name.startswith("all@"):
        return {query_id: float(value >= 1.0) for query_id, value in values.items()}
    return values


def _measure(name: str) -> Any:
    parts = re.fullmatch(r"([a-z]+)(?:@([1-9]\d*))?", name)
    if parts is None or parts[1] not in _FAMILIES or (parts[2] is None and parts[1] in _NEEDS_CUTOFF):
        known = ", ".join(f"{family}@K" for family in _FAMILIES)
        raise ConfigError(
            f"measures: expected one of {known}, map, mrr or {', '.join(BUNDLE_MEASURES)}; got {name!r}. Correct it."
        )
    family = _FAMILIES[parts[1]]
    return family @ int(parts[2]) if parts[2] else family


def _falling(doc_ids: Sequence[str]) -> dict[str, float]:
    # trec_eval sorts by score, and equal ones by id: falling whole numbers say the same as the ranks.
    return {doc_id: float(len(doc_ids) - place) for place, doc_id in enumerate(doc_ids)}


def _of_bundles(name: str, reading: Reading, qrels: Qrels) -> dict[str, float]:
    return {query_id: _of_bundle(name, reading, query_id, judged) for query_id, judged in qrels.items()}


def _of_bundle(name: str, reading: Reading, query_id: str, judged: Mapping[str, int]) -> float:
    gold = {doc_id for doc_id, relevance in judged.items() if relevance > 0}
    size = reading.sizes.get(query_id)
    if size is None or not gold:
        return 0.0
    found = len(gold & set(reading.rankings[query_id]))
    values = {
        "gold_recall": found / len(gold),
        "any_gold": float(found > 0),
        "all_gold": float(found == len(gold)),
        "tokens_kept": size.context_tokens / size.source_tokens if size.source_tokens else 0.0,
        "gold_per_1k_tokens": 1000 * found / size.context_tokens if size.context_tokens else 0.0,
    }
    return values[name]
