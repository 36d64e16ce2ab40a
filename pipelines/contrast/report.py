"""What ``contrast`` says of its answers: the records of its ``report.json``, and from stored rows to them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Final

from pydantic import Field

from pipelines.answer_files import MEASURES, Mean
from pipelines.commit import StoredUnit
from pipelines.measures import paired_bootstrap
from pipelines.plan import Plan
from pipelines.report.distributions import distribution
from pipelines.report.model import Asked
from pipelines.report.parts import FailedRows, asked_of
from pipelines.report.records import Distribution, ErrorGroup, Record, Run
from pipelines.rows import Row

_BOOTSTRAP_SEED: Final = 20250609
_EXAMPLES: Final = 8
CONTRAST: Final = "contrast"
PLAIN: Final = "plain"
CONTROLS: Final = "control sets"


class ContrastResult(Record):
    """What came out: rows = scored + failed."""

    rows: int = Field(description="rows written")
    scored: int = Field(description="rows with an answer")
    failed: int = Field(description="rows with an error instead of an answer")
    ended: int = Field(description="answers that the model ended by itself")
    changed: int | None = Field(description="answers that differ from the plain ones, null where there are none")


class Changed(Record):
    """Steps (new tokens, and what ended them) at which contrast said another token than the model as it is."""

    steps: int = Field(description="steps of all answers")
    tokens: int = Field(description="of them with another token")
    share: float | None = Field(description="tokens / steps, null without a step")
    per_answer: Distribution = Field(description="share of an answer's steps with another token")
    mean_alpha: Distribution = Field(description="weight of the contrast, mean over an answer's steps")
    control_shares: tuple[float, ...] = Field(description="the same share with each control set, of its own steps")


class Way(Record):
    """One way to answer, measured where rows have gold answers."""

    name: str = Field(description="contrast, plain, or control sets (the mean over them)")
    measures: Mapping[str, Mean] = Field(description="mean over queries")
    gain: Mapping[str, Mean] | None = Field(description="contrast minus this, paired by query; null for contrast")


class Tuning(Record):
    """What became of masked answers as unfaithful samples."""

    pairs: int = Field(description="rows with a faithful and an unfaithful sample")
    left_out: Mapping[str, int] = Field(description="rows without, by why")
    faithful_from: Mapping[str, int] = Field(description="faithful samples by where they come from")
    faithful_support: Mean | None = Field(description="share of a faithful sample's tokens that its context holds")
    masked_support: Mean | None = Field(description="the same of unfaithful samples")


class Example(Record):
    """An answer that contrast changed."""

    query_id: str
    query: str
    plain: str
    contrast: str
    gold: tuple[str, ...]
    tokens_changed: int
    steps: int
    mean_alpha: float


class ContrastReport(Record):
    """Everything that ``report.json`` says about one run of contrast."""

    schema_version: str = "1.0"
    run: Run
    told: str = Field(description="model, heads, weight and contexts in words")
    asked: Asked
    result: ContrastResult
    errors: tuple[ErrorGroup, ...] = Field(description="failed rows by code, most frequent first")
    changed: Changed
    ways: tuple[Way, ...] = Field(description="empty without gold answers")
    tuning: Tuning | None = Field(description="null where nothing was masked alone")
    examples: tuple[Example, ...] = Field(description="answers that contrast changed most")
    prompt_tokens: Distribution
    new_tokens: Distribution
    provenance: dict[str, Any]


@dataclass(slots=True)
class ContrastCounts:
    """Takes stored units one by one; holds a few numbers a row. ``examples``: whether texts are kept for the report."""

    plan: Plan
    examples: bool
    rows: int = 0
    ended: int = 0
    changed: int = 0
    with_plain: int = 0
    steps: list[int] = field(default_factory=list)
    other: list[int] = field(default_factory=list)
    numbers: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    control_steps: dict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    values: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    tuning: _TuningCounts | None = None
    shown: list[Example] = field(default_factory=list)
    failed: FailedRows = field(default_factory=FailedRows)

    def add(self, stored: StoredUnit) -> None:
        """Take in one unit."""
        for row in stored.answers.to_pylist():
            self.rows += 1
            if row["error"] is None:
                self._add_answer(row)
            else:
                self.failed.add(row)

    def _add_answer(self, row: Row) -> None:
        self.ended += row["ended"]
        self.steps.append(row["steps"])
        self.other.append(row["tokens_changed"])
        for name in ("mean_alpha", "prompt_tokens", "new_tokens"):
            self.numbers[name].append(row[name])
        for number, control in enumerate(row["controls"]):
            self.control_steps[number].update({name: control[name] for name in ("steps", "tokens_changed")})
        if row["plain"] is not None:
            self._add_plain(row)
        if row["exact_match"] is not None:
            self._add_measures(row)
        if row["negative"] is not None:
            self.tuning = self.tuning or _TuningCounts()
            self.tuning.add(row["query_id"], row["negative"])

    def _add_plain(self, row: Row) -> None:
        self.with_plain += 1
        if row["plain"]["answer"] == row["answer"]:
            return
        self.changed += 1
        if self.examples:
            self.shown = sorted([*self.shown, _example(row)], key=_most_changed)[:_EXAMPLES]

    def _add_measures(self, row: Row) -> None:
        said = {CONTRAST: row} | ({PLAIN: row["plain"]} if row["plain"] else {})
        for name, scores in said.items():
            self._note(name, row["query_id"], {measure: scores[measure] for measure in MEASURES})
        if row["controls"]:
            means = {measure: fmean(one[measure] for one in row["controls"]) for measure in MEASURES}
            self._note(CONTROLS, row["query_id"], means)

    def _note(self, way: str, query_id: str, scores: Mapping[str, float]) -> None:
        for measure, value in scores.items():
            self.values.setdefault(way, {}).setdefault(measure, {})[query_id] = value

    def finish(self, run: Run) -> ContrastReport:
        """The report of everything that was added."""
        scored = len(self.steps)
        return ContrastReport(
            run=run,
            told=self.plan.provenance["told"],
            asked=asked_of(self.plan),
            result=ContrastResult(
                rows=self.rows,
                scored=scored,
                failed=self.rows - scored,
                ended=self.ended,
                changed=self.changed if self.with_plain else None,
            ),
            errors=self.failed.groups(),
            changed=self._changed(),
            ways=tuple(self._way(name) for name in (PLAIN, CONTRAST, CONTROLS) if name in self.values),
            tuning=self.tuning.finish() if self.tuning else None,
            examples=tuple(self.shown),
            prompt_tokens=distribution(self.numbers["prompt_tokens"]),
            new_tokens=distribution(self.numbers["new_tokens"]),
            provenance=self.plan.provenance,
        )

    def _changed(self) -> Changed:
        steps = sum(self.steps)
        return Changed(
            steps=steps,
            tokens=sum(self.other),
            share=sum(self.other) / steps if steps else None,
            per_answer=distribution([other / all_ for other, all_ in zip(self.other, self.steps, strict=True)]),
            mean_alpha=distribution(self.numbers["mean_alpha"]),
            control_shares=tuple(
                counts["tokens_changed"] / counts["steps"] for _, counts in sorted(self.control_steps.items())
            ),
        )

    def _way(self, name: str) -> Way:
        own, contrasted = self.values[name], self.values[CONTRAST]
        gain = {measure: mean_of(contrasted[measure], own[measure]) for measure in own}
        return Way(
            name=name,
            measures={measure: mean_of(values) for measure, values in own.items()},
            gain=None if name == CONTRAST else gain,
        )


@dataclass(slots=True)
class _TuningCounts:
    left_out: Counter[str] = field(default_factory=Counter)
    faithful_from: Counter[str] = field(default_factory=Counter)
    faithful: dict[str, float] = field(default_factory=dict)
    masked: dict[str, float] = field(default_factory=dict)

    def add(self, query_id: str, negative: Row) -> None:
        if negative["left_out"] is not None:
            self.left_out[negative["left_out"]] += 1
            return
        self.faithful_from[negative["faithful_from"]] += 1
        self.faithful[query_id], self.masked[query_id] = negative["faithful_support"], negative["support"]

    def finish(self) -> Tuning:
        return Tuning(
            pairs=len(self.masked),
            left_out=dict(self.left_out.most_common()),
            faithful_from=dict(self.faithful_from.most_common()),
            faithful_support=mean_of(self.faithful) if self.faithful else None,
            masked_support=mean_of(self.masked) if self.masked else None,
        )


def mean_of(values: Mapping[str, float], less: Mapping[str, float] | None = None) -> Mean:
    """The mean over queries of ``values``, or of their differences from ``less``, with its 95 % interval."""
    found = paired_bootstrap(values, dict.fromkeys(values, 0.0) if less is None else less, _BOOTSTRAP_SEED)
    return Mean(mean=found.mean, low=found.low, high=found.high, n=len(values))


def _example(row: Row) -> Example:
    return Example(
        query_id=row["query_id"],
        query=row["query"],
        plain=row["plain"]["answer"],
        contrast=row["answer"],
        gold=tuple(row["gold"] or ()),
        tokens_changed=row["tokens_changed"],
        steps=row["steps"],
        mean_alpha=row["mean_alpha"],
    )


def _most_changed(example: Example) -> tuple[float, str]:
    return -example.tokens_changed / example.steps, example.query_id
