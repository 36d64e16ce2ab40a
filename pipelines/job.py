"""What a kind of run adds to the steps that all share, what every run is told, and who is told of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

import pyarrow as pa

from pipelines.cluster import ClusterSettings
from pipelines.commit import Manifest, StoredUnit
from pipelines.contracts import QUERIES, RowContract
from pipelines.encoding import UnitEncoder
from pipelines.inputs import FileSurvey
from pipelines.lineage import LineageSettings
from pipelines.plan import Plan
from pipelines.schemas import Carry
from pipelines.storage import Storage, StorageOptions
from pipelines.work import PoolSettings, UnitWorker

Facts = TypeVar("Facts")


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What every run is told.

    ``config`` is the resolved configuration for the record; ``affecting_output`` the part of it that decides what
    comes out, and with it the run's identity. ``row_bytes``: decoded text of a row above which it is an error;
    ``max_error_rate``: share of failed rows above which nothing is committed; ``max_killer_rows``: rows that may kill
    their worker; ``start_timeout_s``: how long to wait for a node that can hold an actor; ``join_others``: help
    another driver; ``rows_from``: a committed run whose failed rows are scored instead of ``inputs``; ``lineage``: who
    is told of the run; ``carry``: further columns of the input, which must have one type in all files.
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
    row_bytes: int = 256 * 2**20
    max_error_rate: float = 0.05
    max_killer_rows: int = 10
    start_timeout_s: float = 600.0
    join_others: bool = False
    rows_from: str | None = None
    lineage: LineageSettings = field(default_factory=LineageSettings)
    carry: Carry = "none"


class SideFileWriter(Protocol):
    """Collects what the side files say while units stream by, and puts them beside the data."""

    def watch(self, units: Iterable[StoredUnit]) -> Iterator[StoredUnit]: ...

    def write(
        self, storage: Storage, run_uri: str, driver: str, resumed: bool, write_s: Mapping[str, float]
    ) -> list[str]: ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the units that were watched give cause to warn of, for the manifest."""
        ...


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


@runtime_checkable
class EncodesAhead(Protocol):
    """A job whose units can be tokenised before they come to its workers."""

    @property
    def encodes_ahead(self) -> bool:
        """Whether those of this run can: not where the scores of one prompt decide what the next one holds."""
        ...

    def encoder(self, facts: Any, plan: Plan) -> Callable[[], UnitEncoder]:
        """What makes an encoder in an actor; travels there."""
        ...


@runtime_checkable
class HasStage(Protocol):
    """A job with a stage of its own between reading and writing units, in the place of actors with a worker."""

    def stage(self, facts: Any, plan: Plan) -> Callable[[Any, Any], Any] | None:
        """From the data set of units that were read, and what the stage needs to know of the run, to that of units to
        be written; None: the usual actors."""
        ...


def contract_of(job: Any) -> RowContract:
    """What a job's input rows must have: those of queries, unless it names another ``contract``."""
    found: RowContract = getattr(job, "contract", QUERIES)
    return found


class PlannedUnit(Protocol):
    """A unit of a plan, as far as an observer needs it."""

    @property
    def unit_id(self) -> str: ...

    @property
    def rows(self) -> int: ...

    @property
    def tokens(self) -> int: ...


class Planned(Protocol):
    """A plan, as far as an observer needs it."""

    @property
    def run_id(self) -> str: ...

    @property
    def rows(self) -> int: ...

    @property
    def order(self) -> str: ...

    @property
    def provenance(self) -> dict[str, Any]: ...

    @property
    def units(self) -> Sequence[PlannedUnit]: ...


class Observer(Protocol):
    """Is told how a run goes on; the pipeline prints nothing itself."""

    def stage(self, message: str) -> None: ...

    def planned(self, plan: Planned, done: frozenset[str]) -> None: ...

    def unit_done(self, footer: dict[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class RunResult:
    """A committed run. ``already_committed``: an earlier command had done all of it."""

    manifest: Manifest
    run_uri: str
    already_committed: bool
