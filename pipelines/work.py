"""Do the units of a plan: read, score, write, as one Ray Data pipeline where one row is one unit.

Between the stages a unit travels as Arrow IPC bytes: nested columns stay what they are, and no block layout of Ray
ever decides what is retried or committed together.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

import pyarrow as pa
import pyarrow.parquet as pq
import ray.data
from ray.data import ActorPoolStrategy
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError

from pipelines.answering import AnswerSettings, AnswerUnit
from pipelines.answering import UnitWorker as UnitWorker
from pipelines.cluster import ENCODER_CPUS, LIGHT_TASK_CPUS, START_ATTEMPTS, telling_line, unwrapped
from pipelines.contracts import CONTRACTS
from pipelines.encoding import EncodeUnit, UnitEncoder
from pipelines.metrics import UnitMetrics as UnitMetrics
from pipelines.plan import Plan, Unit
from pipelines.ranges import RowRange, read_range
from pipelines.storage import FileInfo, Storage, StorageOptions
from pipelines.units import from_ipc, to_ipc, unit_uri
from qrcore.errors import IncompleteRunError, InputError, QRBatchError, RunError, StorageError

UNIT_KEY = b"qrbatch.unit"
PROVENANCE_KEY = b"qrbatch.provenance"
_SHORTEST_SILENCE_S: Final = 1800.0
_SLOWEST_TOKENS_PER_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """The actors that hold a model: how many, and what each takes of the cluster; ``encoders``: actors that
    tokenise ahead of them, where the job lets them."""

    actors: int = 2
    cpus_per_actor: float = 1.0
    gpus_per_actor: float = 0.0
    encoders: int = 0


@dataclass(frozen=True, slots=True)
class WorkSettings:
    """How units are done: ``driver`` is this driver's uuid; ``skip_bad_files``: rows that cannot be decoded become
    errors instead of ending the run; ``most_killers``: rows that may kill their worker."""

    pool: PoolSettings
    storage: StorageOptions
    driver: str = "none"
    skip_bad_files: bool = False
    most_killers: int = 10


@dataclass(frozen=True, slots=True)
class _Work:
    """What the stages need of the plan; small, because it travels to every task."""

    run_uri: str
    config_hash: str
    provenance: str
    files: tuple[tuple[str, int, str], ...]
    largest_rows: tuple[int, ...]
    contract: str
    columns: tuple[str, ...]
    storage: StorageOptions
    skip_bad_files: bool


def do_units(
    plan: Plan,
    todo: Sequence[Unit],
    run_uri: str,
    worker: Callable[[], UnitWorker],
    settings: WorkSettings,
    encoder: Callable[[], UnitEncoder] | None = None,
    stage: Callable[[ray.data.Dataset, AnswerSettings], ray.data.Dataset] | None = None,
) -> Iterator[dict[str, Any]]:
    """Do ``todo`` with workers that ``worker`` makes, one an actor; yield each unit's footer record as it is written.

    ``encoder`` makes what tokenises units ahead of them, if the pool has actors for it; ``stage`` takes the place of
    those actors. Units that another driver has done or is at are left out. Raises :class:`IncompleteRunError` if the
    store or a worker fails, :class:`RunError` if no actor can be started; what is written stays and is not done again.
    """
    pool = settings.pool
    work = _Work(
        run_uri=run_uri,
        config_hash=plan.config_hash,
        provenance=json.dumps(plan.provenance),
        files=tuple((file.uri, file.size, file.etag) for file in plan.files),
        largest_rows=tuple(file.largest_row for file in plan.files),
        contract=plan.contract,
        columns=(*CONTRACTS[plan.contract].columns, *plan.carried),
        storage=settings.storage,
        skip_bad_files=settings.skip_bad_files,
    )
    answering = AnswerSettings(
        run_uri=run_uri,
        driver=settings.driver,
        schema=plan.output_schema.serialize().to_pybytes(),
        carried=plan.carried,
        storage=settings.storage,
        most_killers=settings.most_killers,
    )
    units = ray.data.from_items([{"unit": unit.model_dump_json()} for unit in todo], override_num_blocks=len(todo))
    read = units.map(partial(_read_unit, work=ray.put(work)), num_cpus=LIGHT_TASK_CPUS)
    if encoder is not None and pool.encoders:
        read = read.map(
            cast("Any", EncodeUnit),
            fn_constructor_kwargs={"encoder": encoder},
            compute=ActorPoolStrategy(size=min(pool.encoders, len(todo)), max_tasks_in_flight_per_actor=2),
            num_cpus=ENCODER_CPUS,
        )
    if stage is not None:
        scored = stage(read, answering)
    else:
        scored = read.map(
            cast("Any", AnswerUnit),  # Ray accepts a class here; its annotations know functions only
            fn_constructor_kwargs={"worker": worker, "settings": answering},
            compute=ActorPoolStrategy(size=min(pool.actors, len(todo)), max_tasks_in_flight_per_actor=2),
            num_cpus=pool.cpus_per_actor,
            num_gpus=pool.gpus_per_actor,
        )
    written = scored.map(partial(_write_unit, work=ray.put(work)), num_cpus=LIGHT_TASK_CPUS)
    started = False
    try:
        for row in written.iter_rows():
            started = True
            if row["footer"]:
                yield json.loads(row["footer"])
    except RayError as error:
        raise _failure(unwrapped(error), error, started) from error
    except ExecutionTimeoutError as error:
        raise IncompleteRunError(
            "Ray: expected units to go on, nothing moved for as long as the largest one may take. Look at the cluster, "
            "then run the same command again; finished units are kept."
        ) from error


def longest_silence_s(units: Sequence[Unit], start_timeout_s: float) -> float:
    """How long nothing may move while these units are done: actors start, and the largest unit is scored slowly."""
    largest = max(unit.tokens for unit in units)
    return start_timeout_s + _SHORTEST_SILENCE_S + largest / _SLOWEST_TOKENS_PER_S


def _failure(error: BaseException, raised: RayError, started: bool) -> BaseException:
    if not started and getattr(raised, "actor_init_failed", False):
        return RunError(
            f"actors: expected them to start, {START_ATTEMPTS} in a row died before any was ready "
            f"({telling_line(raised)}). Look at memory, the model and the packages of the nodes."
        )
    return resumable(error)


def resumable(error: BaseException) -> BaseException:
    """What a stage's failure means for the run: a store that fails leaves it to the same command."""
    if isinstance(error, (StorageError, OSError)):
        return IncompleteRunError(
            f"{_own_words(error).rstrip('.')}. Run the same command again; finished units are kept."
        )
    if isinstance(error, QRBatchError):
        return type(error)(_own_words(error))
    return error


