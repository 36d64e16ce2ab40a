"""From stored units to the report: everything is added up unit by unit, so no ranking is kept."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pipelines.commit import StoredUnit
from pipelines.labels import Qrels
from pipelines.plan import Plan
from pipelines.report import model
from pipelines.report.costs import cost_of
from pipelines.report.distributions import distribution as distribution
from pipelines.report.pace import throughput, unit_of, wall_seconds
from pipelines.report.quality import JudgedOrders, QueryTexts
from pipelines.report.records import ErrorExample, ErrorGroup, Run, SourceRow
from qrcore.matching import length_warnings

_EXAMPLES_PER_CODE: Final = 3
_MOVEMENT_DEPTH: Final = 20
_SUMMED: Final = ("rows", "scored", "failed", "uninformative")


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What the driver knows of the run beside its units."""

    driver: str
    output: str
    started_at: datetime
    finished_at: datetime
    resumed: bool
    write_seconds: Mapping[str, float]
    qrels_uri: str | None


class ReportBuilder:
    """Takes stored units one by one in plan order and makes the report at the end."""

    def __init__(self, plan: Plan, qrels: Qrels | None) -> None:
        self._plan = plan
        self._orders = JudgedOrders(qrels)
        self._footers: list[dict[str, Any]] = []
        self._output_bytes = 0
        self._errors: Counter[tuple[str, str]] = Counter()
        self._error_examples: dict[str, list[ErrorExample]] = defaultdict(list)
        self._prompt_tokens: list[int] = []
        self._candidates: list[int] = []
        self._margins: list[float] = []
        self._moves: Counter[tuple[int, int]] = Counter()
        self._has_first_stage = plan.order == "reversed"  # for ranks without scores; the plan knows of both

    def add(self, stored: StoredUnit) -> None:
        """Take one unit's answers in."""
        self._footers.append(stored.footer)
        self._output_bytes += stored.entry.size
        for row in stored.answers.to_pylist():
            if row["error"] is None:
                self._add_ranking(row)
            else:
                self._add_error(row)

    def _add_error(self, row: Mapping[str, Any]) -> None:
        error = row["error"]
        self._errors[(error["code"], error["kind"])] += 1
        examples = self._error_examples[error["code"]]
        if len(examples) < _EXAMPLES_PER_CODE:
            source = SourceRow(uri=row["source"]["uri"], row=row["source"]["row"])
            examples.append(ErrorExample(query_id=row["query_id"], source=source, message=error["message"]))

    def _add_ranking(self, row: Mapping[str, Any]) -> None:
        ranking = row["ranking"]
        self._prompt_tokens.append(row["prompt_tokens"])
        self._candidates.append(len(ranking))
        if len(ranking) > 1 and ranking[0]["round"] == ranking[1]["round"]:  # of one prompt, so comparable
            self._margins.append(ranking[0]["score"] - ranking[1]["score"])
        self._has_first_stage = self._has_first_stage or any(item["input_score"] is not None for item in ranking)
        for item in ranking:
            if item["input_rank"] <= _MOVEMENT_DEPTH and item["rank"] <= _MOVEMENT_DEPTH:
                self._moves[(item["input_rank"], item["rank"])] += 1
        self._orders.add(row)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the prompts of the rows that were added give cause to warn of."""
        facts = self._plan.provenance
        return length_warnings(facts["head_set"]["id"], facts.get("detection_tokens"), self._prompt_tokens)

    def finish(self, facts: RunFacts, queries: QueryTexts | None) -> model.RunReport:
        """The report of everything that was added; ``queries`` looks up the texts of the examples, None: has none."""
        totals = {name: sum(footer[name] for footer in self._footers) for name in _SUMMED}
        return model.RunReport(
            run=self._run(facts),
            asked=self._asked(),
            result=model.Result(
                rows=totals["rows"],
                scored=totals["scored"],
                failed=totals["failed"],
                uninformative=totals["uninformative"],
                objects=len(self._footers),
                output_bytes=self._output_bytes,
            ),
            errors=self._error_groups(),
            throughput=throughput(
                self._plan.config,
                self._footers,
                facts.write_seconds,
                facts.started_at,
                facts.finished_at,
                resumed=facts.resumed,
            ),
            cost=cost_of(self._plan.config, self._footers, wall_seconds(self._footers)),
            units=tuple(unit_of(footer, facts.write_seconds) for footer in self._footers),
            distributions=model.Distributions(
                prompt_tokens=distribution(self._prompt_tokens),
                candidates=distribution(self._candidates),
                unit_seconds=distribution([footer["score_s"] for footer in self._footers]),
                unit_wait=distribution([footer.get("wait_s", 0.0) for footer in self._footers]),
                margin=distribution(self._margins),
            ),
            movement=self._movement(),
            quality=self._orders.quality(facts.qrels_uri, has_first_stage=self._has_first_stage),
            examples=self._orders.examples(queries, has_first_stage=self._has_first_stage) if queries else (),
            provenance=_provenance(self._plan),
            warnings=(*self._plan.provenance.get("warnings", ()), *self.warnings),
        )

    def _run(self, facts: RunFacts) -> Run:
        return Run(
            run_id=self._plan.run_id,
            job=self._plan.job,
            name=self._plan.name,
            status="committed",
            started_at=facts.started_at,
            finished_at=facts.finished_at,
            seconds=(facts.finished_at - facts.started_at).total_seconds(),
            output=facts.output,
            driver=facts.driver,
            resumed=facts.resumed,
        )

    def _asked(self) -> model.Asked:
        plan = self._plan
        return model.Asked(
            inputs=tuple(model.InputFile(uri=f.uri, rows=f.rows, bytes=f.size) for f in plan.files),
            skipped_files=tuple(model.SkippedFile(uri=f.uri, reason=f.reason) for f in plan.skipped_files),
            rows=plan.rows,
            units=len(plan.units),
            config=plan.config,
        )

    def _error_groups(self) -> tuple[ErrorGroup, ...]:
        return tuple(
            ErrorGroup(code=code, kind=kind, count=count, examples=tuple(self._error_examples[code]))
            for (code, kind), count in self._errors.most_common()
        )

    def _movement(self) -> model.Movement | None:
        if not self._moves or not self._has_first_stage:
            return None
        depth = max(max(move) for move in self._moves)
        counts = [[self._moves[(old, new)] for new in range(1, depth + 1)] for old in range(1, depth + 1)]
        return model.Movement(depth=depth, counts=tuple(tuple(row) for row in counts))


def _provenance(plan: Plan) -> model.Provenance:
    facts = plan.provenance
    packages = dict(facts["packages"])
    return model.Provenance(
        code_version=facts["code_version"],
        source_sha256=facts["source_sha256"],
        python=packages.pop("python"),
        packages=packages,
        model=model.ModelRecord(**facts["model"]),
        head_set=model.HeadSetRecord(**facts["head_set"]),
        prompt=model.PromptRecord(name=facts["prompt"]["name"], sha256=facts["prompt"]["sha256"]),
        settings={"max_tokens": facts["max_tokens"], **facts["settings"]},
        dtype=facts["dtype"],
        device=facts["device"],
        config_hash=plan.config_hash,
        input_hash=plan.input_hash,
    )
