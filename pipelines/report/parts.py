"""What the reports of several jobs are made of alike: the run, what was asked, and failed rows by code."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pipelines.plan import Plan, RunPlan
from pipelines.report.model import Asked, InputFile, SkippedFile
from pipelines.report.records import ErrorExample, ErrorGroup, Run, SourceRow


def committed_run(
    plan: RunPlan, output: str, driver: str, started_at: datetime, finished_at: datetime, *, resumed: bool
) -> Run:
    """The run of this plan, as the driver that commits it tells of it."""
    return Run(
        run_id=plan.run_id,
        job=plan.job,
        name=plan.name,
        status="committed",
        started_at=started_at,
        finished_at=finished_at,
        seconds=(finished_at - started_at).total_seconds(),
        output=output,
        driver=driver,
        resumed=resumed,
    )


def asked_of(plan: Plan) -> Asked:
    """What a run was asked to do."""
    return Asked(
        inputs=tuple(InputFile(uri=file.uri, rows=file.rows, bytes=file.size) for file in plan.files),
        skipped_files=tuple(SkippedFile(uri=file.uri, reason=file.reason) for file in plan.skipped_files),
        rows=plan.rows,
        units=len(plan.units),
        config=plan.config,
    )


@dataclass(slots=True)
class FailedRows:
    """Takes failed rows (``query_id``, ``source``, ``error``) one by one; keeps ``most`` examples of a code."""

    most: int = 3
    _counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    _examples: dict[tuple[str, str], list[ErrorExample]] = field(default_factory=lambda: defaultdict(list))

    def add(self, row: Mapping[str, Any]) -> None:
        """Take in one row."""
        error, key = row["error"], (row["error"]["code"], row["error"]["kind"])
        self._counts[key] += 1
        if len(examples := self._examples[key]) < self.most:
            source = SourceRow(uri=row["source"]["uri"], row=row["source"]["row"])
            examples.append(ErrorExample(query_id=row["query_id"], source=source, message=error["message"]))

    def groups(self) -> tuple[ErrorGroup, ...]:
        """The rows by code, most frequent first."""
        return tuple(
            ErrorGroup(code=code, kind=kind, count=count, examples=tuple(self._examples[(code, kind)]))
            for (code, kind), count in self._counts.most_common()
        )