def _own_words(error: BaseException) -> str:
    return str(error).split("\nFailed to ", 1)[0]  # where Ray Data adds advice about its own retries


def _read_unit(row: dict[str, Any], work: Any) -> dict[str, Any]:
    started = time.perf_counter()
    work = _resolved(work)
    unit = Unit.model_validate_json(row["unit"])
    found = _rows_of(unit, work)
    failed = {place: ("unreadable_input", _unreadable(reason)) for place, reason in found.damaged.items()}
    if unit.too_large:
        failed[0] = ("row_too_large", _too_large(unit))
    return {
        "unit": row["unit"],
        "uri": work.files[unit.file][0],
        "table": to_ipc(found.table),
        "failed": json.dumps(failed),
        "seconds": json.dumps({"read_s": _since(started)}),
        "read_at": time.time(),
    }


def _rows_of(unit: Unit, work: _Work) -> RowRange:
    file = FileInfo(*work.files[unit.file])
    if unit.too_large:  # what would not fit is not read
        schema = CONTRACTS[work.contract].schema
        left_out = schema.names[1:]
        columns = [name for name in work.columns if name not in left_out]
        kept = read_range(file, unit.start, unit.stop, columns, work.storage).table
        nulls = {name: pa.nulls(1, schema.field(name).type) for name in left_out}
        for name, column in nulls.items():
            kept = kept.append_column(name, column)
        return RowRange(kept, {})
    found = read_range(file, unit.start, unit.stop, work.columns, work.storage, work.largest_rows[unit.file])
    if found.damaged and not work.skip_bad_files:
        raise InputError(
            f"{file.uri}: expected pages that can be decoded, it is {next(iter(found.damaged.values()))}. Restore the "
            "file, or set input.on_bad_file to skip, which makes error rows of what cannot be read."
        )
    return found


def _unreadable(reason: str) -> str:
    return f"row: expected pages that can be decoded, the file is {reason}. Write the file again from its source."


def _too_large(unit: Unit) -> str:
    return (
        f"row: expected at most units.max_row_bytes of text, got {unit.bytes} bytes. Split the candidates over several "
        "rows, or raise the limit."
    )


def _resolved(work: Any) -> _Work:
    resolved: _Work = ray.get(work) if isinstance(work, ray.ObjectRef) else work
    return resolved


def _write_unit(row: dict[str, Any], work: Any) -> dict[str, Any]:
    started = time.perf_counter()
    if not row["metrics"]:
        return {"footer": ""}
    work = _resolved(work)
    unit = Unit.model_validate_json(row["unit"])
    footer = {
        "unit_id": unit.unit_id,
        "config_hash": work.config_hash,
        **json.loads(row["seconds"]),
        **json.loads(row["metrics"]),
        **json.loads(row["killers"]),
    }
    data = parquet_bytes(from_ipc(row["table"]), {UNIT_KEY: json.dumps(footer), PROVENANCE_KEY: work.provenance})
    # The object is its own completion marker. If a twin was first, its object counts and this one is forgotten.
    Storage(work.run_uri, work.storage).create(unit_uri(work.run_uri, unit.unit_id), data)
    return {"footer": json.dumps({**footer, "write_s": _since(started), "bytes": len(data)})}


def parquet_bytes(table: pa.Table, metadata: dict[bytes, str]) -> bytes:
    """A table as one Parquet file in memory, with more footer metadata."""
    entries = {**(table.schema.metadata or {}), **{key: value.encode() for key, value in metadata.items()}}
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(entries), sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def _since(started: float) -> float:
    return time.perf_counter() - started
