"""What ``answer`` says of its answers: the records of its ``report.json``, and from stored rows to them."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from pydantic import Field

from pipelines.commit import StoredUnit
from pipelines.labels import Qrels
from pipelines.measures import paired_bootstrap
from pipelines.plan import Plan
from pipelines.report.distributions import distribution
from pipelines.report.model import Asked
from pipelines.report.parts import FailedRows, Pace, asked_of
from pipelines.report.records import Distribution, ErrorGroup, Record, Run
from qrcore.answers import pair_accuracy, verdict
from qrcore.records import DETECTION_QUERY

_BOOTSTRAP_SEED: Final = 20250609
#: What an answer is measured by without a model, and what a judge says of it.
MEASURES: Final = ("exact_match", "sub_em", "token_f1")
JUDGED: Final = "judged"
_ALL: Final = (*MEASURES, JUDGED)
_VERDICTS: Final = (["TRUE"], ["FALSE"])
_EXAMPLES: Final = 3


class Mean(Record):
    """A mean over queries, or pairs, with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int = Field(description="queries or pairs that it is over")


class AnswerResult(Record):
    """What came out: rows = scored + failed."""

    rows: int = Field(description="rows written")
    scored: int = Field(description="rows with an answer")
    failed: int = Field(description="rows with an error instead of an answer")
    ended: int = Field(description="answers that the model ended by itself")
    empty: int = Field(description="answers without a word")
    detection_queries: int = Field(description="answers whose heads were found on their query: in no measure here")


class VariantReport(Record):
    """One way of answering, over the rows that it answered; measures are over those with gold answers."""

    name: str = Field(description="bundle, full, oracle, or a variant of the method; the first is the run's own")
    answered: int = Field(description="rows with such an answer")
    measures: Mapping[str, Mean] = Field(
        description="exact_match, sub_em, token_f1, and judged where a judge was asked"
    )
    unjudged: int = Field(description="answers of which the judge said neither yes nor no")
    verdicts: Mean | None = Field(description="share of right TRUE and FALSE, where the gold answer is one of them")
    pairs: Mean | None = Field(description="share of pairs of which the true and the false claim are both judged right")
    unfinished_pairs: int = Field(description="pairs left out, for a claim of them has no answer")
    shown_recall: Mean | None = Field(description="share of the relevant documents in the prompt, over judged queries")
    steered_recall: Mean | None = Field(description="share of them that attention was pushed to; null: to none ever")
    documents: Distribution = Field(description="documents in a prompt")
    prompt_tokens: Distribution
    new_tokens: Distribution
    behind: Mapping[str, Mean] = Field(description="the run's own variant minus this one, over the queries of both")


class VariantText(Record):
    """One variant's answer in an example."""

    name: str
    answer: str | None = Field(description="null where it could not be answered")
    sub_em: float | None


class AnswerExample(Record):
    """One row with all its answers."""

    query_id: str
    query: str
    gold: tuple[str, ...]
    answers: tuple[VariantText, ...]


class AnswerReport(Record):
    """Everything that ``report.json`` says about one run of answer."""

    schema_version: str = "1.0"
    run: Run
    told: str = Field(description="model, contexts and prompt in words")
    asked: Asked
    result: AnswerResult
    errors: tuple[ErrorGroup, ...] = Field(description="failed rows by code, most frequent first")
    variants: tuple[VariantReport, ...] = Field(description="the run's own first, then what it is compared with")
    qrels: str | None = Field(description="URI of the judgements")
    examples: tuple[AnswerExample, ...] = Field(description="some right and some wrong answers, none if not wanted")
    provenance: dict[str, Any]
    pace: Pace | None = Field(default=None, description="how the run went")


@dataclass(slots=True)
class _Variant:
    """Takes the answers of one variant one by one; holds a few numbers an answer."""

    answered: int = 0
    unjudged: int = 0
    values: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))
    pairs: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    incomplete: set[str] = field(default_factory=set)
    numbers: dict[str, array[int]] = field(default_factory=lambda: defaultdict(partial(array, "q")))

    def add(self, row: Mapping[str, Any], said: Mapping[str, Any], relevant: set[str]) -> None:
        """Take in what was ``said`` to a ``row`` with such ``relevant`` documents."""
        query_id, gold = row["query_id"], row["gold"]
        self.answered += 1
        for name in ("prompt_tokens", "new_tokens"):
            self.numbers[name].append(said[name])
        self.numbers["documents"].append(len(said["documents"]))
        for name in _ALL:
            if said[name] is not None:
                self.values[name][query_id] = float(said[name])
        if gold in _VERDICTS:
            self.values["verdicts"][query_id] = float(verdict(said["answer"]) == gold[0])
            if row["pair"] is not None:
                self.pairs[row["pair"]].append((said["answer"], gold[0]))
        for name, shown in (("shown_recall", said["documents"]), ("steered_recall", said["steered"])):
            if relevant and shown is not None:
                self.values[name][query_id] = len(relevant & set(shown)) / len(relevant)

    def miss(self, row: Mapping[str, Any]) -> None:
        """Take in a row that this variant has no answer to."""
        if row["pair"] is not None and row["gold"] in _VERDICTS:
            self.incomplete.add(row["pair"])

    def finish(self, name: str, own: _Variant) -> VariantReport:
        """What was found; ``own``: the run's own variant."""
        whole = {pair: claims for pair, claims in self.pairs.items() if len(claims) == 2}
        pairs = {pair: claims for pair, claims in whole.items() if pair not in self.incomplete}
        return VariantReport(
            name=name,
            answered=self.answered,
            measures={one: mean for one in _ALL if (mean := _mean(self.values[one]))},
            unjudged=self.unjudged,
            verdicts=_mean(self.values["verdicts"]),
            pairs=_mean(pair_accuracy(pairs)),
            unfinished_pairs=len(self.pairs.keys() | self.incomplete) - len(pairs),
            shown_recall=_mean(self.values["shown_recall"]),
            steered_recall=_mean(self.values["steered_recall"]),
            documents=distribution(self.numbers["documents"]),
            prompt_tokens=distribution(self.numbers["prompt_tokens"]),
            new_tokens=distribution(self.numbers["new_tokens"]),
            behind={} if own is self else dict(_differences(own, self)),
        )


