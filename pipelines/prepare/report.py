"""What ``prepare`` says of what it made: ``report.json``, ``report.html`` and ``errors.jsonl``."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydantic import Field

from pipelines.prepare.verify import Marker
from pipelines.report.distributions import distribution
from pipelines.report.html import histogram, page_environment
from pipelines.report.parts import FailedRows, committed_run
from pipelines.report.records import Distribution, ErrorGroup, Record, Run
from pipelines.side_files import ErrorLines
from pipelines.storage import Storage, join

if TYPE_CHECKING:
    from pipelines.prepare.plan import PreparePlan

_EXAMPLES: Final = 5


class PreparedResult(Record):
    """What came out. One source row may give many rows of a shard."""

    source_rows: int = Field(description="rows of the input")
    prepared: int = Field(description="rows of shards")
    failed: int = Field(description="rows that could not be made, named in errors.jsonl")
    left_out: int = Field(description="source rows that the recipe leaves out on purpose (not judged in the split)")
    shards: int = Field(description="objects written")
    shard_bytes: int = Field(description="bytes of these objects")
    largest_shard: int = Field(description="bytes of the largest one")


class Duplicates(Record):
    """What stands more than once."""

    query_ids: int = Field(description="rows whose query_id stood in an earlier row; the next job fails them")
    examples: tuple[str, ...] = Field(description="some of these ids")
    rows_with_repeated_texts: int = Field(description="rows in which two candidates have the same title and text")
    repeated_texts: int = Field(description="such candidates")


class Judged(Record):
    """Queries and their gold documents."""

    with_gold: int = Field(description="rows with at least one relevant document")
    without_gold: int = Field(description="rows without any")
    gold: int = Field(description="relevant documents")
    gold_missing: int = Field(description="of these, not among the candidates of their query")
    queries_without_their_gold: int = Field(description="rows with gold of which no document is a candidate")


class PrepareReport(Record):
    """Everything that ``report.json`` says about one run of prepare."""

    schema_version: str = "1.1"
    run: Run
    recipe: str
    inputs: int
    result: PreparedResult
    errors: tuple[ErrorGroup, ...]
    candidates: Distribution = Field(description="candidates a row")
    characters: Distribution = Field(description="characters of all candidates of a row")
    longest: Distribution = Field(description="characters of the longest candidate of a row")
    duplicates: Duplicates
    judged: Judged
    config: dict[str, Any]
    provenance: dict[str, Any]
    unit_seconds: Distribution | None = Field(default=None, description="seconds of preparing a unit, since 1.1")


class PrepareReportBuilder:
    """Takes in markers one by one; holds three numbers and a hash a row, errors on disk."""

    def __init__(self) -> None:
        self.source_rows = 0
        self._counts: Counter[str] = Counter()
        self._sizes: list[int] = []
        self._seconds: list[float] = []
        self._numbers: dict[str, list[np.ndarray]] = {"candidates": [], "characters": [], "longest": []}
        self._seen = np.zeros(0, dtype=np.uint64)
        self._doubled: list[str] = []
        self._failed = FailedRows(_EXAMPLES)
        self._lines = ErrorLines()

    def add(self, marker: Marker) -> None:
        """Take in one unit."""
        footer = marker.footer
        self.source_rows += footer["source_rows"]
        self._seconds.append(footer["prepare_s"])
        self._sizes += [entry["size"] for entry in footer["objects"]]
        for name in ("prepared", "failed", "left_out"):
            self._counts[name] += footer[name]
        for name, values in self._numbers.items():
            values.append(getattr(marker, name))
        self._add_duplicates(marker)
        self._add_gold(marker)
        for row in marker.errors:
            self._lines.add_row(row)
            self._failed.add(row)

    def _add_duplicates(self, marker: Marker) -> None:
        _, first = np.unique(marker.query_hashes, return_index=True)
        repeated = np.isin(marker.query_hashes, self._seen)
        repeated |= ~np.isin(np.arange(len(repeated)), first)
        self._counts["doubled"] += int(repeated.sum())
        for place in np.flatnonzero(repeated)[: max(0, _EXAMPLES - len(self._doubled))].tolist():
            self._doubled.append(marker.query_ids[place].as_py())
        self._seen = np.union1d(self._seen, marker.query_hashes)
        self._counts["repeating_rows"] += int((marker.repeated_texts > 0).sum())
        self._counts["repeated_texts"] += int(marker.repeated_texts.sum())

    def _add_gold(self, marker: Marker) -> None:
        self._counts["with_gold"] += int((marker.gold > 0).sum())
        self._counts["gold"] += int(marker.gold.sum())
        self._counts["gold_missing"] += int(marker.gold_missing.sum())
        self._counts["no_gold_found"] += int(((marker.gold > 0) & (marker.gold == marker.gold_missing)).sum())

    def finish(
        self, plan: PreparePlan, recipe: str, output: str, driver: str, started: datetime, *, resumed: bool
    ) -> PrepareReport:
        """The report of a run whose units were all taken in."""
        counts = self._counts
        return PrepareReport(
            run=committed_run(plan, output, driver, started, datetime.now(UTC), resumed=resumed),
            recipe=recipe,
            inputs=len(plan.files),
            result=PreparedResult(
                source_rows=self.source_rows,
                prepared=counts["prepared"],
                failed=counts["failed"],
                left_out=counts["left_out"],
                shards=len(self._sizes),
                shard_bytes=sum(self._sizes),
                largest_shard=max(self._sizes, default=0),
            ),
            errors=self._failed.groups(),
            candidates=self._distribution("candidates"),
            characters=self._distribution("characters"),
            longest=self._distribution("longest"),
            duplicates=Duplicates(
                query_ids=counts["doubled"],
                examples=tuple(self._doubled),
                rows_with_repeated_texts=counts["repeating_rows"],
                repeated_texts=counts["repeated_texts"],
            ),
            judged=Judged(
                with_gold=counts["with_gold"],
                without_gold=counts["prepared"] - counts["with_gold"],
                gold=counts["gold"],
                gold_missing=counts["gold_missing"],
                queries_without_their_gold=counts["no_gold_found"],
            ),
            config=plan.config,
            provenance=plan.provenance,
            unit_seconds=distribution(self._seconds),
        )

    def _distribution(self, name: str) -> Distribution:
        values = self._numbers[name]
        return distribution(np.concatenate(values).tolist() if values else [])

    def write(self, storage: Storage, run_uri: str, folder: str, report: PrepareReport) -> list[str]:
        """Put errors.jsonl, report.json and report.html; their paths within the run."""
        errors = self._lines.write(storage, run_uri, folder)
        storage.create(join(run_uri, folder, "report.json"), report.model_dump_json(indent=1).encode())
        storage.create(join(run_uri, folder, "report.html"), render(report).encode())
        return [errors, *(f"{folder}/{name}" for name in ("report.json", "report.html"))]


def render(report: PrepareReport) -> str:
    """The page of a run: HTML with inline CSS and SVG, no script, no request; every text escaped."""
    drawn = {
        name: histogram(title, getattr(report, name), axis)
        for name, title, axis in (
            ("candidates", "Candidates per query", "candidates"),
            ("characters", "Characters per query", "characters"),
            ("longest", "Longest candidate per query", "characters"),
        )
    }
    drawn["unit_seconds"] = histogram("Seconds per unit", report.unit_seconds, "seconds", counted="units")
    return page_environment().get_template("prepare.html.j2").render(report=report, charts=drawn)
