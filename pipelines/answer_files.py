"""What answer puts beside its rows: errors, and a report of all answers together, as data and as a page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipelines.commit import StoredUnit
from pipelines.job import RunResult
from pipelines.labels import Qrels
from pipelines.plan import Plan
from pipelines.report.answer_page import render_answers
from pipelines.report.answers import MEASURES as MEASURES
from pipelines.report.answers import AnswerCounts, AnswerReport
from pipelines.report.answers import Mean as Mean
from pipelines.report.parts import committed_run
from pipelines.side_files import ErrorLines, read_side_file
from pipelines.storage import Storage, StorageOptions, join


@dataclass(frozen=True, slots=True)
class AnswerFileSettings:
    """When this driver began the run; judgements, if there are any, and where they come from; whether the report may
    show texts."""

    started_at: datetime
    qrels_uri: str | None = None
    qrels: Qrels | None = None
    examples: bool = True


class AnswerFiles:
    """Collects what the report says while units stream by; see :class:`pipelines.job.SideFileWriter`."""

    def __init__(self, plan: Plan, settings: AnswerFileSettings) -> None:
        self._plan, self._started_at = plan, settings.started_at
        self._errors = ErrorLines()
        self._counts = AnswerCounts(plan, settings.qrels_uri, settings.qrels, settings.examples)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is not known or not right of the head sets."""
        return tuple(self._plan.provenance["warnings"])

    def watch(self, units: Iterable[StoredUnit]) -> Iterator[StoredUnit]:
        """The same units, taken note of."""
        for stored in units:
            self._errors.add(stored)
            self._counts.add(stored)
            yield stored

    def write(
        self, storage: Storage, run_uri: str, driver: str, resumed: bool, write_s: Mapping[str, float]
    ) -> list[str]:
        """Put errors.jsonl, report.json and report.html; their paths within the run."""
        folder = f"commit/{driver}"
        errors = self._errors.write(storage, run_uri, folder)
        report = self.finish(run_uri, driver, resumed=resumed)
        contents = {"report.json": report.model_dump_json(indent=1), "report.html": render_answers(report)}
        for name, text in contents.items():
            storage.create(join(run_uri, folder, name), text.encode())
        return [errors, *(f"{folder}/{name}" for name in contents)]

    def finish(self, run_uri: str, driver: str, *, resumed: bool) -> AnswerReport:
        """The report of everything that was watched."""
        run = committed_run(self._plan, run_uri, driver, self._started_at, datetime.now(UTC), resumed=resumed)
        return self._counts.finish(run)


def read_report(result: RunResult, options: StorageOptions) -> dict[str, Any]:
    """The report of a committed run of answer."""
    return read_side_file(result.run_uri, result.manifest.side_files, "report.json", options)
