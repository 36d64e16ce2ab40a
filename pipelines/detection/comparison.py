"""From the rows of all trials to what may be said of a choice of heads: means with intervals, paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Final

import pyarrow as pa

from pipelines.detection.rivals import CHOSEN, RANDOM, SAME_LAYERS
from pipelines.measures import Difference, paired_bootstrap

_SEED: Final = 0
#: In the first or the last part of the prompt.
_EARLY, _LATE = 1 / 3, 2 / 3


@dataclass(frozen=True, slots=True)
class SetQuality:
    """nDCG@10 of one head set over all queries with its 95 % interval, the chosen set's minus its own (paired), and the
    share of queries in which the gold document is ranked above the longest other one."""

    name: str
    queries: int
    ndcg_10: Difference
    chosen_minus: Difference
    above_longest: float | None


@dataclass(frozen=True, slots=True)
class DrawQuality:
    """Random sets of several seeds: mean of their means, and the standard deviation over seeds."""

    name: str
    mean: float
    deviation: float
    seeds: int


@dataclass(frozen=True, slots=True)
class PlaceQuality:
    """nDCG@10 of the chosen set where the gold document stands early or late in the prompt (thirds of it)."""

    order: str
    early: Difference | None
    late: Difference | None
    mean: Difference


@dataclass(slots=True)
class Trials:
    """What the rows of all units say: by order of documents, head set and query; ``prompt_tokens``: of a prompt of each
    query."""

    ndcg: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)
    longest: dict[tuple[str, str], list[bool]] = field(default_factory=dict)
    places: dict[str, dict[str, float]] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    kept_back: int = 0
    prompt_tokens: list[int] = field(default_factory=list)

    def add(self, rows: pa.Table) -> None:
        """Take in the rows of one unit."""
        for row in rows.select(["query_id", "trials", "prompt_tokens", "error"]).to_pylist():
            if row["error"] is not None:
                self.errors[row["error"]["code"]] = self.errors.get(row["error"]["code"], 0) + 1
            elif row["trials"] is None:
                self.kept_back += 1
            if row["trials"]:
                # The same documents in every order: one prompt is about as long as another.
                orders = {trial["order"] for trial in row["trials"]}
                self.prompt_tokens.append(row["prompt_tokens"] // len(orders))
            for trial in row["trials"] or ():
                key = (trial["order"], trial["head_set"])
                self.ndcg.setdefault(key, {})[row["query_id"]] = trial["ndcg_10"]
                if trial["above_longest"] is not None:
                    self.longest.setdefault(key, []).append(trial["above_longest"])
                self.places.setdefault(trial["order"], {})[row["query_id"]] = trial["gold_place"]

    @property
    def queries(self) -> int:
        """Queries that every set has ranked."""
        return max((len(values) for values in self.ndcg.values()), default=0)


def compare_sets(trials: Trials, order: str) -> list[SetQuality]:
    """Every set that was read in ``order``, the chosen one first, then by falling quality."""
    chosen = trials.ndcg.get((order, CHOSEN), {})
    found = [
        SetQuality(
            name=name,
            queries=len(values),
            ndcg_10=interval(values),
            chosen_minus=paired_bootstrap(chosen, values, _SEED),
            above_longest=_share(trials.longest.get((order, name), ())),
        )
        for (own_order, name), values in trials.ndcg.items()
        if own_order == order and values.keys() == chosen.keys()
    ]
    return sorted(found, key=lambda one: (one.name != CHOSEN, -one.ndcg_10.mean))


def draws(qualities: Sequence[SetQuality]) -> list[DrawQuality]:
    """Random sets by kind; none with fewer than two seeds."""
    found = []
    for kind in (RANDOM, SAME_LAYERS):
        means = [one.ndcg_10.mean for one in qualities if one.name.removeprefix(f"{kind}-").isdigit()]
        if len(means) > 1:
            found.append(DrawQuality(kind, fmean(means), stdev(means), len(means)))
    return found


def by_place(trials: Trials) -> list[PlaceQuality]:
    """The chosen set in every order of documents that it was read in."""
    found = []
    for (order, name), values in trials.ndcg.items():
        if name == CHOSEN:
            places = trials.places[order]
            early = {query: value for query, value in values.items() if places[query] <= _EARLY}
            late = {query: value for query, value in values.items() if places[query] >= _LATE}
            first, last = (interval(part) if part else None for part in (early, late))
            found.append(PlaceQuality(order, first, last, interval(values)))
    return found


def interval(values: Mapping[str, float]) -> Difference:
    """The mean over queries with its 95 % interval."""
    return paired_bootstrap(values, dict.fromkeys(values, 0.0), _SEED)


def _share(values: Sequence[bool]) -> float | None:
    return fmean(values) if values else None
