"""What judgements say of a run, and the queries that are shown: both orders of every judged query, best first."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pipelines.labels import Qrels
from pipelines.measures import evaluate, paired_bootstrap, reciprocal_rank_fusion
from pipelines.report import model

MEASURES: Final = ("ndcg@10", "recall@10", "recall@5", "recall@1")

#: Looks up query texts: query_id -> (input URI, row) to query_id -> text.
QueryTexts = Callable[[Mapping[str, tuple[str, int]]], Mapping[str, str]]

_EXAMPLES_WITHOUT_LABELS: Final = 3
_BOOTSTRAP_SEED: Final = 20250609
_MEASURE_NAMES: Final = {"ndcg@10": "nDCG@10"}


class JudgedOrders:
    """Takes rankings one by one and keeps doc ids of those that are judged, or of the first few to be shown."""

    def __init__(self, qrels: Qrels | None) -> None:
        self._qrels = qrels
        self._first_stage: dict[str, list[str]] = {}
        self._reranked: dict[str, list[str]] = {}
        self._rows: dict[str, tuple[str, int]] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        """Take a scored row in."""
        query_id, ranking = row["query_id"], row["ranking"]
        if len(self._rows) < _EXAMPLES_WITHOUT_LABELS or (self._qrels and query_id in self._qrels):
            self._first_stage[query_id] = [item["doc_id"] for item in sorted(ranking, key=_first_stage_place)]
            self._reranked[query_id] = [item["doc_id"] for item in ranking]
            self._rows[query_id] = (row["source"]["uri"], row["source"]["row"])

    def quality(self, qrels_uri: str | None, *, has_first_stage: bool) -> model.Quality | None:
        """Measures over the judged queries that were scored; None without judgements."""
        if not self._qrels or qrels_uri is None:
            return None
        scored = self._judged_and_scored()
        missing = len(self._qrels) - len(scored)
        if not scored:
            return model.Quality(qrels=qrels_uri, judged_queries=0, missing_queries=missing, measures=())
        orders = (self._first_stage, self._reranked)
        fused = {q: reciprocal_rank_fusion([order[q] for order in orders]) for q in scored}
        before, after, both = (evaluate(scored, run, MEASURES) for run in (*orders, fused))
        measures = []
        for name in MEASURES:
            difference = paired_bootstrap(after.per_query[name], before.per_query[name], _BOOTSTRAP_SEED)
            measures.append(
                model.Measure(
                    name=_MEASURE_NAMES.get(name, name),
                    first_stage=before.means[name] if has_first_stage else None,
                    reranked=after.means[name],
                    fused=both.means[name] if has_first_stage else None,
                    difference=difference.mean if has_first_stage else None,
                    low=difference.low if has_first_stage else None,
                    high=difference.high if has_first_stage else None,
                )
            )
        return model.Quality(
            qrels=qrels_uri, judged_queries=len(scored), missing_queries=missing, measures=tuple(measures)
        )

    def examples(self, queries: QueryTexts, *, has_first_stage: bool) -> tuple[model.Example, ...]:
        """The largest gain, the largest loss and the query in the middle; without judgements the first three."""
        chosen = self._example_ids()
        texts = queries({query_id: self._rows[query_id] for query_id in chosen})
        return tuple(
            model.Example(
                query_id=query_id,
                query=texts[query_id],
                first_stage=self._places(query_id, self._first_stage) if has_first_stage else (),
                reranked=self._places(query_id, self._reranked),
            )
            for query_id in chosen
        )

    def _judged_and_scored(self) -> Qrels:
        return {q: self._qrels[q] for q in self._rows if q in self._qrels} if self._qrels else {}

    def _example_ids(self) -> list[str]:
        if not self._qrels:
            return list(self._rows)[:_EXAMPLES_WITHOUT_LABELS]
        scored = self._judged_and_scored()
        if not scored:
            return []
        before, after = (evaluate(scored, run, ["ndcg@10"]) for run in (self._first_stage, self._reranked))
        gains = {q: after.per_query["ndcg@10"][q] - before.per_query["ndcg@10"][q] for q in scored}
        ranked = sorted(gains, key=lambda q: (-gains[q], q))
        return list(dict.fromkeys([ranked[0], ranked[len(ranked) // 2], ranked[-1]]))

    def _places(self, query_id: str, orders: Mapping[str, Sequence[str]]) -> tuple[model.RankedDoc, ...]:
        judged = (self._qrels or {}).get(query_id, {})
        return tuple(
            model.RankedDoc(doc_id=doc_id, relevant=judged[doc_id] > 0 if doc_id in judged else None)
            for doc_id in orders[query_id]
        )


def _first_stage_place(item: Mapping[str, Any]) -> tuple[int, float, str]:
    score = item["input_score"]
    return item["input_rank"], math.inf if score is None else -score, item["doc_id"]
