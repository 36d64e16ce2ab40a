"""Select contexts, from a finished re-ranking run or from shards that are scored in the same job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, Literal

import pyarrow as pa

from pipelines.bundle_files import BundleFiles, BundleFileSettings
from pipelines.commit import load_manifest
from pipelines.encoding import UnitEncoder
from pipelines.inputs import FileSurvey
from pipelines.job import Observer, RunResult, RunSettings
from pipelines.labels import load_qrels
from pipelines.plan import Plan
from pipelines.ranked_run import RankedRun, StoredRankings, open_ranked
from pipelines.run import run_job
from pipelines.schemas import Carry, carried_fields
from pipelines.scorers import (
    ScorerSettings,
    as_probed,
    on_requested_device,
    planned_contexts,
    planned_order,
    request_encoder,
    scorer_identity,
    scorer_record,
)
from pipelines.scorers import probe as probe_scorer
from pipelines.select_worker import SelectWorker
from pipelines.selecting import BUNDLE_FIELDS, Bundler, BundleSettings, bundle_schema
from pipelines.storage import Storage, StorageOptions, absolute
from pipelines.work import UnitWorker
from qrcore.errors import ConfigError, InputError
from qrcore.records import ScorerIdentity
from qrcore.windows import ContextSettings

JOB: Final = "select"
#: Settings of scoring, which decide nothing where the rankings are there already.
_OF_SCORING: Final = ("model.", "scoring.", "contexts.", "engine.")


@dataclass(frozen=True, slots=True)
class ScoringSettings:
    """How shards are scored before contexts are selected; ``order`` as in :class:`pipelines.rerank.RerankSettings`."""

    scorer: ScorerSettings
    order: Literal["auto", "as_given", "reversed", "shuffled"] = "auto"
    contexts: ContextSettings = field(default_factory=ContextSettings)


@dataclass(frozen=True, slots=True)
class SelectSettings:
    """Everything that selecting is told; ``source``: the URI of a committed re-ranking run, or of shards; ``qrels``:
    of judgements, for the report."""

    run: RunSettings
    source: str
    bundles: BundleSettings
    carry: Carry
    scoring: ScoringSettings
    qrels: str | None = None


def run(settings: SelectSettings, observer: Observer) -> RunResult:
    """Select and commit; run again after any interruption to go on where it stopped."""
    qrels = load_qrels(settings.qrels, settings.run.storage) if settings.qrels else None
    told = BundleFileSettings(datetime.now(UTC), settings.qrels, qrels, settings.run.storage)
    ranked = find_ranked(settings.source, settings.run.storage)
    if ranked is not None:
        settings = replace(settings, run=replace(settings.run, inputs=ranked.inputs))
        return run_job(SelectJob(settings, ranked, told), settings.run, observer)
    scoring = settings.scoring
    scorer = on_requested_device(scoring.scorer, settings.run.pool)
    run_settings = replace(settings.run, inputs=(settings.source,))
    settings = replace(settings, run=run_settings, scoring=replace(scoring, scorer=scorer))
    return run_job(ScoreAndSelectJob(settings, told), settings.run, observer)


def find_ranked(uri: str, options: StorageOptions) -> RankedRun | None:
    """The committed re-ranking run at ``uri``, None for shards. Raises :class:`InputError` for a run of another job."""
    manifest = load_manifest(Storage(uri, options), absolute(uri))
    if manifest is None or manifest.job == "prepare":
        return None
    if manifest.job != "rerank":
        raise InputError(
            f"input {uri}: expected a committed run of rerank, or shards to score, found one of {manifest.job}. Give "
            "the folder of a run of rerank or prepare, or of shards."
        )
    return open_ranked(uri, manifest, options)


@dataclass(frozen=True, slots=True)
class SelectFacts:
    """The tokenizer that counts, by the hash of its content; the scorer, where the job scores."""

    tokenizer_sha256: str
    scorer: ScorerIdentity | None = None


def probe(settings: BundleSettings, scorer: ScorerSettings | None = None) -> SelectFacts:
    """Load the tokenizer, the templates and the scorer as a worker would; refuses what cannot work."""
    tokenizer = Bundler(settings).tokenizer
    return SelectFacts(tokenizer.sha256, probe_scorer(scorer) if scorer else None)


@dataclass(frozen=True, slots=True)
class SelectJob:
    """From a finished re-ranking run; see :class:`pipelines.job.Job`."""

    settings: SelectSettings
    ranked: RankedRun
    told: BundleFileSettings
    name: str = JOB

    def probe(self) -> Callable[[], SelectFacts]:
        return partial(probe, self.settings.bundles)

    def identity(self, facts: SelectFacts) -> dict[str, Any]:
        affecting = self.settings.run.affecting_output
        return {
            "config": {name: value for name, value in affecting.items() if not name.startswith(_OF_SCORING)},
            "bundles": _bundles_identity(self.settings.bundles, facts),
            "ranked": self.ranked.manifest_sha256,
        }

    def order(self, surveys: Sequence[FileSurvey], facts: SelectFacts) -> str:
        return self.settings.bundles.order

    def provenance(self, facts: SelectFacts, order: str) -> dict[str, Any]:
        ranked = {"run_id": self.ranked.run_id, "uri": self.ranked.uri, "manifest": self.ranked.manifest_sha256}
        return {**_bundles_record(self.settings.bundles, facts), "ranked": ranked}

    def output_schema(self, surveys: Sequence[FileSurvey]) -> tuple[pa.Schema, tuple[str, ...]]:
        return _output_schema(surveys, self.settings.carry)

    def worker(self, facts: SelectFacts, plan: Plan) -> Callable[[], UnitWorker]:
        settings = self.settings
        return partial(_stored_worker, settings.bundles, self.ranked, settings.run.storage, plan.output_schema)

    def side_files(self, plan: Plan, facts: SelectFacts) -> BundleFiles:
        return BundleFiles(plan, self.told)


@dataclass(frozen=True, slots=True)
class ScoreAndSelectJob:
    """From shards, which are scored and selected from unit by unit; see :class:`pipelines.job.Job`."""

    settings: SelectSettings
    told: BundleFileSettings
    name: str = JOB

    def probe(self) -> Callable[[], SelectFacts]:
        return partial(probe, self.settings.bundles, self.settings.scoring.scorer)

    def identity(self, facts: SelectFacts) -> dict[str, Any]:
        return {
            "scorer": scorer_identity(self.settings.run.affecting_output, _scorer_of(facts)),
            "bundles": _bundles_identity(self.settings.bundles, facts),
        }

    def order(self, surveys: Sequence[FileSurvey], facts: SelectFacts) -> str:
        return planned_order(self.settings.scoring.order, surveys)

    def provenance(self, facts: SelectFacts, order: str) -> dict[str, Any]:
        scoring, scorer = self.settings.scoring, _scorer_of(facts)
        contexts = planned_contexts(scoring.contexts, scorer)
        record = _bundles_record(self.settings.bundles, facts)
        scored = f"scored by {scoring.scorer.model}, {len(scorer.heads)} heads ({scorer.head_set_id}), prompts of at "
        return {
            **scorer_record(replace(scoring.scorer, order=order), scorer),
            **record,
            "scoring": scorer_record(replace(scoring.scorer, order=order), scorer)["settings"],
            "told": f"{record['told']}; {scored}most {contexts.window_tokens} tokens",
            "contexts": asdict(contexts),
            "ranked": None,
        }

    def output_schema(self, surveys: Sequence[FileSurvey]) -> tuple[pa.Schema, tuple[str, ...]]:
        return _output_schema(surveys, self.settings.carry)

    def worker(self, facts: SelectFacts, plan: Plan) -> Callable[[], UnitWorker]:
        settings, scorer = self.settings, _scorer_of(facts)
        return partial(
            _scoring_worker,
            settings.bundles,
            as_probed(settings.scoring.scorer, scorer, plan.order),
            planned_contexts(settings.scoring.contexts, scorer),
            scorer.detection_queries,
            plan.output_schema,
        )

    @property
    def encodes_ahead(self) -> bool:
        return self.settings.scoring.contexts.plain

    def encoder(self, facts: SelectFacts, plan: Plan) -> Callable[[], UnitEncoder]:
        scoring, scorer = self.settings.scoring, _scorer_of(facts)
        settings = as_probed(scoring.scorer, scorer, plan.order)
        return partial(request_encoder, settings, planned_contexts(scoring.contexts, scorer))

    def side_files(self, plan: Plan, facts: SelectFacts) -> BundleFiles:
        return BundleFiles(plan, self.told)


def _stored_worker(
    bundles: BundleSettings, ranked: RankedRun, options: StorageOptions, schema: pa.Schema
) -> UnitWorker:
    return SelectWorker(bundles, StoredRankings(ranked, options), schema)


def _scoring_worker(
    bundles: BundleSettings,
    scorer: ScorerSettings,
    contexts: ContextSettings,
    detection_queries: frozenset[str],
    schema: pa.Schema,
) -> UnitWorker:
    from pipelines.actors import ScoredRankings  # torch, which reading and writing do not need

    return SelectWorker(bundles, ScoredRankings(scorer, contexts, detection_queries), schema)


def _scorer_of(facts: SelectFacts) -> ScorerIdentity:
    if facts.scorer is None:
        raise RuntimeError("a job that scores was probed without its scorer; this is a defect")
    return facts.scorer


def _bundles_identity(bundles: BundleSettings, facts: SelectFacts) -> dict[str, Any]:
    return {**asdict(bundles), "tokenizer": facts.tokenizer_sha256}


def _bundles_record(bundles: BundleSettings, facts: SelectFacts) -> dict[str, Any]:
    """What a manifest says of how bundles are made."""
    budget = f", at most {bundles.budget_tokens} tokens" if bundles.budget_tokens else ""
    return {
        "told": f"policy {bundles.policy}{budget}, tokens of {bundles.tokenizer}, segments in {bundles.order} order",
        "tokenizer": {"name": bundles.tokenizer, "sha256": facts.tokenizer_sha256},
        "settings": asdict(bundles),
    }


def _output_schema(surveys: Sequence[FileSurvey], carry: Carry) -> tuple[pa.Schema, tuple[str, ...]]:
    schemas = [(survey.file.uri, survey.schema) for survey in surveys if survey.schema is not None]
    carried = carried_fields(schemas, carry)
    own = {field.name for field in BUNDLE_FIELDS}
    if taken := [field.name for field in carried if field.name in own]:
        raise ConfigError(
            f"carry: {', '.join(taken)} are columns of a bundle and cannot be carried. Rename them, or name the "
            "columns to carry."
        )
    return bundle_schema(carried), tuple(field.name for field in carried)
