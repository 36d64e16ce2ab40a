"""What the audit says: the records of its ``report.json``, and from stored rows to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import Field

from pipelines.commit import StoredUnit
from pipelines.flips.masks import CONTROL
from pipelines.flips.model import NONE
from pipelines.flips.rates import Draws, Entry, Estimate, estimates, mean_estimate
from pipelines.flips.rows import INJECTED
from pipelines.plan import Plan
from pipelines.report.model import Asked
from pipelines.report.parts import FailedRows, asked_of
from pipelines.report.records import ErrorGroup, Record, Run
from pipelines.rows import Row
from qrcore.contracts.auditor import count_cases, rank_heads
from qrcore.heads import Head, ModelShape, all_heads

OUR_READING: Final = (
    "The protocol is our reading of the abstract of arXiv 2510.22866 and of notes about it: its text could not be had."
)


class Rate(Record):
    """A rate, or a difference of two, with its 95 % bootstrap interval over queries."""

    value: float
    low: float | None = Field(description="null where no resampled query counts")
    high: float | None
    n: int = Field(description="times of asking again that it is over")


class MaskRates(Record):
    """What the model says with some heads masked."""

    name: str = Field(description="none, top-K of the ranking, own (the model's head set), or a head set's id")
    heads: tuple[str, ...]
    rates: Mapping[str, Rate]
    change: Mapping[str, Rate] = Field(description="minus the model as it is, paired by query")
    control_sets: int = Field(description="sets of as many other heads of the same layers")
    controls: Mapping[str, Rate] = Field(description="mean over the control sets")
    beyond: Mapping[str, Rate] = Field(description="this minus that mean, paired by query")
    controls_below: Mapping[str, int] = Field(description="control sets with a lower rate")
    control_values: Mapping[str, tuple[float, ...]] = Field(description="rate with each control set")
    became: Mapping[str, int] = Field(description="verdicts on right answers, before and after, such as yes-no")


class Ranked(Record):
    """A head on the fit split."""

    head: str
    score: float = Field(description="share of rows in cases 1 and 2")
    cases: tuple[int, int, int, int] = Field(description="rows in each of the four cases")


class FlipResult(Record):
    """What came out: rows = scored + failed; scored = audited + kept for the other part."""

    rows: int
    scored: int
    failed: int
    audited: int = Field(description="rows of this part that were answered and asked again")
    correct: int = Field(description="of them answered right")


class FlipReport(Record):
    """Everything that ``report.json`` says about one run of the audit."""

    schema_version: str = "1.0"
    run: Run
    told: str
    note: str = OUR_READING
    asked: Asked
    result: FlipResult
    errors: tuple[ErrorGroup, ...]
    matrix: Mapping[str, tuple[int, int]] = Field(
        description="without masks, after right, wrong and injected answers: how often it stands by them, and gives up"
    )
    masks: tuple[MaskRates, ...] = Field(description="the model as it is first")
    ranking: tuple[Ranked, ...] = Field(description="all heads on the fit split, best first")
    next_masks: Mapping[str, tuple[str, ...]] = Field(description="what the held-out split is to be asked with")
    warnings: tuple[str, ...]
    provenance: dict[str, Any]


@dataclass(slots=True)
class FlipCounts:
    """Takes stored units one by one; holds a few numbers a row and mask."""

    plan: Plan
    shape: ModelShape
    masks: Mapping[str, tuple[str, ...]]
    rows: int = 0
    kept: int = 0
    audited: int = 0
    correct: int = 0
    entries: dict[str, list[Entry]] = field(default_factory=dict)
    looks: list[tuple[bool, Mapping[Head, bool]]] = field(default_factory=list)
    failed: FailedRows = field(default_factory=FailedRows)

    def add(self, stored: StoredUnit) -> None:
        """Take in one unit."""
        for row in stored.answers.to_pylist():
            self.rows += 1
            if row["error"] is not None:
                self.failed.add(row)
            elif row["asked"] is None:
                self.kept += 1
            else:
                self._add_audited(row)

    def _add_audited(self, row: Row) -> None:
        self.audited += 1
        self.correct += row["correct"]
        for asked in row["asked"]:
            injected = asked["first"] == INJECTED
            entry = Entry(
                query_id=row["query_id"],
                injected=injected,
                correct=row["correct"] and not injected,
                stands=not asked["flipped"],
                score=asked["p_yes"] - asked["p_no"],
                coherent=asked["coherent"],
            )
            self.entries.setdefault(asked["mask"], []).append(entry)
        if row["correct"] and row["looking"]:
            self._add_looks(row)

    def _add_looks(self, row: Row) -> None:
        """Only second thoughts about right answers say which heads go with them."""
        flipped = {
            one["follow_up"]: one["flipped"] for one in row["asked"] if one["first"] != INJECTED and one["mask"] == NONE
        }
        heads = all_heads(self.shape).head_list
        for looking in row["looking"]:
            named = set(looking["heads"])
            self.looks.append((flipped[looking["follow_up"]], {head: str(head) in named for head in heads}))

    def ranking(self) -> tuple[Ranked, ...]:
        """All heads by what they do when the model gives up a right answer; empty where nothing says."""
        counts = count_cases(self.looks)
        return tuple(
            Ranked(
                head=str(head), score=score, cases=(counts[head][1], counts[head][2], counts[head][3], counts[head][4])
            )
            for head, score in (rank_heads(counts) if counts else ())
        )

    def finish(
        self, run: Run, ranking: Sequence[Ranked], next_masks: Mapping[str, tuple[str, ...]], warnings: Sequence[str]
    ) -> FlipReport:
        """The report of everything that was added."""
        failed = self.rows - self.kept - self.audited
        return FlipReport(
            run=run,
            told=self.plan.provenance["told"],
            asked=asked_of(self.plan),
            result=FlipResult(
                rows=self.rows,
                scored=self.rows - failed,
                failed=failed,
                audited=self.audited,
                correct=self.correct,
            ),
            errors=self.failed.groups(),
            matrix=_matrix(self.entries.get(NONE, ())),
            masks=self._mask_rates(),
            ranking=tuple(ranking),
            next_masks=next_masks,
            warnings=tuple(warnings),
            provenance=self.plan.provenance,
        )

    def _mask_rates(self) -> tuple[MaskRates, ...]:
        if not self.entries:
            return ()
        draws = Draws.of([entry.query_id for entry in self.entries[NONE]])
        found = {name: estimates(entries, draws) for name, entries in self.entries.items()}
        named = [name for name in (NONE, *self.masks) if CONTROL not in name]
        return tuple(self._rates_of(name, found) for name in named)

    def _rates_of(self, name: str, found: Mapping[str, Mapping[str, Estimate]]) -> MaskRates:
        own, plain = found[name], found[NONE]
        sets = [estimate for other, estimate in found.items() if other.startswith(f"{name}{CONTROL}")]
        controls = {measure: mean_estimate([one[measure] for one in sets]) for measure in own} if sets else {}
        values = {measure: tuple(one[measure].value for one in sets) for measure in controls}
        return MaskRates(
            name=name,
            heads=self.masks.get(name, ()),
            rates={measure: _rate(one) for measure, one in own.items()},
            change={} if name == NONE else {measure: _rate(one.minus(plain[measure])) for measure, one in own.items()},
            control_sets=len(sets),
            controls={measure: _rate(one) for measure, one in controls.items()},
            beyond={measure: _rate(own[measure].minus(one)) for measure, one in controls.items()},
            controls_below={
                measure: sum(value < own[measure].value for value in of_sets) for measure, of_sets in values.items()
            },
            control_values=values,
            became=_became(self.entries[NONE], self.entries[name]),
        )


def _rate(estimate: Estimate) -> Rate:
    low, high = estimate.bounds
    known = low == low  # NaN is none
    return Rate(value=estimate.value, low=low if known else None, high=high if known else None, n=estimate.n)


def _matrix(entries: Sequence[Entry]) -> dict[str, tuple[int, int]]:
    counts: Counter[tuple[str, bool]] = Counter()
    for entry in entries:
        kind = INJECTED if entry.injected else "right" if entry.correct else "wrong"
        counts[(kind, entry.stands)] += 1
    return {kind: (counts[(kind, True)], counts[(kind, False)]) for kind in ("right", "wrong", INJECTED)}


def _became(before: Sequence[Entry], after: Sequence[Entry]) -> dict[str, int]:
    """Entries of all masks stand in the same order: that of rows, and of what they were asked."""
    said = {True: "yes", False: "no"}
    counts = Counter(
        f"{said[one.stands]}-{said[other.stands]}" for one, other in zip(before, after, strict=True) if one.correct
    )
    return {f"{one}-{other}": counts[f"{one}-{other}"] for one in said.values() for other in said.values()}
