"""Answer questions from bundles or full contexts: what this job adds to the steps of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import pyarrow as pa

from pipelines.answer_files import AnswerFiles, AnswerFileSettings
from pipelines.answer_worker import AnswerWorker
from pipelines.answers.contexts import BundleContexts, Contexts, WholeContexts
from pipelines.answers.gold import Answers, load_answers
from pipelines.answers.judging import Judge
from pipelines.answers.processor import check_installed, llm_processor, processed, processor_config
from pipelines.answers.rows import ANSWER_FIELDS, answer_schema
from pipelines.answers.settings import AnswererSettings, AnswerFacts, AnswerSettings, variant_names
from pipelines.answers.variants import ContextVariants, ReaderVariants
from pipelines.commit import load_manifest
from pipelines.identity import content_hash
from pipelines.inputs import FileSurvey
from pipelines.job import Observer, RunResult
from pipelines.labels import Qrels, load_qrels
from pipelines.plan import Plan
from pipelines.ranked_run import RankedRun, open_ranked
from pipelines.run import run_job
from pipelines.schemas import carried_fields
from pipelines.storage import Storage, StorageOptions, absolute
from pipelines.work import UnitWorker
from qrcore.contracts.answerer import Answerer
from qrcore.errors import ConfigError, InputError

JOB: Final = "answer"

#: Settings that enter the identity as what they came to.
_RESOLVED_BY_PROBE: Final = frozenset(
    {
        *(f"model.{name}" for name in ("id", "revision", "dtype", "device", "prompt")),
        *(f"judge.{name}" for name in ("model", "revision")),
        *(f"cafe.{name}" for name in ("coarse_heads", "fine_heads")),
        "baselines",
    }
)


def run(settings: AnswerSettings, observer: Observer) -> RunResult:
    """Answer and commit; run again after any interruption to go on where it stopped."""
    if settings.vllm:
        check_installed()
    storage = settings.run.storage
    bundles = find_bundles(settings.source, storage)
    names = variant_names(settings, bundles=bundles is not None)
    given = Given(
        bundles=bundles,
        qrels=load_qrels(settings.qrels, storage) if settings.qrels else None,
        answers=load_answers(settings.answers, storage) if settings.answers else None,
    )
    inputs = bundles.inputs if bundles else (settings.source,)
    settings = _on_device(replace(settings, run=replace(settings.run, inputs=inputs)))
    return run_job(AnswerJob(settings, names, given, datetime.now(UTC)), settings.run, observer)


def _on_device(settings: AnswerSettings) -> AnswerSettings:
    """The same settings with the device ``auto`` decided by what is asked of Ray."""
    usual = "cuda" if settings.run.pool.gpus_per_actor else "cpu"

    def decided(answerer: AnswererSettings) -> AnswererSettings:
        return replace(answerer, device=usual) if answerer.device == "auto" else answerer

    judge = settings.judge and replace(settings.judge, answerer=decided(settings.judge.answerer))
    return replace(settings, answerer=decided(settings.answerer), judge=judge)


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


@dataclass(frozen=True, slots=True)
class Given:
    """What was read before the run: bundles, judgements and gold answers, where there are any."""

    bundles: RankedRun | None = None
    qrels: Qrels | None = None
    answers: Answers | None = None


@dataclass(frozen=True, slots=True)
class AnswerJob:
    """See :class:`pipelines.job.Job`. ``names``: of the variants, the run's own first."""

    settings: AnswerSettings
    names: tuple[str, ...]
    given: Given
    started_at: datetime
    name: str = JOB

    def probe(self) -> Callable[[], AnswerFacts]:
        return partial(_probe, self.settings)

    def identity(self, facts: AnswerFacts) -> dict[str, Any]:
        affecting, given, judge = self.settings.run.affecting_output, self.given, self.settings.judge
        return {
            "config": {name: value for name, value in affecting.items() if name not in _RESOLVED_BY_PROBE},
            "answerer": _of_model(facts.answerer),
            "template": self.settings.template,
            "variants": self.names,
            "bundles": given.bundles.manifest_sha256 if given.bundles else None,
            "qrels": given.qrels,
            "answers": content_hash(given.answers) if given.answers else None,
            "reader": {"settings": facts.reader.settings, "heads": facts.reader.head_sets} if facts.reader else None,
            "judge": {**_of_model(facts.judge), "template": judge.template} if facts.judge and judge else None,
        }

    def order(self, surveys: Sequence[FileSurvey], facts: AnswerFacts) -> str:
        return "as_given"

    def provenance(self, facts: AnswerFacts, order: str) -> dict[str, Any]:
        settings, bundles = self.settings, self.given.bundles
        return {
            "told": self._told(facts),
            "model": {"id": settings.answerer.model, **asdict(facts.answerer)},
            "variants": list(self.names),
            "context": "full" if settings.cafe else self.names[0],
            "template": settings.template,
            "max_new_tokens": settings.answerer.max_new_tokens,
            "method": _of_reader(facts),
            "judge": {"id": settings.judge.answerer.model, **asdict(facts.judge)}
            if settings.judge and facts.judge
            else None,
            "bundles": {"run_id": bundles.run_id, "uri": bundles.uri} if bundles else None,
            "qrels": settings.qrels,
            "answers": settings.answers,
            "warnings": list(facts.warnings),
        }

    def _told(self, facts: AnswerFacts) -> str:
        settings = self.settings
        how = "its retrieval prompt" if settings.template is None else "a template"
        own = f"by {self.names[0]} in" if settings.cafe else f"to {self.names[0]} contexts in"
        judge = f", judged by {settings.judge.answerer.model}" if settings.judge else ""
        at = f"{facts.answerer.dtype} on {facts.answerer.device}"
        return f"answers of {settings.answerer.model} {own} {how}, {at}{judge}"

    def output_schema(self, surveys: Sequence[FileSurvey]) -> tuple[pa.Schema, tuple[str, ...]]:
        schemas = [(survey.file.uri, survey.schema) for survey in surveys if survey.schema is not None]
        carried = carried_fields(schemas, self.settings.carry)
        own = {field.name for field in ANSWER_FIELDS}
        if taken := [field.name for field in carried if field.name in own]:
            raise ConfigError(
                f"carry: {', '.join(taken)} are columns of an answer and cannot be carried. Rename them, or name the "
                "columns to carry."
            )
        schema = answer_schema(carried, keep_documents=self.settings.keep_documents)
        return schema, tuple(field.name for field in carried)

    def worker(self, facts: AnswerFacts, plan: Plan) -> Callable[[], UnitWorker]:
        settings = self.settings
        answerer = replace(settings.answerer, revision=facts.answerer.revision, dtype=facts.answerer.dtype)
        judge = settings.judge
        if judge and facts.judge:
            known = replace(judge.answerer, revision=facts.judge.revision, dtype=facts.judge.dtype)
            judge = replace(judge, answerer=known)
        # Probing has compared the weights; hashing them again in every actor would read them all once more.
        cafe = settings.cafe and replace(settings.cafe, on_mismatch="ignore")
        settings = replace(settings, answerer=answerer, judge=judge, cafe=cafe)
        return partial(_worker, settings, self.names, self.given, plan.output_schema)

    def stage(self, facts: AnswerFacts, plan: Plan) -> Callable[[Any, Any], Any] | None:
        """See :class:`pipelines.run.HasStage`: that of vLLM's processor."""
        settings = self.settings
        if settings.vllm is None:
            return None
        answerer, pool = replace(settings.answerer, revision=facts.answerer.revision), settings.run.pool
        config = processor_config(settings.vllm, answerer, pool, facts.answerer.max_tokens)
        worker = partial(_asking, settings, self.names, self.given, plan.output_schema)
        return partial(processed, worker=worker, answerer=answerer, processor=llm_processor(config))

    def side_files(self, plan: Plan, facts: AnswerFacts) -> AnswerFiles:
        return AnswerFiles(
            plan, AnswerFileSettings(self.started_at, self.settings.qrels, self.given.qrels, self.settings.examples)
        )


