"""Re-rank query-corpus shards: what this job adds to the steps of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, Literal

import pyarrow as pa

from pipelines.encoding import UnitEncoder
from pipelines.inputs import FileSurvey
from pipelines.job import Observer, RunResult, RunSettings
from pipelines.labels import Qrels, load_qrels
from pipelines.plan import Plan
from pipelines.run import run_job
from pipelines.schemas import Carry, carried_fields, ranking_schema
from pipelines.scorers import (
    ScorerSettings,
    as_probed,
    on_requested_device,
    planned_contexts,
    planned_order,
    probe,
    ranking_worker,
    request_encoder,
    scorer_identity,
    scorer_record,
)
from pipelines.side_files import SideFiles, SideFileSettings
from pipelines.work import UnitWorker
from qrcore.records import ScorerIdentity
from qrcore.windows import ContextSettings

JOB: Final = "rerank"


@dataclass(frozen=True, slots=True)
class RerankSettings:
    """Everything that a re-ranking run is told.

    ``order=auto``: best last where the input has first-stage scores or ranks, else as given; ``examples``: whether
    the report shows queries with their texts; ``contexts``: what is done about lists that do not fit one prompt.
    """

    run: RunSettings
    scorer: ScorerSettings
    order: Literal["auto", "as_given", "reversed", "shuffled"]
    carry: Carry
    qrels: str | None
    examples: bool = True
    contexts: ContextSettings = field(default_factory=ContextSettings)


def run(settings: RerankSettings, observer: Observer) -> RunResult:
    """Plan, work and commit; run again after any interruption to go on where it stopped.

    Raises errors of :mod:`qrcore.errors`; :class:`IncompleteRunError` means that the same command resumes.
    """
    qrels = load_qrels(settings.qrels, settings.run.storage) if settings.qrels else None
    scorer = on_requested_device(settings.scorer, settings.run.pool)
    return run_job(RerankJob(replace(settings, scorer=scorer), qrels), settings.run, observer)


@dataclass(frozen=True, slots=True)
class RerankJob:
    """See :class:`pipelines.job.Job`."""

    settings: RerankSettings
    qrels: Qrels | None
    name: str = JOB
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def probe(self) -> Callable[[], ScorerIdentity]:
        return partial(probe, self.settings.scorer)

    def identity(self, facts: ScorerIdentity) -> dict[str, Any]:
        return scorer_identity(self.settings.run.affecting_output, facts)

    def order(self, surveys: Sequence[FileSurvey], facts: ScorerIdentity) -> str:
        return planned_order(self.settings.order, surveys)

    def provenance(self, facts: ScorerIdentity, order: str) -> dict[str, Any]:
        contexts = planned_contexts(self.settings.contexts, facts)
        return {**scorer_record(replace(self.settings.scorer, order=order), facts), "contexts": asdict(contexts)}

    def output_schema(self, surveys: Sequence[FileSurvey]) -> tuple[pa.Schema, tuple[str, ...]]:
        schemas = [(survey.file.uri, survey.schema) for survey in surveys if survey.schema is not None]
        carried = carried_fields(schemas, self.settings.carry)
        return ranking_schema(carried), tuple(field.name for field in carried)

    def worker(self, facts: ScorerIdentity, plan: Plan) -> Callable[[], UnitWorker]:
        scorer = as_probed(self.settings.scorer, facts, plan.order)
        contexts = planned_contexts(self.settings.contexts, facts)
        return partial(ranking_worker, scorer, contexts, plan.output_schema, facts.detection_queries)

    @property
    def encodes_ahead(self) -> bool:
        return self.settings.contexts.plain

    def encoder(self, facts: ScorerIdentity, plan: Plan) -> Callable[[], UnitEncoder]:
        scorer = as_probed(self.settings.scorer, facts, plan.order)
        return partial(request_encoder, scorer, planned_contexts(self.settings.contexts, facts))

    def side_files(self, plan: Plan, facts: ScorerIdentity) -> SideFiles:
        settings = self.settings
        told = SideFileSettings(settings.qrels, self.qrels, settings.run.storage, self.started_at, settings.examples)
        return SideFiles(plan, told)
