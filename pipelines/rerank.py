"""Re-rank query-corpus shards: plan, work, commit."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Protocol

import ray

from pipelines.cluster import (
    LIGHT_TASK_CPUS,
    ClusterSettings,
    check_resources,
    get,
    ray_session,
    refuse_local_files_on_many_nodes,
)
from pipelines.commit import (
    Manifest,
    check_balanced,
    check_complete,
    commit,
    find_done,
    load_manifest,
    make_manifest,
    point_latest,
    read_back,
)
from pipelines.identity import code_version, content_hash, input_hash, package_versions, run_id
from pipelines.inputs import FileSurvey, list_inputs, survey_file
from pipelines.labels import load_qrels
from pipelines.plan import (
    Plan,
    cut_units,
    encode_schema,
    load_plan,
    output_schema,
    planned_files,
    store_plan,
    usable_surveys,
)
from pipelines.schemas import Carry
from pipelines.scorers import PoolSettings, ScorerSettings, probe
from pipelines.side_files import SideFiles, SideFileSettings
from pipelines.storage import FileInfo, Storage, StorageOptions, absolute, join
from pipelines.work import do_units
from qrcore.records import ScorerIdentity

JOB: Final = "rerank"
#: Settings that enter the identity as what they came to (hashes, resolved names), not as they were spelled.
_RESOLVED_BY_PROBE: Final = frozenset(
    {"model.id", "model.revision", "model.heads", "model.dtype", "model.device", "scoring.prompt"}
)


@dataclass(frozen=True, slots=True)
class RerankSettings:
    """Everything that a re-ranking run is told.

    ``config`` is the resolved configuration for the record; ``affecting_output`` the part of it that decides what
    comes out, and with it the run's identity. ``order=auto``: best last where the input has first-stage scores or
    ranks, else as given.
    """

    inputs: tuple[str, ...]
    output: str
    name: str
    scorer: ScorerSettings
    order: Literal["auto", "as_given", "reversed", "shuffled"]
    carry: Carry
    skip_bad_files: bool
    unit_bytes: int
    unit_rows: int
    qrels: str | None
    pool: PoolSettings
    cluster: ClusterSettings
    storage: StorageOptions
    config: dict[str, Any]
    affecting_output: dict[str, Any]


class Observer(Protocol):
    """Is told how a run goes on; the pipeline prints nothing itself."""

    def stage(self, message: str) -> None: ...

    def planned(self, plan: Plan, done: frozenset[str]) -> None: ...

    def unit_done(self, footer: dict[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class RunResult:
    """A committed run. ``already_committed``: an earlier command had done all of it."""

    manifest: Manifest
    run_uri: str
    already_committed: bool


def run(settings: RerankSettings, observer: Observer) -> RunResult:
    """Plan, work and commit; run again after any interruption to go on where it stopped.

    Raises errors of :mod:`qrcore.errors`; :class:`IncompleteRunError` means that the same command resumes.
    """
    storage = Storage(settings.output, settings.storage)
    files = list_inputs(settings.inputs, settings.storage)
    qrels = load_qrels(settings.qrels, settings.storage) if settings.qrels else None
    side = SideFileSettings(settings.qrels, qrels, settings.storage)
    settings = replace(settings, scorer=_on_requested_device(settings))
    with ray_session(settings.cluster):
        refuse_local_files_on_many_nodes((*settings.inputs, settings.output), shared=settings.storage.shared)
        check_resources(settings.pool.actors, settings.pool.cpus_per_actor, settings.pool.gpus_per_actor)
        observer.stage("loading the model once to check it")
        facts = _probe(settings)
        identity = _Identity.of(settings, facts, files)
        run_uri = join(absolute(settings.output), identity.run_id)
        committed = load_manifest(storage, run_uri)
        if committed is not None:
            point_latest(storage, absolute(settings.output), committed)
            return RunResult(committed, run_uri, already_committed=True)
        plan = load_plan(storage, run_uri) or _make_plan(settings, facts, identity, files, storage, run_uri, observer)
        done = find_done(storage, run_uri)
        observer.planned(plan, frozenset(done))
        write_seconds = _work(settings, facts, plan, done, run_uri, observer)
        observer.stage("checking every object and committing")
        manifest = _commit(settings, plan, storage, run_uri, SideFiles(plan, side), bool(done), write_seconds)
    return RunResult(manifest, run_uri, already_committed=False)


@dataclass(frozen=True, slots=True)
class _Identity:
    run_id: str
    config_hash: str
    input_hash: str

    @classmethod
    def of(cls, settings: RerankSettings, facts: ScorerIdentity, files: Sequence[FileInfo]) -> _Identity:
        config_hash = content_hash(
            {
                "job": JOB,
                "config": {k: v for k, v in settings.affecting_output.items() if k not in _RESOLVED_BY_PROBE},
                "code": code_version(),
                "head_set": facts.head_set_id,
                "prompt": facts.prompt_sha256,
                "weights": facts.weights_sha256,
                "setup": facts.setup_sha256,
                "dtype": facts.dtype,
                "device": facts.device.split(":")[0],
            }
        )
        inputs = input_hash(files)
        return cls(run_id(settings.name, config_hash, inputs), config_hash, inputs)


def _probe(settings: RerankSettings) -> ScorerIdentity:
    task = ray.remote(num_cpus=settings.pool.cpus_per_actor, num_gpus=settings.pool.gpus_per_actor)(probe)
    facts: ScorerIdentity = get(task.remote(settings.scorer))
    return facts


def _on_requested_device(settings: RerankSettings) -> ScorerSettings:
    # By what was asked of Ray, not by what a worker happens to see: Ray does not hide GPUs from actors without one.
    if settings.scorer.device != "auto":
        return settings.scorer
    return replace(settings.scorer, device="cuda" if settings.pool.gpus_per_actor else "cpu")


def _make_plan(
    settings: RerankSettings,
    facts: ScorerIdentity,
    identity: _Identity,
    files: Sequence[FileInfo],
    storage: Storage,
    run_uri: str,
    observer: Observer,
) -> Plan:
    observer.stage(f"reading {len(files)} input files for the plan")
    task = ray.remote(num_cpus=LIGHT_TASK_CPUS)(survey_file)
    surveys: list[FileSurvey] = [get(ref) for ref in [task.remote(file, settings.storage) for file in files]]
    usable, skipped = usable_surveys(surveys, skip_bad_files=settings.skip_bad_files)
    order = _resolve_order(settings.order, usable)
    plan = Plan(
        run_id=identity.run_id,
        job=JOB,
        name=settings.name,
        config_hash=identity.config_hash,
        input_hash=identity.input_hash,
        config=settings.config,
        provenance=_provenance(settings, facts, identity, order),
        order=order,
        files=planned_files(usable),
        skipped_files=skipped,
        units=cut_units(usable, identity.config_hash, settings.unit_bytes, settings.unit_rows),
        schema_ipc=encode_schema(output_schema(usable, settings.carry)),
    )
    return store_plan(storage, run_uri, plan)


def _resolve_order(order: str, surveys: Sequence[FileSurvey]) -> str:
    if order != "auto":
        return order
    return "reversed" if any(survey.has_first_stage for survey in surveys) else "as_given"


def _provenance(settings: RerankSettings, facts: ScorerIdentity, identity: _Identity, order: str) -> dict[str, Any]:
    code = code_version()
    return {
        "code_version": code["version"],
        "source_sha256": code["source_sha256"],
        "packages": package_versions(),
        "model": {
            "id": settings.scorer.model,
            "revision": facts.revision,
            "weights_sha256": facts.weights_sha256,
            "setup_sha256": facts.setup_sha256,
            "layers": facts.layers,
            "kept_layers": facts.kept_layers,
        },
        "head_set": {"id": facts.head_set_id, "heads": list(facts.heads)},
        "prompt": {"name": facts.prompt["name"], "sha256": facts.prompt_sha256, "format": facts.prompt},
        "max_tokens": facts.max_tokens,
        "settings": {
            "null_query": settings.scorer.null_query,
            "calibration_weight": settings.scorer.calibration_weight,
            "query_span": settings.scorer.query_span,
            "order": order,
            "document_special_tokens": settings.scorer.document_special_tokens,
            "allow_sliding_window": settings.scorer.allow_sliding_window,
        },
        "dtype": facts.dtype,
        "device": facts.device,
        "config_hash": identity.config_hash,
        "input_hash": identity.input_hash,
    }


def _work(
    settings: RerankSettings, facts: ScorerIdentity, plan: Plan, done: set[str], run_uri: str, observer: Observer
) -> dict[str, float]:
    """Do what is not done yet; seconds of writing by unit."""
    todo = [unit for unit in plan.units if unit.unit_id not in done]
    if not todo:
        return {}
    scorer = replace(settings.scorer, order=plan.order, revision=facts.revision, dtype=facts.dtype)
    seconds = {}
    for footer in do_units(plan, todo, run_uri, scorer, settings.pool, settings.storage):
        seconds[footer["unit_id"]] = footer["write_s"]
        observer.unit_done(footer)
    return seconds


def _commit(
    settings: RerankSettings,
    plan: Plan,
    storage: Storage,
    run_uri: str,
    side_files: SideFiles,
    resumed: bool,
    write_seconds: dict[str, float],
) -> Manifest:
    check_complete(plan, find_done(storage, run_uri))
    driver = uuid.uuid4().hex
    objects = [stored.entry for stored in side_files.watch(read_back(plan, run_uri, settings.storage))]
    check_balanced(plan, objects)
    paths = side_files.write(storage, run_uri, driver, resumed, write_seconds)
    manifest = make_manifest(plan, objects, driver, paths)
    return commit(storage, absolute(settings.output), run_uri, manifest)
