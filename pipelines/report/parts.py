"""What the reports of several jobs are made of alike: the run, what was asked, failed rows by code, and how it went."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import Field

from pipelines.commit import StoredUnit
from pipelines.contracts import id_column_of
from pipelines.plan import Plan, RunPlan
from pipelines.report.costs import cost_of
from pipelines.report.distributions import distribution
from pipelines.report.model import Asked, Cost, InputFile, SkippedFile, Throughput, Unit
from pipelines.report.pace import throughput, unit_of, wall_seconds
from pipelines.report.records import Distribution, ErrorExample, ErrorGroup, Record, Run, SourceRow


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


class Pace(Record):
    """How a run went: speed, seconds by stage, memory and cost."""

    throughput: Throughput = Field(description="how fast")
    cost: Cost | None = Field(description="what it took and cost, null for a job without actors")
    unit_seconds: Distribution = Field(description="seconds of scoring per unit")
    unit_wait: Distribution = Field(description="seconds per unit between reading and a free actor")
    units: tuple[Unit, ...] = Field(description="every unit of the run")


def pace_of(
    config: Mapping[str, Any], footers: Sequence[Mapping[str, Any]], write_seconds: Mapping[str, float], run: Run
) -> Pace:
    """How a run went, from the records of its units; ``write_seconds``: of those that this driver wrote."""
    return Pace(
        throughput=throughput(config, footers, write_seconds, run.started_at, run.finished_at, resumed=run.resumed),
        cost=cost_of(config, footers, wall_seconds(footers)),
        unit_seconds=distribution([footer["score_s"] for footer in footers]),
        unit_wait=distribution([footer.get("wait_s", 0.0) for footer in footers]),
        units=tuple(unit_of(footer, write_seconds) for footer in footers),
    )


class CommonReport(Record):
    """What the reports of jobs say alike."""

    run: Run = Field(description="which run")
    asked: Asked = Field(description="what was asked")
    errors: tuple[ErrorGroup, ...] = Field(description="failed rows by code, most frequent first")
    pace: Pace = Field(description="how it went")
    provenance: Mapping[str, Any] = Field(description="what is needed to run it again")


@dataclass(slots=True)
class CommonParts:
    """Takes stored units one by one and keeps what every report says of them; ``started_at``: when this driver began
    the run."""

    plan: Plan
    started_at: datetime
    _footers: list[Mapping[str, Any]] = field(default_factory=list)
    _failed: FailedRows = field(default_factory=FailedRows)

    def add(self, stored: StoredUnit) -> None:
        """Take in one unit."""
        self._footers.append(stored.footer)
        if not stored.entry.failed:
            return
        id_column = id_column_of(stored.answers.schema.names)
        for row in stored.answers.select([id_column, "source", "error"]).to_pylist():
            if row["error"] is not None:
                self._failed.add({**row, "query_id": row[id_column]})

    def finish(self, output: str, driver: str, write_seconds: Mapping[str, float], *, resumed: bool) -> CommonReport:
        """What is known of the run when it is committed."""
        run = committed_run(self.plan, output, driver, self.started_at, datetime.now(UTC), resumed=resumed)
        return CommonReport(
            run=run,
            asked=asked_of(self.plan),
            errors=self._failed.groups(),
            pace=pace_of(self.plan.config, self._footers, write_seconds, run),
            provenance=self.plan.provenance,
        )
