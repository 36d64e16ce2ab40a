"""From stored units to the report: everything is added up unit by unit, so no ranking is kept."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from pipelines.commit import StoredUnit
from pipelines.labels import Qrels
from pipelines.measures import evaluate, paired_bootstrap, reciprocal_rank_fusion
from pipelines.plan import Plan
from pipelines.report import model
from pipelines.report.costs import cost_of
from pipelines.report.distributions import ContextCounts, distribution
from pipelines.report.memory import memory_of
from pipelines.report.pace import throughput, unit_of, wall_seconds
from pipelines.report.parts import FailedRows, asked_of, committed_run
from qrcore.matching import length_warnings
from qrcore.records import DETECTION_QUERY

_EXAMPLES_WITHOUT_LABELS: Final = 3
_MOVEMENT_DEPTH: Final = 20
# A pause between units that is longer than this is downtime, not work.
_BRIDGED_GAP_S: Final = 10.0
_BOOTSTRAP_SEED: Final = 20250609
_MEASURE_NAMES: Final = {"ndcg@10": "nDCG@10"}
_SUMMED: Final = ("rows", "scored", "failed", "uninformative")
_MEASURES: Final = ("ndcg@10", "recall@10", "recall@5", "recall@1")

#: Looks up query texts: query_id -> (input URI, row) to query_id -> text.
QueryTexts = Callable[[Mapping[str, tuple[str, int]]], Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What the driver knows of the run beside its units."""

    driver: str
    output: str
    started_at: datetime
    finished_at: datetime
    resumed: bool
    write_seconds: Mapping[str, float]
    qrels_uri: str | None


@dataclass(slots=True)
class _Orders:
    """Doc ids best first, per judged query; ``seen``: judged queries that the heads were found on."""

    first_stage: dict[str, list[str]] = field(default_factory=dict)
    reranked: dict[str, list[str]] = field(default_factory=dict)
    rows: dict[str, tuple[str, int]] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)


