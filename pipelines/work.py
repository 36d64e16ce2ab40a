"""Do the units of a plan: read, score, write, as one Ray Data pipeline where one row is one unit.

Between the stages a unit travels as Arrow IPC bytes: nested columns stay what they are, and no block layout of Ray
ever decides what is retried or committed together.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Protocol, cast

import pyarrow as pa
import pyarrow.parquet as pq
import ray.data
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError

from pipelines.cluster import LIGHT_TASK_CPUS, unwrapped
from pipelines.inputs import read_rows
from pipelines.plan import Plan, Unit
from pipelines.schemas import INPUT_SCHEMA
from pipelines.storage import FileInfo, Storage, StorageOptions, join
from pipelines.units import UnitRows, from_ipc, to_ipc
from qrcore.errors import IncompleteRunError, QRBatchError, StorageError

UNIT_KEY = b"qrbatch.unit"
PROVENANCE_KEY = b"qrbatch.provenance"


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """The actors that hold a model: how many, and what each takes of the cluster."""

    actors: int = 2
    cpus_per_actor: float = 1.0
    gpus_per_actor: float = 0.0


@dataclass(frozen=True, slots=True)
class UnitMetrics:
    """What one unit took; kept in the unit object's footer.

    ``memory_bytes``: the actor's largest resident memory so far; ``gpu_memory_bytes``: the most that torch took of its
    GPU.
    """

    rows: int
    scored: int
    failed: int
    uninformative: int
    prompt_tokens: int
    errors: dict[str, int]
    score_s: float
    started_at: str
    finished_at: str
    actor_pid: int
    node: str
    memory_bytes: int = 0
    gpu_memory_bytes: int = 0


class UnitWorker(Protocol):
    """Holds a model in an actor and answers units with it, one row in, one row out."""

    def answer(self, unit: UnitRows) -> tuple[pa.Table, UnitMetrics]:
        """The unit's output rows in input order, and what they took."""
        ...


@dataclass(frozen=True, slots=True)
class _Work:
    """What the stages need of the plan; small, because it travels to every task."""

    run_uri: str
    config_hash: str
    provenance: str
    files: tuple[tuple[str, int, str], ...]
    columns: tuple[str, ...]
    storage: StorageOptions


def do_units(
    plan: Plan,
    todo: Sequence[Unit],
    run_uri: str,
    worker: Callable[[], UnitWorker],
    pool: PoolSettings,
    storage: StorageOptions,
) -> Iterator[dict[str, Any]]:
    """Do ``todo`` with workers that ``worker`` makes, one an actor; yield each unit's footer record as it is written.

    Raises :class:`IncompleteRunError` if the store or a worker fails; what is written stays and is not done again.
    """
    work = _Work(
        run_uri=run_uri,
        config_hash=plan.config_hash,
        provenance=json.dumps(plan.provenance),
        files=tuple((file.uri, file.size, file.etag) for file in plan.files),
        columns=(*INPUT_SCHEMA.names, *plan.carried),
        storage=storage,
    )
    units = ray.data.from_items([{"unit": unit.model_dump_json()} for unit in todo], override_num_blocks=len(todo))
    read = units.map(partial(_read_unit, work=work), num_cpus=LIGHT_TASK_CPUS)
    scored = read.map(
        cast("Any", _AnswerUnit),  # Ray accepts a class here; its annotations know functions only
        fn_constructor_kwargs={"worker": worker},
        compute=ActorPoolStrategy(size=min(pool.actors, len(todo)), max_tasks_in_flight_per_actor=2),
        num_cpus=pool.cpus_per_actor,
        num_gpus=pool.gpus_per_actor,
    )
    written = scored.map(partial(_write_unit, work=work), num_cpus=LIGHT_TASK_CPUS)
    try:
        for row in written.iter_rows():
            yield json.loads(row["footer"])
    except RayError as error:
        raise _resumable(unwrapped(error)) from error


def _resumable(error: BaseException) -> BaseException:
    if isinstance(error, (StorageError, OSError)):
        return IncompleteRunError(
            f"{_own_words(error).rstrip('.')}. Run the same command again; finished units are kept."
        )
    if isinstance(error, QRBatchError):
        return type(error)(_own_words(error))
    return error


def _own_words(error: BaseException) -> str:
    return str(error).split("\nFailed to ", 1)[0]  # where Ray Data adds advice about its own retries


def _read_unit(row: dict[str, Any], work: _Work) -> dict[str, Any]:
    started = time.perf_counter()
    unit = Unit.model_validate_json(row["unit"])
    table = read_rows(_file(work, unit), unit.start, unit.stop, work.columns, work.storage)
    return {
        "unit": row["unit"],
        "uri": work.files[unit.file][0],
        "table": to_ipc(table),
        "read_s": _since(started),
        "read_at": time.time(),
    }


def _file(work: _Work, unit: Unit) -> FileInfo:
    return FileInfo(*work.files[unit.file])


class _AnswerUnit:
    def __init__(self, worker: Callable[[], UnitWorker]) -> None:
        self._worker = worker()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        waited = max(0.0, time.time() - row["read_at"])  # two nodes may disagree about the time
        unit = Unit.model_validate_json(row["unit"])
        rows = UnitRows(from_ipc(row["table"]), row["uri"], unit.start, frozenset(unit.duplicates))
        table, metrics = self._worker.answer(rows)
        return {
            "unit": row["unit"],
            "table": to_ipc(table),
            "read_s": row["read_s"],
            "wait_s": waited,
            "metrics": json.dumps(asdict(metrics)),
        }


def _write_unit(row: dict[str, Any], work: _Work) -> dict[str, Any]:
    started = time.perf_counter()
    unit = Unit.model_validate_json(row["unit"])
    footer = {
        "unit_id": unit.unit_id,
        "config_hash": work.config_hash,
        "read_s": row["read_s"],
        "wait_s": row["wait_s"],
        **json.loads(row["metrics"]),
    }
    data = parquet_bytes(from_ipc(row["table"]), {UNIT_KEY: json.dumps(footer), PROVENANCE_KEY: work.provenance})
    # The object is its own completion marker. If a twin was first, its object counts and this one is forgotten.
    Storage(work.run_uri, work.storage).create(unit_uri(work.run_uri, unit.unit_id), data)
    return {"footer": json.dumps({**footer, "write_s": _since(started), "bytes": len(data)})}


def unit_uri(run_uri: str, unit_id: str) -> str:
    """Where a unit's object stands."""
    return join(run_uri, "data", f"{unit_id}.parquet")


def parquet_bytes(table: pa.Table, metadata: dict[bytes, str]) -> bytes:
    """A table as one Parquet file in memory, with more footer metadata."""
    entries = {**(table.schema.metadata or {}), **{key: value.encode() for key, value in metadata.items()}}
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(entries), sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def _since(started: float) -> float:
    return time.perf_counter() - started
