"""A run from beginning to end, whatever its job: probe, plan, work, commit."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final, Generic

from pipelines.attempts import mark_stopped
from pipelines.children import FailedRows, failed_rows
from pipelines.cluster import (
    allow_silence,
    check_resources,
    first_load,
    ray_session,
    refuse_local_files_on_many_nodes,
    wait_until_fits,
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
    side_object,
)
from pipelines.identity import code_version, content_hash, input_hash, package_versions, run_id
from pipelines.inputs import list_inputs
from pipelines.job import EncodesAhead, Facts, HasStage, Job, Observer, RunResult, RunSettings, contract_of
from pipelines.lease import held, leases
from pipelines.limits import ErrorTally, judged
from pipelines.lineage import LineageRun, Source, told
from pipelines.plan import Plan, Unit, cut_units, encode_schema, load_plan, planned_files, store_plan, usable_surveys
from pipelines.storage import FileInfo, Storage, absolute, join
from pipelines.surveys import survey_files
from pipelines.telemetry import RunMetrics
from pipelines.work import PoolSettings, WorkSettings, do_units, longest_silence_s
from qrcore.errors import StorageError

_LOOK_AGAIN_EVERY_S: Final = 2.0


def run_job(job: Job[Facts], settings: RunSettings, observer: Observer) -> RunResult:
    """Plan, work and commit; run again after any interruption to go on where it stopped.

    Raises errors of :mod:`qrcore.errors`; :class:`IncompleteRunError` means that the same command resumes.
    """
    chosen = failed_rows(settings.rows_from, settings.storage) if settings.rows_from else None
    files = chosen.files if chosen else list_inputs(settings.inputs, settings.storage)
    with ray_session(settings.cluster):
        refuse_local_files_on_many_nodes((*settings.inputs, settings.output), shared=settings.storage.shared)
        settings = replace(settings, pool=used_pool(job, settings.pool))
        pool = settings.pool
        check_resources(pool.actors, pool.cpus_per_actor, pool.gpus_per_actor, pool.encoders)
        return _Run.of(job, settings, files, chosen, observer).finish()


def used_pool(job: Job[Any], pool: PoolSettings) -> PoolSettings:
    """The pool without the actors that would have nothing to do."""
    ahead = isinstance(job, EncodesAhead) and job.encodes_ahead
    return pool if ahead else replace(pool, encoders=0)


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
    chosen: FailedRows | None
    observer: Observer
    facts: Facts
    identity: _Identity
    storage: Storage
    uri: str
    driver: str

    @classmethod
    def of(
        cls,
        job: Job[Facts],
        settings: RunSettings,
        files: Sequence[FileInfo],
        chosen: FailedRows | None,
        observer: Observer,
    ) -> _Run[Facts]:
        pool = settings.pool
        observer.stage("loading the model once to check it")
        wait_until_fits(pool.cpus_per_actor, pool.gpus_per_actor, settings.start_timeout_s, observer.stage)
        facts: Facts = first_load(job.probe(), pool.cpus_per_actor, pool.gpus_per_actor)
        config_hash = content_hash({"job": job.name, "code": code_version(), **job.identity(facts)})
        inputs = input_hash(files) if chosen is None else content_hash([input_hash(files), chosen.content()])
        identity = _Identity(run_id(settings.name, config_hash, inputs), config_hash, inputs)
        uri = join(absolute(settings.output), identity.run_id)
        storage = Storage(settings.output, settings.storage)
        return cls(job, settings, files, chosen, observer, facts, identity, storage, uri, uuid.uuid4().hex)

    def finish(self) -> RunResult:
        committed = self._committed()
        if committed is not None:
            return committed
        stored = load_plan(self.storage, self.uri)
        plan = stored or self._make_plan()  # input that is refused leaves nothing behind
        with held(self.storage, self.uri, self.driver, join_others=self.settings.join_others) as others:
            if stored is None:
                plan = self._store(plan)
            done = find_done(self.storage, self.uri)
            self.observer.planned(plan, frozenset(done))
            with told(
                self._for_lineage(plan), self.settings.lineage, self.settings.storage, self.observer.stage
            ) as end:
                result = self._work_and_commit(plan, done, from_the_end=bool(others))
                end(result.manifest)
            return result

    def _work_and_commit(self, plan: Plan, done: set[str], *, from_the_end: bool) -> RunResult:
        try:
            write_seconds = self._work(plan, done, from_the_end=from_the_end)
        finally:
            with suppress(StorageError):
                mark_stopped(self.storage, self.uri, self.driver)
        self.observer.stage("checking every object and committing")
        # Another driver may have ended first, and with it the work of both.
        return self._committed() or RunResult(
            self._commit(plan, bool(done), write_seconds), self.uri, already_committed=False
        )

    def _for_lineage(self, plan: Plan) -> LineageRun:
        asked = self.settings.inputs or tuple(file.uri for file in plan.files)
        return LineageRun(
            job=plan.job,
            name=plan.name,
            run_id=plan.run_id,
            driver=self.driver,
            inputs=tuple(absolute(uri) for uri in asked),
            sources=tuple(Source(file.uri, file.size, file.rows) for file in plan.files),
            output=self.uri,
            columns={field.name: str(field.type) for field in plan.output_schema},
        )

    def _committed(self) -> RunResult | None:
        committed = load_manifest(self.storage, self.uri)
        if committed is None:
            return None
        point_latest(self.storage, absolute(self.settings.output), committed)
        return RunResult(committed, self.uri, already_committed=True)

    def _store(self, plan: Plan) -> Plan:
        self.storage.check_creates(self.uri)
        return store_plan(self.storage, self.uri, plan)

    def _make_plan(self) -> Plan:
        settings = self.settings
        self.observer.stage(f"reading {len(self.files)} input files for the plan")
        contract = contract_of(self.job)
        surveys = survey_files(self.files, settings.storage, contract)
        usable, skipped = usable_surveys(surveys, skip_bad_files=settings.skip_bad_files, carry=settings.carry)
        order = self.job.order(usable, self.facts)
        schema, carried = self.job.output_schema(usable)
        return Plan(
            run_id=self.identity.run_id,
            job=self.job.name,
            name=settings.name,
            contract=contract.name,
            config_hash=self.identity.config_hash,
            input_hash=self.identity.input_hash,
            config=settings.config,
            provenance=self._provenance(order),
            order=order,
            files=planned_files(usable),
            skipped_files=skipped,
            units=cut_units(
                usable,
                self.identity.config_hash,
                settings.unit_bytes,
                settings.unit_rows,
                settings.row_bytes,
                self.chosen.rows if self.chosen else None,
            ),
            schema_ipc=encode_schema(schema),
            carried=carried,
            parent=self.chosen.parent if self.chosen else None,
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

    def _work(self, plan: Plan, done: set[str], *, from_the_end: bool) -> dict[str, float]:
        """Do what is not done yet; seconds of writing by unit."""
        # The longest first: what is begun last ends soon, so that no actor is left alone with a long unit.
        todo = sorted((unit for unit in plan.units if unit.unit_id not in done), key=lambda unit: -unit.tokens)
        if from_the_end:
            todo.reverse()
        seconds: dict[str, float] = {}
        tally = ErrorTally(self.settings.max_error_rate, self.settings.max_killer_rows)
        metrics = RunMetrics(plan.job, plan.name, len(todo))
        while todo:
            for footer in self._do(plan, todo):
                seconds[footer["unit_id"]] = footer["write_s"]
                metrics.unit_done(footer)
                self.observer.unit_done(footer)
                tally.add(footer)
            left = self._left(todo)
            if len(left) == len(todo) and not self._others_work_on(left):
                break  # the commit says what is missing
            todo = self._left(left)
        return seconds

    def _do(self, plan: Plan, todo: Sequence[Unit]) -> Iterator[dict[str, Any]]:
        settings = self.settings
        work = WorkSettings(
            settings.pool, settings.storage, self.driver, settings.skip_bad_files, settings.max_killer_rows
        )
        allow_silence(longest_silence_s(todo, settings.start_timeout_s))
        encoder = self.job.encoder(self.facts, plan) if isinstance(self.job, EncodesAhead) else None
        stage = self.job.stage(self.facts, plan) if isinstance(self.job, HasStage) else None
        return do_units(plan, todo, self.uri, self.job.worker(self.facts, plan), work, encoder, stage)

    def _left(self, units: Sequence[Unit]) -> list[Unit]:
        done = find_done(self.storage, self.uri)
        return [unit for unit in units if unit.unit_id not in done]

    def _others_work_on(self, left: Sequence[Unit]) -> bool:
        """Wait while other drivers are at the units that are left; False if there are none."""
        waited = False
        while any(lease.fresh and lease.driver != self.driver for lease in leases(self.storage, self.uri)):
            if not waited:
                self.observer.stage(f"waiting for {len(left)} units that another driver is at")
            waited = True
            time.sleep(_LOOK_AGAIN_EVERY_S)
            if len(self._left(left)) < len(left):
                break
        return waited

    def _commit(self, plan: Plan, resumed: bool, write_seconds: dict[str, float]) -> Manifest:
        check_complete(plan, find_done(self.storage, self.uri))
        side_files = self.job.side_files(plan, self.facts)
        tally = ErrorTally(self.settings.max_error_rate, self.settings.max_killer_rows)
        stored = judged(read_back(plan, self.uri, self.settings.storage), tally)
        objects = [unit.entry for unit in side_files.watch(stored)]
        check_balanced(plan, objects)
        paths = side_files.write(self.storage, self.uri, self.driver, resumed, write_seconds)
        entries = [side_object(self.storage, self.uri, path) for path in paths]
        manifest = make_manifest(plan, objects, self.driver, entries, side_files.warnings)
        return commit(self.storage, absolute(self.settings.output), self.uri, manifest)
