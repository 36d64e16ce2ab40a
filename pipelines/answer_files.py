"""What answer puts beside its rows: errors, and a report with the measures of all answers together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import Field

from pipelines.commit import StoredUnit
from pipelines.job import RunResult
from pipelines.measures import paired_bootstrap
from pipelines.plan import Plan
from pipelines.report.distributions import distribution
from pipelines.report.parts import committed_run
from pipelines.report.records import Distribution, Record, Run
from pipelines.side_files import ErrorLines, read_side_file
from pipelines.storage import Storage, StorageOptions, join
from qrcore.answers import pair_accuracy, verdict

_BOOTSTRAP_SEED: Final = 20250609
MEASURES: Final = ("exact_match", "sub_em", "token_f1")
_VERDICTS: Final = (["TRUE"], ["FALSE"])


class AnswerResult(Record):
    """What came out: rows = scored + failed."""

    rows: int = Field(description="rows written")
    scored: int = Field(description="rows with an answer")
    failed: int = Field(description="rows with an error instead of an answer")
    ended: int = Field(description="answers that the model ended by itself")
    empty: int = Field(description="answers without a word")


class Mean(Record):
    """A mean over queries, or pairs, with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int = Field(description="queries or pairs that it is over")


class AnswerReport(Record):
    """Everything that ``report.json`` says about one run of answer."""

    schema_version: str = "1.0"
    run: Run
    result: AnswerResult
    errors: Mapping[str, int] = Field(description="failed rows by code")
    measures: Mapping[str, Mean] = Field(description="over answers whose row has gold answers")
    verdicts: Mean | None = Field(description="share of right TRUE and FALSE, where the gold answer is one of them")
    pairs: Mean | None = Field(description="share of pairs of which the true and the false claim are both judged right")
    unfinished_pairs: int = Field(description="pairs left out, for a claim of them has no answer")
    prompt_tokens: Distribution
    new_tokens: Distribution
    config: dict[str, Any]
    provenance: dict[str, Any]


class AnswerFiles:
    """Collects what the report says while units stream by; see :class:`pipelines.job.SideFileWriter`."""

    def __init__(self, plan: Plan, started_at: datetime) -> None:
        self._plan, self._started_at = plan, started_at
        self._errors = ErrorLines()
        self._counts: Counter[str] = Counter()
        self._codes: Counter[str] = Counter()
        self._values: dict[str, dict[str, float]] = {name: {} for name in MEASURES}
        self._verdicts: dict[str, float] = {}
        self._pairs: dict[str, list[tuple[str, str]]] = defaultdict(list)
        self._tokens: dict[str, list[int]] = {"prompt_tokens": [], "new_tokens": []}
        self._incomplete: set[str] = set()

    @property
    def warnings(self) -> tuple[str, ...]:
        """None: what there is to say stands in the report."""
        return ()

    def watch(self, units: Iterable[StoredUnit]) -> Iterator[StoredUnit]:
        """The same units, taken note of."""
        for stored in units:
            self._errors.add(stored)
            for row in stored.answers.to_pylist():
                self._add(row)
            yield stored

    def _add(self, row: Mapping[str, Any]) -> None:
        self._counts["rows"] += 1
        if row["error"] is not None:
            self._codes[row["error"]["code"]] += 1
            if row["pair"] is not None and row["gold"] in _VERDICTS:
                self._incomplete.add(row["pair"])
            return
        self._counts["scored"] += 1
        self._counts["ended"] += row["ended"]
        self._counts["empty"] += not row["answer"].strip()
        for name, values in self._tokens.items():
            values.append(row[name])
        if row["exact_match"] is not None:
            for name in MEASURES:
                self._values[name][row["query_id"]] = row[name]
        if row["gold"] in _VERDICTS:
            self._add_verdict(row, row["gold"][0])

    def _add_verdict(self, row: Mapping[str, Any], gold: str) -> None:
        self._verdicts[row["query_id"]] = float(verdict(row["answer"]) == gold)
        if row["pair"] is not None:
            self._pairs[row["pair"]].append((row["answer"], gold))

    def write(
        self, storage: Storage, run_uri: str, driver: str, resumed: bool, write_s: Mapping[str, float]
    ) -> list[str]:
        """Put errors.jsonl and report.json; their paths within the run."""
        folder = f"commit/{driver}"
        errors = self._errors.write(storage, run_uri, folder)
        report = self.finish(run_uri, driver, resumed=resumed)
        storage.create(join(run_uri, folder, "report.json"), report.model_dump_json(indent=1).encode())
        return [errors, f"{folder}/report.json"]

    def finish(self, run_uri: str, driver: str, *, resumed: bool) -> AnswerReport:
        """The report of everything that was watched."""
        counts, plan = self._counts, self._plan
        whole = {pair: claims for pair, claims in self._pairs.items() if len(claims) == 2}
        pairs = {pair: claims for pair, claims in whole.items() if pair not in self._incomplete}
        return AnswerReport(
            run=committed_run(plan, run_uri, driver, self._started_at, datetime.now(UTC), resumed=resumed),
            result=AnswerResult(
                rows=counts["rows"],
                scored=counts["scored"],
                failed=counts["rows"] - counts["scored"],
                ended=counts["ended"],
                empty=counts["empty"],
            ),
            errors=dict(self._codes.most_common()),
            measures={name: _mean(values) for name, values in self._values.items() if values},
            verdicts=_mean(self._verdicts) if self._verdicts else None,
            pairs=_mean(pair_accuracy(pairs)) if pairs else None,
            unfinished_pairs=len(self._pairs.keys() | self._incomplete) - len(pairs),
            prompt_tokens=distribution(self._tokens["prompt_tokens"]),
            new_tokens=distribution(self._tokens["new_tokens"]),
            config=plan.config,
            provenance=plan.provenance,
        )


def read_report(result: RunResult, options: StorageOptions) -> dict[str, Any]:
    """The report of a committed run of answer."""
    return read_side_file(result.run_uri, result.manifest.side_files, "report.json", options)


def _mean(values: Mapping[str, float]) -> Mean:
    found = paired_bootstrap(values, dict.fromkeys(values, 0.0), _BOOTSTRAP_SEED)
    return Mean(mean=found.mean, low=found.low, high=found.high, n=len(values))