class ReportBuilder:
    """Takes stored units one by one in plan order and makes the report at the end."""

    def __init__(self, plan: Plan, qrels: Qrels | None) -> None:
        self._plan = plan
        self._qrels = qrels
        self._orders = _Orders()
        self._footers: list[dict[str, Any]] = []
        self._output_bytes = 0
        self._failed = FailedRows()
        self._prompt_tokens = array("q")
        self._prompt_lengths = array("q")  # of one prompt, where a row took several
        self._candidates = array("q")
        self._margins = array("d")
        self._contexts = ContextCounts()
        self._moves: Counter[tuple[int, int]] = Counter()
        self._has_first_stage = plan.order == "reversed"  # for ranks without scores; the plan knows of both

    def add(self, stored: StoredUnit) -> None:
        """Take one unit's answers in."""
        self._footers.append(stored.footer)
        self._output_bytes += stored.entry.size
        for row in stored.answers.to_pylist():
            if row["error"] is None:
                self._add_ranking(row)
            else:
                self._failed.add(row)

    def _add_ranking(self, row: Mapping[str, Any]) -> None:
        ranking = row["ranking"]
        self._prompt_tokens.append(row["prompt_tokens"])
        self._prompt_lengths.append(row["prompt_tokens"] // (row["windows"] or 1))
        self._candidates.append(len(ranking))
        self._contexts.add(row["windows"], ranking)
        if len(ranking) > 1 and ranking[0]["round"] == ranking[1]["round"]:  # of one prompt, so comparable
            self._margins.append(ranking[0]["score"] - ranking[1]["score"])
        self._has_first_stage = self._has_first_stage or any(item["input_score"] is not None for item in ranking)
        for item in ranking:
            if item["input_rank"] <= _MOVEMENT_DEPTH and item["rank"] <= _MOVEMENT_DEPTH:
                self._moves[(item["input_rank"], item["rank"])] += 1
        query_id = row["query_id"]
        if self._qrels and query_id in self._qrels and DETECTION_QUERY in (row["flags"] or ()):
            self._orders.seen.add(query_id)
            return
        if len(self._orders.rows) < _EXAMPLES_WITHOUT_LABELS or (self._qrels and query_id in self._qrels):
            by_input = sorted(ranking, key=_first_stage_place)
            self._orders.first_stage[query_id] = [item["doc_id"] for item in by_input]
            self._orders.reranked[query_id] = [item["doc_id"] for item in ranking]
            self._orders.rows[query_id] = (row["source"]["uri"], row["source"]["row"])

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the prompts of the rows that were added give cause to warn of."""
        facts = self._plan.provenance
        return length_warnings(facts["head_set"]["id"], facts.get("detection_tokens"), self._prompt_lengths)

    def finish(self, facts: RunFacts, queries: QueryTexts | None) -> model.RunReport:
        """The report of everything that was added; ``queries`` looks up the texts of the examples, None: has none."""
        totals = {name: sum(footer[name] for footer in self._footers) for name in _SUMMED}
        return model.RunReport(
            run=committed_run(
                self._plan, facts.output, facts.driver, facts.started_at, facts.finished_at, resumed=facts.resumed
            ),
            asked=asked_of(self._plan),
            result=model.Result(
                rows=totals["rows"],
                scored=totals["scored"],
                failed=totals["failed"],
                uninformative=totals["uninformative"],
                objects=len(self._footers),
                output_bytes=self._output_bytes,
            ),
            errors=self._failed.groups(),
            throughput=throughput(
                self._plan.config,
                self._footers,
                facts.write_seconds,
                facts.started_at,
                facts.finished_at,
                resumed=facts.resumed,
            ),
            cost=cost_of(self._plan.config, self._footers, wall_seconds(self._footers)),
            memory=memory_of(self._footers),
            units=tuple(unit_of(footer, facts.write_seconds) for footer in self._footers),
            distributions=model.Distributions(
                prompt_tokens=distribution(self._prompt_tokens),
                candidates=distribution(self._candidates),
                unit_seconds=distribution([footer["score_s"] for footer in self._footers]),
                unit_wait=distribution([footer.get("wait_s", 0.0) for footer in self._footers]),
                margin=distribution(self._margins),
            ),
            contexts=self._contexts.finish(self._plan.provenance.get("contexts")),
            movement=self._movement(),
            quality=self._quality(facts.qrels_uri),
            examples=self._examples(queries) if queries else (),
            provenance=_provenance(self._plan),
            warnings=(*self._plan.provenance.get("warnings", ()), *self.warnings),
        )

    def _movement(self) -> model.Movement | None:
        if not self._moves or not self._has_first_stage:
            return None
        depth = max(max(move) for move in self._moves)
        counts = [[self._moves[(old, new)] for new in range(1, depth + 1)] for old in range(1, depth + 1)]
        return model.Movement(depth=depth, counts=tuple(tuple(row) for row in counts))

    def _quality(self, qrels_uri: str | None) -> model.Quality | None:
        if not self._qrels or qrels_uri is None:
            return None
        orders, scored = self._orders, self._judged_and_scored()
        seen = len(orders.seen)
        missing = len(self._qrels) - len(scored) - seen
        if not scored:
            return model.Quality(
                qrels=qrels_uri, judged_queries=0, missing_queries=missing, detection_queries=seen, measures=()
            )
        fused = {q: reciprocal_rank_fusion([orders.first_stage[q], orders.reranked[q]]) for q in scored}
        before, after, both = (evaluate(scored, run, _MEASURES) for run in (orders.first_stage, orders.reranked, fused))
        measures = []
        for name in _MEASURES:
            difference = paired_bootstrap(after.per_query[name], before.per_query[name], _BOOTSTRAP_SEED)
            measures.append(
                model.Measure(
                    name=_MEASURE_NAMES.get(name, name),
                    first_stage=before.means[name] if self._has_first_stage else None,
                    reranked=after.means[name],
                    fused=both.means[name] if self._has_first_stage else None,
                    difference=difference.mean if self._has_first_stage else None,
                    low=difference.low if self._has_first_stage else None,
                    high=difference.high if self._has_first_stage else None,
                )
            )
        return model.Quality(
            qrels=qrels_uri,
            judged_queries=len(scored),
            missing_queries=missing,
            detection_queries=seen,
            measures=tuple(measures),
        )

    def _judged_and_scored(self) -> Qrels:
        return {q: self._qrels[q] for q in self._orders.rows if q in self._qrels} if self._qrels else {}

    def _examples(self, queries: QueryTexts) -> tuple[model.Example, ...]:
        chosen = self._example_ids()
        texts = queries({query_id: self._orders.rows[query_id] for query_id in chosen})
        return tuple(
            model.Example(
                query_id=query_id,
                query=texts[query_id],
                first_stage=self._places(query_id, self._orders.first_stage) if self._has_first_stage else (),
                reranked=self._places(query_id, self._orders.reranked),
            )
            for query_id in chosen
        )

    def _example_ids(self) -> list[str]:
        """The largest gain, the largest loss and the query in the middle; without labels the first three."""
        if not self._qrels:
            return list(self._orders.rows)[:_EXAMPLES_WITHOUT_LABELS]
        scored = self._judged_and_scored()
        if not scored:
            return []
        before, after = (
            evaluate(scored, run, ["ndcg@10"]) for run in (self._orders.first_stage, self._orders.reranked)
        )
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


def _provenance(plan: Plan) -> model.Provenance:
    facts = plan.provenance
    packages = dict(facts["packages"])
    return model.Provenance(
        code_version=facts["code_version"],
        source_sha256=facts["source_sha256"],
        python=packages.pop("python"),
        packages=packages,
        model=model.ModelRecord(**facts["model"]),
        head_set=model.HeadSetRecord(**facts["head_set"]),
        prompt=model.PromptRecord(name=facts["prompt"]["name"], sha256=facts["prompt"]["sha256"]),
        settings={"max_tokens": facts["max_tokens"], **facts["settings"]},
        dtype=facts["dtype"],
        device=facts["device"],
        config_hash=plan.config_hash,
        input_hash=plan.input_hash,
    )
