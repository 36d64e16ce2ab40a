"""What ``select`` says of its bundles: the records of its ``report.json``, and from stored rows to them."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean
from typing import Any, Final

from pydantic import Field

from pipelines.commit import StoredUnit
from pipelines.gold import relevant_of
from pipelines.labels import Qrels
from pipelines.measures import paired_bootstrap
from pipelines.plan import Plan
from pipelines.report.distributions import distribution
from pipelines.report.model import Asked
from pipelines.report.parts import FailedRows, Pace, asked_of
from pipelines.report.records import Distribution, ErrorGroup, Record, Run
from qrcore.records import DETECTION_QUERY

_BOOTSTRAP_SEED: Final = 20250609


class BundleResult(Record):
    """What came out: rows = scored + failed."""

    rows: int = Field(description="rows written")
    scored: int = Field(description="rows with a bundle")
    failed: int = Field(description="rows with an error instead of a bundle")
    empty: int = Field(description="of the bundles, those without a segment")
    empty_by_reason: Mapping[str, int] = Field(description="empty bundles by each flag that tells why")
    flags: Mapping[str, int] = Field(description="bundles by flag, empty or not")


class Tokens(Record):
    """Tokens as the target model counts them, over all bundles."""

    source: int = Field(description="tokens of all candidates")
    context: int = Field(description="tokens of the contexts that were made of them")
    compression_ratio: float | None = Field(description="context / source, null without a token")
    budget: int | None = Field(description="tokens allowed a bundle, null without a budget")
    per_source: Distribution = Field(description="source tokens per bundle")
    per_context: Distribution = Field(description="context tokens per bundle")
    ratio: Distribution = Field(description="compression ratio per bundle")
    budget_use: Distribution = Field(description="context tokens / budget per bundle, empty without a budget")
    segments: Distribution = Field(description="segments per bundle")


class Rounds(Record):
    """What the rankings behind the bundles took."""

    in_rounds: int = Field(description="bundles whose ranking took more than one prompt")
    windows: Distribution = Field(description="prompts per ranking")
    final_items: Distribution = Field(description="documents in the last prompt, all that policies by score look at")


class Gold(Record):
    """How much of what is judged relevant the bundles hold; means over the judged queries with a bundle."""

    qrels: str = Field(description="URI of the judgements")
    judged_queries: int = Field(description="queries with relevant documents and a bundle")
    missing_queries: int = Field(description="queries with relevant documents that failed or are not in the input")
    detection_queries: int = Field(description="judged queries that the heads were found on; left out of all of this")
    gold: int = Field(description="relevant documents of the judged queries")
    gold_missing: int = Field(description="of these, not among the candidates of their query; they count in recall")
    queries_without_their_gold: int = Field(description="judged queries of which no relevant document is a candidate")
    recall: float | None = Field(description="mean share of the relevant documents that are in the bundle")
    low: float | None = Field(description="lower end of its 95 % bootstrap interval over queries")
    high: float | None = Field(description="upper end")
    all_gold: int = Field(description="queries of which every relevant document is in the bundle")
    some_gold: int = Field(description="queries of which some are, and some not")
    no_gold: int = Field(description="queries of which none is")
    per_1k_tokens: float | None = Field(description="relevant documents per 1,000 context tokens, all together")


class BundleReport(Record):
    """Everything that ``report.json`` says about one run of select."""

    schema_version: str = "1.1"
    run: Run
    told: str = Field(description="policy, budget, tokenizer and order in words")
    asked: Asked
    result: BundleResult
    errors: tuple[ErrorGroup, ...] = Field(description="failed rows by code, most frequent first")
    tokens: Tokens
    rounds: Rounds
    gold: Gold | None = Field(description="null without judgements")
    pace: Pace | None = Field(default=None, description="how the run went, since 1.1")
    provenance: dict[str, Any]


@dataclass(slots=True)
class BundleCounts:
    """Takes stored units one by one; holds a few numbers a row. ``qrels``: judgements and where they come from."""

    plan: Plan
    qrels_uri: str | None = None
    qrels: Qrels | None = None
    rows: int = 0
    empty: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    numbers: dict[str, array[int]] = field(default_factory=lambda: defaultdict(partial(array, "q")))
    found: dict[str, tuple[int, int]] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    failed: FailedRows = field(default_factory=FailedRows)
    judged_tokens: int = 0

    def add(self, stored: StoredUnit) -> None:
        """Take in one unit."""
        for row in stored.answers.to_pylist():
            self.rows += 1
            if row["error"] is None:
                self._add_bundle(row)
            else:
                self.failed.add(row)

    def _add_bundle(self, row: Mapping[str, Any]) -> None:
        for name in ("context_tokens", "source_tokens", "windows", "final_items"):
            self.numbers[name].append(row[name])
        self.numbers["segments"].append(len(row["segments"]))
        self.flags.update(row["flags"])
        if not row["segments"]:
            self.empty.update(row["flags"] or ["no_flag"])
        self._add_gold(row)

    def _add_gold(self, row: Mapping[str, Any]) -> None:
        gold = relevant_of((self.qrels or {}).get(row["query_id"], {}))
        if gold and DETECTION_QUERY in row["flags"]:
            self.seen.add(row["query_id"])
        elif gold:
            kept = {name for segment in row["segments"] for name in segment["doc_ids"]}
            self.found[row["query_id"]] = (len(gold & kept), len(gold))
            self.judged_tokens += row["context_tokens"]

    def finish(self, run: Run, gold_missing: Mapping[str, int] | None = None, pace: Pace | None = None) -> BundleReport:
        """The report of everything that was added. ``gold_missing``: relevant documents that are no candidates, by
        query; None without judgements."""
        plan = self.plan
        return BundleReport(
            run=run,
            told=plan.provenance["told"],
            asked=asked_of(plan),
            result=self._result(),
            errors=self.failed.groups(),
            tokens=self._tokens(),
            rounds=Rounds(
                in_rounds=sum(windows > 1 for windows in self.numbers["windows"]),
                windows=distribution(self.numbers["windows"]),
                final_items=distribution(self.numbers["final_items"]),
            ),
            gold=self._gold(gold_missing or {}),
            pace=pace,
            provenance=plan.provenance,
        )

    def _result(self) -> BundleResult:
        bundles = self.numbers["segments"]
        return BundleResult(
            rows=self.rows,
            scored=len(bundles),
            failed=self.rows - len(bundles),
            empty=sum(not segments for segments in bundles),
            empty_by_reason=dict(self.empty.most_common()),
            flags=dict(self.flags.most_common()),
        )

    def _tokens(self) -> Tokens:
        context, source = self.numbers["context_tokens"], self.numbers["source_tokens"]
        budget = self.plan.provenance["settings"]["budget_tokens"]
        ratios = [kept / had for kept, had in zip(context, source, strict=True) if had]
        return Tokens(
            source=sum(source),
            context=sum(context),
            compression_ratio=sum(context) / sum(source) if sum(source) else None,
            budget=budget,
            per_source=distribution(source),
            per_context=distribution(context),
            ratio=distribution(ratios),
            budget_use=distribution([kept / budget for kept in context] if budget else []),
            segments=distribution(self.numbers["segments"]),
        )

    def _gold(self, gold_missing: Mapping[str, int]) -> Gold | None:
        if self.qrels is None or self.qrels_uri is None:
            return None
        recalls = {query_id: kept / gold for query_id, (kept, gold) in self.found.items()}
        interval = paired_bootstrap(recalls, dict.fromkeys(recalls, 0.0), _BOOTSTRAP_SEED) if recalls else None
        asked = sum(bool(relevant_of(judged)) for judged in self.qrels.values())
        missing = {query_id: gold_missing.get(query_id, 0) for query_id in self.found}
        return Gold(
            qrels=self.qrels_uri,
            judged_queries=len(recalls),
            missing_queries=asked - len(recalls) - len(self.seen),
            detection_queries=len(self.seen),
            gold=sum(gold for _, gold in self.found.values()),
            gold_missing=sum(missing.values()),
            queries_without_their_gold=sum(missing[one] == gold for one, (_, gold) in self.found.items()),
            recall=fmean(recalls.values()) if recalls else None,
            low=interval.low if interval else None,
            high=interval.high if interval else None,
            all_gold=sum(recall == 1 for recall in recalls.values()),
            some_gold=sum(0 < recall < 1 for recall in recalls.values()),
            no_gold=sum(recall == 0 for recall in recalls.values()),
            per_1k_tokens=_per_1k(self.found.values(), self.judged_tokens),
        )


def _per_1k(found: Collection[tuple[int, int]], tokens: int) -> float | None:
    return 1000 * sum(kept for kept, _ in found) / tokens if tokens else None
