"""A run from beginning to end, whatever its job: probe, plan, work, commit."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import pyarrow as pa
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
    StoredUnit,
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
from pipelines.metrics import RunMetrics
from pipelines.plan import Plan, cut_units, encode_schema, load_plan, planned_files, store_plan, usable_surveys
from pipelines.storage import FileInfo, Storage, StorageOptions, absolute, join
from pipelines.work import PoolSettings, UnitWorker, do_units

Facts = TypeVar("Facts")


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What every run is told.

    ``config`` is the resolved configuration for the record; ``affecting_output`` the part of it that decides what
    comes out, and with it the run's identity.
    """

    inputs: tuple[str, ...]
    output: str
    name: str
    skip_bad_files: bool
    unit_bytes: int
    unit_rows: int
    pool: PoolSettings
    cluster: ClusterSettings
    storage: StorageOptions
    config: dict[str, Any]
    affecting_output: dict[str, Any]


class SideFileWriter(Protocol):
    """Collects what the side files say while units stream by, and puts them beside the data."""

    def watch(self, units: Iterable[StoredUnit]) -> Iterator[StoredUnit]: ...

    def write(
        self, storage: Storage, run_uri: str, driver: str, resumed: bool, write_s: Mapping[str, float]
    ) -> list[str]: ...


class Job(Protocol[Facts]):
    """What one kind of run adds to the steps that all share."""

    @property
    def name(self) -> str:
        """As in ``qrbatch NAME``."""
        ...

    def probe(self) -> Callable[[], Facts]:
        """What loads a worker's model and says what it is; travels to a task with an actor's resources, and refuses
        there what cannot work, before any work is planned."""
        ...

    def identity(self, facts: Facts) -> dict[str, Any]:
        """What decides the output besides inputs and code: settings, and what names in them came to."""
        ...

    def order(self, surveys: Sequence[FileSurvey], facts: Facts) -> str:
        """How documents stand in the prompt."""
        ...

    def provenance(self, facts: Facts, order: str) -> dict[str, Any]:
        """What the manifest says of model and settings."""
        ...

    def output_schema(self, surveys: Sequence[FileSurvey]) -> tuple[pa.Schema, tuple[str, ...]]:
        """The schema of every output object, and which of its columns are carried from the input."""
        ...

    def worker(self, facts: Facts, plan: Plan) -> Callable[[], UnitWorker]:
        """What makes a worker in an actor; travels there."""
        ...

    def side_files(self, plan: Plan, facts: Facts) -> SideFileWriter:
        """What is put beside the data at the commit."""
        ...


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


def run_job(job: Job[Facts], settings: RunSettings, observer: Observer) -> RunResult:
    """Plan, work and commit; run again after any interruption to go on where it stopped.

    Raises errors of :mod:`qrcore.errors`; :class:`IncompleteRunError` means that the same command resumes.
    """
    files = list_inputs(settings.inputs, settings.storage)
    with ray_session(settings.cluster):
        refuse_local_files_on_many_nodes((*settings.inputs, settings.output), shared=settings.storage.shared)
        check_resources(settings.pool.actors, settings.pool.cpus_per_actor, settings.pool.gpus_per_actor)
        observer.stage("loading the model once to check it")
        return _Run.of(job, settings, files, observer).finish()


def _call(function: Callable[[], Facts]) -> Facts:
    return function()


@dataclass(frozen=True, slots=True)
class _Identity:
    run_id: str
    config_hash: str
    input_hash: str