def _differences(own: _Variant, other: _Variant) -> Iterator[tuple[str, Mean]]:
    for name in (*_ALL, "verdicts"):
        both = own.values[name].keys() & other.values[name].keys()
        if both:
            ours, theirs = ({query: one.values[name][query] for query in both} for one in (own, other))
            found = paired_bootstrap(ours, theirs, _BOOTSTRAP_SEED)
            yield name, Mean(mean=found.mean, low=found.low, high=found.high, n=len(both))


def _mean(values: Mapping[str, float]) -> Mean | None:
    if not values:
        return None
    found = paired_bootstrap(values, dict.fromkeys(values, 0.0), _BOOTSTRAP_SEED)
    return Mean(mean=found.mean, low=found.low, high=found.high, n=len(values))


@dataclass(slots=True)
class AnswerCounts:
    """Takes stored units one by one. ``qrels``: judgements and where they come from; ``examples``: keep some texts."""

    plan: Plan
    qrels_uri: str | None = None
    qrels: Qrels | None = None
    examples: bool = True
    counts: Counter[str] = field(default_factory=Counter)
    variants: dict[str, _Variant] = field(default_factory=dict)
    failed: FailedRows = field(default_factory=FailedRows)
    shown: dict[bool, list[AnswerExample]] = field(default_factory=lambda: {True: [], False: []})

    def __post_init__(self) -> None:
        self.variants = {name: _Variant() for name in self.plan.provenance["variants"]}

    def add(self, stored: StoredUnit) -> None:
        """Take in one unit."""
        for row in stored.answers.to_pylist():
            self.counts["rows"] += 1
            if row["error"] is None:
                self._add_answer(row)
            else:
                self.failed.add(row)
                for variant in self.variants.values():
                    variant.miss(row)

    def _add_answer(self, row: Mapping[str, Any]) -> None:
        self.counts.update(scored=1, ended=int(row["ended"]), empty=int(not row["answer"].strip()))
        if DETECTION_QUERY in row["flags"]:
            self.counts["detection_queries"] += 1
            return
        said = self._said(row)
        judged = (self.qrels or {}).get(row["query_id"], {})
        relevant = {doc_id for doc_id, relevance in judged.items() if relevance > 0}
        for name, variant in self.variants.items():
            if said[name]["error"] is None:
                variant.add(row, said[name], relevant)
                variant.unjudged += self._lacks_verdict(row, said[name])
            else:
                variant.miss(row)
        self._add_example(row, said)

    def _said(self, row: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
        own = next(iter(self.variants))
        return {own: row, **{one["name"]: one for one in row["baselines"]}}

    def _lacks_verdict(self, row: Mapping[str, Any], said: Mapping[str, Any]) -> bool:
        return bool(self.plan.provenance["judge"] and row["gold"] and said[JUDGED] is None)

    def _add_example(self, row: Mapping[str, Any], said: Mapping[str, Mapping[str, Any]]) -> None:
        if not self.examples or not row["gold"]:
            return
        kind = self.shown[row["sub_em"] == 1]
        if len(kind) < _EXAMPLES:
            texts = [VariantText(name=name, answer=one["answer"], sub_em=one["sub_em"]) for name, one in said.items()]
            kind.append(
                AnswerExample(
                    query_id=row["query_id"], query=row["query"], gold=tuple(row["gold"]), answers=tuple(texts)
                )
            )

    def finish(self, run: Run, pace: Pace | None = None) -> AnswerReport:
        """The report of everything that was added."""
        counts, plan = self.counts, self.plan
        own = next(iter(self.variants.values()))
        return AnswerReport(
            run=run,
            told=plan.provenance["told"],
            asked=asked_of(plan),
            result=AnswerResult(
                rows=counts["rows"],
                scored=counts["scored"],
                failed=counts["rows"] - counts["scored"],
                ended=counts["ended"],
                empty=counts["empty"],
                detection_queries=counts["detection_queries"],
            ),
            errors=self.failed.groups(),
            variants=tuple(variant.finish(name, own) for name, variant in self.variants.items()),
            qrels=self.qrels_uri,
            examples=(*self.shown[True], *self.shown[False]),
            provenance=plan.provenance,
            pace=pace,
        )


def own_variant(report: AnswerReport) -> VariantReport:
    """The variant whose answers are the run's own."""
    return report.variants[0]


def compared(report: AnswerReport) -> Sequence[VariantReport]:
    """What it is compared with."""
    return report.variants[1:]
