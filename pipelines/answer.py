"""Answer questions from bundles or full contexts: what this job adds to the steps of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, Literal

import pyarrow as pa

from pipelines.answer_files import AnswerFiles
from pipelines.answer_worker import ANSWER_FIELDS, AnswerWorker, BundleContexts, Contexts, WholeContexts, answer_schema
from pipelines.commit import load_manifest
from pipelines.inputs import FileSurvey
from pipelines.job import Observer, RunResult, RunSettings
from pipelines.labels import Qrels, load_qrels
from pipelines.plan import Plan
from pipelines.ranked_run import RankedRun, open_ranked
from pipelines.run import run_job
from pipelines.schemas import Carry, carried_fields
from pipelines.storage import Storage, StorageOptions, absolute
from pipelines.work import UnitWorker
from qrcore.contracts.answerer import Answerer, AnswererIdentity
from qrcore.errors import ConfigError, InputError
from qrcore.rendering import TextTemplate

JOB: Final = "answer"
ContextKind = Literal["auto", "bundle", "full", "oracle"]

#: Settings that enter the identity as what they came to.
_RESOLVED_BY_PROBE: Final = frozenset({"model.id", "model.revision", "model.dtype", "model.device", "model.prompt"})


@dataclass(frozen=True, slots=True)
class AnswererSettings:
    """What builds an answerer in an actor: the arguments of :func:`qrcore.generation.load_answerer`, and threads."""

    model: str
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    prompt: str = "auto"
    max_new_tokens: int = 64
    batch_tokens: int = 16_384
    threads: int = 1


@dataclass(frozen=True, slots=True)
class AnswerSettings:
    """Everything that answering is told. ``source``: the URI of a committed run of select, or of shards; ``context``:
    what is answered from; ``template``: of the user's turn, None: the model's own retrieval prompt."""

    run: RunSettings
    source: str
    context: ContextKind
    template: str | None
    answerer: AnswererSettings
    carry: Carry
    qrels: str | None = None


def run(settings: AnswerSettings, observer: Observer) -> RunResult:
    """Answer and commit; run again after any interruption to go on where it stopped."""
    bundles = find_bundles(settings.source, settings.run.storage)
    kind = resolved_context(settings.context, bundles, settings.qrels)
    qrels = load_qrels(settings.qrels, settings.run.storage) if settings.qrels and kind == "oracle" else None
    answerer = settings.answerer
    if answerer.device == "auto":
        answerer = replace(answerer, device="cuda" if settings.run.pool.gpus_per_actor else "cpu")
    inputs = bundles.inputs if bundles else (settings.source,)
    settings = replace(settings, run=replace(settings.run, inputs=inputs), context=kind, answerer=answerer)
    return run_job(AnswerJob(settings, bundles, qrels, datetime.now(UTC)), settings.run, observer)


def find_bundles(uri: str, options: StorageOptions) -> RankedRun | None:
    """The committed run of select at ``uri``, None for shards. Raises :class:`InputError` for a run of another job."""
    manifest = load_manifest(Storage(uri, options), absolute(uri))
    if manifest is None or manifest.job == "prepare":
        return None
    if manifest.job != "select":
        raise InputError(
            f"input {uri}: expected a committed run of select, or shards, found one of {manifest.job}. Give the folder "
            "of a run of select or prepare, or of shards."
        )
    return open_ranked(uri, manifest, options)


def resolved_context(context: ContextKind, bundles: RankedRun | None, qrels: str | None) -> ContextKind:
    """What is answered from, where that is to be seen from the input. Raises :class:`ConfigError` for what is not
    there."""
    if context == "auto":
        return "bundle" if bundles else "full"
    if context == "bundle" and bundles is None:
        raise ConfigError(
            "input.context: bundle needs a committed run of select, got shards. Give one, or choose full or oracle."
        )
    if context == "oracle" and not qrels:
        raise ConfigError("input.context: oracle needs judgements, got none. Give --qrels.")
    return context


def probe(settings: AnswererSettings, template: str | None) -> AnswererIdentity:
    """Load the answerer and the template as a worker would; refuses what cannot work."""
    if template is not None:
        TextTemplate(template, "answer.template")
    return open_answerer(settings).identity


def open_answerer(settings: AnswererSettings) -> Answerer:
    """The answerer of these settings, in this process."""
    from qrcore.generation import load_answerer  # torch, which the driver does not need
    from qrcore.models import use_threads

    use_threads(settings.threads)
    arguments: dict[str, Any] = asdict(settings)
    del arguments["threads"]
    return load_answerer(**arguments)


@dataclass(frozen=True, slots=True)
class AnswerJob:
    """See :class:`pipelines.job.Job`."""

    settings: AnswerSettings
    bundles: RankedRun | None
    qrels: Qrels | None
    started_at: datetime
    name: str = JOB

    def probe(self) -> Callable[[], AnswererIdentity]:
        return partial(probe, self.settings.answerer, self.settings.template)

    def identity(self, facts: AnswererIdentity) -> dict[str, Any]:
        affecting = self.settings.run.affecting_output
        return {
            "config": {name: value for name, value in affecting.items() if name not in _RESOLVED_BY_PROBE},
            "answerer": {**asdict(facts), "device": facts.device.split(":")[0]},
            "template": self.settings.template,
            "context": self.settings.context,
            "bundles": self.bundles.manifest_sha256 if self.bundles else None,
            "qrels": self.qrels,
        }

    def order(self, surveys: Sequence[FileSurvey], facts: AnswererIdentity) -> str:
        return "as_given"

    def provenance(self, facts: AnswererIdentity, order: str) -> dict[str, Any]:
        settings = self.settings
        style = "its retrieval prompt" if settings.template is None else "a template"
        return {
            "told": f"answers of {settings.answerer.model} to {settings.context} contexts in {style}, "
            f"{facts.dtype} on {facts.device}",
            "model": {"id": settings.answerer.model, **asdict(facts)},
            "context": settings.context,
            "template": settings.template,
            "max_new_tokens": settings.answerer.max_new_tokens,
            "bundles": {"run_id": self.bundles.run_id, "uri": self.bundles.uri} if self.bundles else None,
            "qrels": settings.qrels,
        }

    def output_schema(self, surveys: Sequence[FileSurvey]) -> tuple[pa.Schema, tuple[str, ...]]:
        schemas = [(survey.file.uri, survey.schema) for survey in surveys if survey.schema is not None]
        carried = carried_fields(schemas, self.settings.carry)
        own = {field.name for field in ANSWER_FIELDS}
        if taken := [field.name for field in carried if field.name in own]:
            raise ConfigError(
                f"carry: {', '.join(taken)} are columns of an answer and cannot be carried. Rename them, or name the "
                "columns to carry."
            )
        return answer_schema(carried), tuple(field.name for field in carried)

    def worker(self, facts: AnswererIdentity, plan: Plan) -> Callable[[], UnitWorker]:
        settings = self.settings
        answerer = replace(settings.answerer, revision=facts.revision, dtype=facts.dtype)
        bundles = self.bundles if settings.context == "bundle" else None
        return partial(
            _worker, answerer, bundles, self.qrels, settings.template, settings.run.storage, plan.output_schema
        )

    def side_files(self, plan: Plan, facts: AnswererIdentity) -> AnswerFiles:
        return AnswerFiles(plan, self.started_at)


def _worker(
    settings: AnswererSettings,
    bundles: RankedRun | None,
    qrels: Qrels | None,
    template: str | None,
    options: StorageOptions,
    schema: pa.Schema,
) -> UnitWorker:
    contexts: Contexts = BundleContexts(bundles, options) if bundles else WholeContexts(qrels)
    return AnswerWorker(open_answerer(settings), contexts, template, schema)