@dataclass(frozen=True, slots=True)
class _Run(Generic[Facts]):
    """One run of one driver: what was asked, what it came to, and where it stands."""

    job: Job[Facts]
    settings: RunSettings
    files: Sequence[FileInfo]
    observer: Observer
    facts: Facts
    identity: _Identity
    storage: Storage
    uri: str

    @classmethod
    def of(cls, job: Job[Facts], settings: RunSettings, files: Sequence[FileInfo], observer: Observer) -> _Run[Facts]:
        pool = settings.pool
        task: Any = ray.remote(num_cpus=pool.cpus_per_actor, num_gpus=pool.gpus_per_actor)(_call)
        facts: Facts = get(task.remote(job.probe()))
        config_hash = content_hash({"job": job.name, "code": code_version(), **job.identity(facts)})
        inputs = input_hash(files)
        identity = _Identity(run_id(settings.name, config_hash, inputs), config_hash, inputs)
        uri = join(absolute(settings.output), identity.run_id)
        return cls(job, settings, files, observer, facts, identity, Storage(settings.output, settings.storage), uri)

    def finish(self) -> RunResult:
        committed = load_manifest(self.storage, self.uri)
        if committed is not None:
            point_latest(self.storage, absolute(self.settings.output), committed)
            return RunResult(committed, self.uri, already_committed=True)
        plan = load_plan(self.storage, self.uri) or store_plan(self.storage, self.uri, self._make_plan())
        done = find_done(self.storage, self.uri)
        self.observer.planned(plan, frozenset(done))
        write_seconds = self._work(plan, done)
        self.observer.stage("checking every object and committing")
        return RunResult(self._commit(plan, bool(done), write_seconds), self.uri, already_committed=False)

    def _make_plan(self) -> Plan:
        settings = self.settings
        self.observer.stage(f"reading {len(self.files)} input files for the plan")
        task = ray.remote(num_cpus=LIGHT_TASK_CPUS)(survey_file)
        references = [task.remote(file, settings.storage) for file in self.files]
        surveys: list[FileSurvey] = [get(reference) for reference in references]
        usable, skipped = usable_surveys(surveys, skip_bad_files=settings.skip_bad_files)
        order = self.job.order(usable, self.facts)
        schema, carried = self.job.output_schema(usable)
        return Plan(
            run_id=self.identity.run_id,
            job=self.job.name,
            name=settings.name,
            config_hash=self.identity.config_hash,
            input_hash=self.identity.input_hash,
            config=settings.config,
            provenance=self._provenance(order),
            order=order,
            files=planned_files(usable),
            skipped_files=skipped,
            units=cut_units(usable, self.identity.config_hash, settings.unit_bytes, settings.unit_rows),
            schema_ipc=encode_schema(schema),
            carried=carried,
        )

    def _provenance(self, order: str) -> dict[str, Any]:
        code = code_version()
        return {
            "code_version": code["version"],
            "source_sha256": code["source_sha256"],
            "packages": package_versions(),
            **self.job.provenance(self.facts, order),
            "config_hash": self.identity.config_hash,
            "input_hash": self.identity.input_hash,
        }

    def _work(self, plan: Plan, done: set[str]) -> dict[str, float]:
        """Do what is not done yet; seconds of writing by unit."""
        todo = [unit for unit in plan.units if unit.unit_id not in done]
        if not todo:
            return {}
        seconds = {}
        worker = self.job.worker(self.facts, plan)
        metrics = RunMetrics(plan.job, plan.name, len(todo))
        for footer in do_units(plan, todo, self.uri, worker, self.settings.pool, self.settings.storage):
            seconds[footer["unit_id"]] = footer["write_s"]
            metrics.unit_done(footer)
            self.observer.unit_done(footer)
        return seconds

    def _commit(self, plan: Plan, resumed: bool, write_seconds: dict[str, float]) -> Manifest:
        check_complete(plan, find_done(self.storage, self.uri))
        driver = uuid.uuid4().hex
        side_files = self.job.side_files(plan, self.facts)
        stored = read_back(plan, self.uri, self.settings.storage)
        objects = [unit.entry for unit in side_files.watch(stored)]
        check_balanced(plan, objects)
        paths = side_files.write(self.storage, self.uri, driver, resumed, write_seconds)
        manifest = make_manifest(plan, objects, driver, paths)
        return commit(self.storage, absolute(self.settings.output), self.uri, manifest)
