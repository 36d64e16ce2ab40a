"""Answer with contrast to what a model says without its retrieval heads: what this job adds to the steps of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import pyarrow as pa

from pipelines.answer import find_bundles
from pipelines.answers.settings import ContextKind, resolved_context
from pipelines.contrast.files import ContrastFiles
from pipelines.contrast.model import ContrastFacts, ContrastModel, TuningSettings
from pipelines.contrast.rows import CONTRAST_FIELDS, contrast_schema
from pipelines.inputs import FileSurvey
from pipelines.job import Observer, RunResult, RunSettings
from pipelines.labels import Qrels, load_qrels
from pipelines.plan import Plan
from pipelines.ranked_run import RankedRun
from pipelines.run import run_job
from pipelines.schemas import Carry, carried_fields
from pipelines.storage import StorageOptions
from pipelines.work import UnitWorker
from qrcore.errors import ConfigError

JOB: Final = "contrast"

#: Settings that enter the identity as what they came to.
_RESOLVED_BY_PROBE: Final = frozenset(
    {"model.id", "model.revision", "model.heads", "model.dtype", "model.device", "model.prompt"}
)


@dataclass(frozen=True, slots=True)
class ContrastSettings:
    """Everything that contrasting is told. ``source``, ``context``, ``template``, ``carry`` and ``qrels``: as of
    :class:`pipelines.answers.settings.AnswerSettings`; ``tuning``: that masked answers become samples, and how;
    ``examples``: whether the report shows texts."""

    run: RunSettings
    source: str
    context: ContextKind
    template: str | None
    model: ContrastModel
    carry: Carry
    qrels: str | None = None
    tuning: TuningSettings | None = None
    examples: bool = True


def run(settings: ContrastSettings, observer: Observer) -> RunResult:
    """Answer and commit; run again after any interruption to go on where it stopped."""
    bundles = find_bundles(settings.source, settings.run.storage)
    kind = resolved_context(settings.context, settings.qrels, bundles=bundles is not None)
    qrels = load_qrels(settings.qrels, settings.run.storage) if settings.qrels and kind == "oracle" else None
    answerer = settings.model.answerer
    if answerer.device == "auto":
        answerer = replace(answerer, device="cuda" if settings.run.pool.gpus_per_actor else "cpu")
    settings = replace(
        settings,
        run=replace(settings.run, inputs=bundles.inputs if bundles else (settings.source,)),
        context=kind,
        model=replace(settings.model, answerer=answerer),
    )
    return run_job(ContrastJob(settings, bundles, qrels, datetime.now(UTC)), settings.run, observer)


@dataclass(frozen=True, slots=True)
class ContrastJob:
    """See :class:`pipelines.job.Job`."""

    settings: ContrastSettings
    bundles: RankedRun | None
    qrels: Qrels | None
    started_at: datetime
    name: str = JOB

    def probe(self) -> Callable[[], ContrastFacts]:
        return partial(_probe, self.settings.model, self.settings.template)

    def identity(self, facts: ContrastFacts) -> dict[str, Any]:
        affecting = self.settings.run.affecting_output
        return {
            "config": {name: value for name, value in affecting.items() if name not in _RESOLVED_BY_PROBE},
            "answerer": {**asdict(facts.answerer), "device": facts.answerer.device.split(":")[0]},
            "head_set": facts.contrast.head_set_id,
            "controls": facts.contrast.controls,
            "template": self.settings.template,
            "context": self.settings.context,
            "bundles": self.bundles.manifest_sha256 if self.bundles else None,
            "qrels": self.qrels,
        }

    def order(self, surveys: Sequence[FileSurvey], facts: ContrastFacts) -> str:
        return "as_given"

    def provenance(self, facts: ContrastFacts, order: str) -> dict[str, Any]:
        settings, contrast = self.settings, facts.contrast
        return {
            "told": self._told(facts),
            "model": {"id": settings.model.answerer.model, **asdict(facts.answerer)},
            "head_set": {"id": contrast.head_set_id, "heads": list(contrast.heads)},
            "controls": [list(heads) for heads in contrast.controls],
            "settings": contrast.settings,
            "context": settings.context,
            "template": settings.template,
            "tuning": asdict(settings.tuning) if settings.tuning else None,
            "bundles": {"run_id": self.bundles.run_id, "uri": self.bundles.uri} if self.bundles else None,
            "qrels": settings.qrels,
            "warnings": list(contrast.warnings),
        }

    def _told(self, facts: ContrastFacts) -> str:
        settings, contrast, chosen = self.settings, facts.contrast, facts.contrast.settings
        weight = f"a = {chosen['alpha']:g}" if chosen["alpha"] is not None else "a = the next token's entropy"
        if chosen["normalised"]:
            weight += " as a share of the largest"
        if chosen["alpha_cap"] is not None:
            weight += f", {chosen['alpha_cap']:g} at most"
        style = "its retrieval prompt" if settings.template is None else "a template"
        return (
            f"answers of {settings.model.answerer.model} to {settings.context} contexts in {style}, contrasted with "
            f"{len(contrast.heads)} heads masked ({contrast.head_set_id}; {chosen['mask_mode']}, "
            f"{chosen['mask_scope']}), {weight}, {facts.answerer.dtype} on {facts.answerer.device}"
        )

    def output_schema(self, surveys: Sequence[FileSurvey]) -> tuple[pa.Schema, tuple[str, ...]]:
        schemas = [(survey.file.uri, survey.schema) for survey in surveys if survey.schema is not None]
        carried = carried_fields(schemas, self.settings.carry)
        own = {field.name for field in CONTRAST_FIELDS}
        if taken := [field.name for field in carried if field.name in own]:
            raise ConfigError(
                f"carry: {', '.join(taken)} are columns of a contrasted answer and cannot be carried. Rename them, or "
                "name the columns to carry."
            )
        return contrast_schema(carried), tuple(field.name for field in carried)

    def worker(self, facts: ContrastFacts, plan: Plan) -> Callable[[], UnitWorker]:
        settings = self.settings
        answerer = replace(settings.model.answerer, revision=facts.answerer.revision, dtype=facts.answerer.dtype)
        # Probing has compared the weights; hashing them again in every actor would read them all once more.
        model = replace(settings.model, answerer=answerer, on_mismatch="ignore")
        bundles = self.bundles if settings.context == "bundle" else None
        source = _Source(bundles, self.qrels, settings.template, settings.run.storage)
        return partial(_worker, model, source, plan.output_schema, settings.tuning)

    def side_files(self, plan: Plan, facts: ContrastFacts) -> ContrastFiles:
        settings = self.settings
        return ContrastFiles(plan, self.started_at, facts.contrast.warnings, settings.tuning, settings.examples)


@dataclass(frozen=True, slots=True)
class _Source:
    """Where contexts come from, and how they are put to the model."""

    bundles: RankedRun | None
    qrels: Qrels | None
    template: str | None
    storage: StorageOptions


def _probe(model: ContrastModel, template: str | None) -> ContrastFacts:
    from pipelines.contrast.worker import probe  # torch, which the driver does not need

    return probe(model, template)


def _worker(model: ContrastModel, source: _Source, schema: pa.Schema, tuning: TuningSettings | None) -> UnitWorker:
    from pipelines.answers.contexts import BundleContexts, Contexts, WholeContexts
    from pipelines.contrast.worker import ContrastWorker, open_contrast  # torch

    contexts: Contexts = (
        BundleContexts(source.bundles, source.storage) if source.bundles else WholeContexts(source.qrels)
    )
    return ContrastWorker(open_contrast(model), contexts, source.template, schema, tuning)