def _of_model(identity: Any) -> dict[str, Any]:
    return {**asdict(identity), "device": identity.device.split(":")[0]}


def _of_reader(facts: AnswerFacts) -> Mapping[str, Any] | None:
    if facts.reader is None:
        return None
    return {"settings": facts.reader.settings, "head_sets": facts.reader.head_sets}


def _probe(settings: AnswerSettings) -> AnswerFacts:
    from pipelines.answers.models import probe  # torch, which the driver does not need

    return probe(settings)


def _worker(settings: AnswerSettings, names: Sequence[str], given: Given, schema: pa.Schema) -> UnitWorker:
    from pipelines.answers.models import open_answerer, open_judge, open_reader  # torch

    answerer = open_answerer(settings.answerer)
    judge = open_judge(settings.judge, answerer, settings.answerer)[0] if settings.judge else None
    if not settings.cafe:
        return _asking(settings, names, given, schema, answerer, judge)
    reader = open_reader(answerer, settings.cafe, settings.answerer.max_new_tokens)
    return AnswerWorker(ReaderVariants(reader, WholeContexts(), names, given.qrels), schema, given.answers, judge)


def _asking(
    settings: AnswerSettings,
    names: Sequence[str],
    given: Given,
    schema: pa.Schema,
    answerer: Answerer,
    judge: Judge | None = None,
) -> UnitWorker:
    """A worker that asks ``answerer`` from every context."""
    contexts = {name: _contexts(name, given, settings.run.storage) for name in names}
    return AnswerWorker(ContextVariants(answerer, contexts, settings.template), schema, given.answers, judge)


def _contexts(name: str, given: Given, options: StorageOptions) -> Contexts:
    if name == "bundle" and given.bundles:
        return BundleContexts(given.bundles, options)
    return WholeContexts(given.qrels or {}) if name == "oracle" else WholeContexts()
