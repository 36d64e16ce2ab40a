"""Join a Ray cluster or start one on this machine."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import ray
from ray.data import DataContext
from ray.exceptions import (
    CrossLanguageError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
    UserCodeException,
    WorkerCrashedError,
)

from pipelines.storage import protocol_of
from qrcore.errors import ConfigError, IncompleteRunError, QRBatchError, RunError

#: Logical CPUs of a local Ray beyond the machine's cores: reading and writing must never wait for scorers that hold
#: every core, or nothing moves.
_SPARE_CPUS: Final = 2
_WAITING_LINE_EVERY_S: Final = 10.0
#: What reading, writing and inspecting take, per task.
LIGHT_TASK_CPUS: Final = 0.5
#: What an actor that tokenises reserves: it waits for the scorers most of the time.
ENCODER_CPUS: Final = 0.5
#: Constructions of an actor, or of the probe, that may die in a row before the run is given up.
START_ATTEMPTS: Final = 3
#: Errors of Ray that carry what a task raised; every other one tells of a lost worker, node or object.
_CARRIERS: Final = (RayTaskError, UserCodeException, CrossLanguageError)


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """``address``: None starts Ray on this machine; ``auto`` or a URL joins one that runs."""

    address: str | None = None


@contextmanager
def ray_session(settings: ClusterSettings) -> Iterator[None]:
    """A connected Ray for the length of the block; one that was connected before is left as it was."""
    owned = not ray.is_initialized()
    if owned:
        with _own_sigterm():
            _connect(settings)
    try:
        with _quiet_data():
            yield
    finally:
        if owned:
            ray.shutdown()


def _connect(settings: ClusterSettings) -> None:
    if settings.address is None:
        # Unless RAY_AUTH_MODE says otherwise, Ray asks for a token and leaves one in the home folder: a private
        # cluster gets a token of its own instead, which ends with it.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        _start()
        return
    try:
        ray.init(address=settings.address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise ConfigError(
            f"Ray address {settings.address!r}: expected a cluster that answers; {error}. "
            "Start it, correct the address, or leave the address out to run on this machine."
        ) from error


def _start() -> None:
    try:
        ray.init(
            address="local",  # without an address Ray joins whatever RAY_ADDRESS or an earlier "ray start" names
            num_cpus=_cores() + _SPARE_CPUS,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:
        # Ray has no class of its own for a machine that is too busy to start it in time.
        if type(error) is not Exception or "timed out during startup" not in str(error):
            raise
        raise IncompleteRunError(
            "Ray: expected to start on this machine within its time, it did not; the machine may be too busy. Run the "
            "same command again when it is not."
        ) from error


def _cores() -> int:
    # A container or a batch system often gives a process fewer cores than the machine has.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _own_sigterm() -> Iterator[None]:
    # Ray puts a handler of its own in place that exits at once; whoever set one before wants to stop in order.
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _quiet_data() -> Iterator[None]:
    # Progress is ours to show: Ray Data's own counts blocks, which say nothing about queries. For the same reason its
    # guard against standing still is off: one unit may score for longer than the guard waits, and be well.
    # Original exceptions are asked for because the usual wrapping loses what a task raised on the way to the driver.
    ours = {
        "enable_progress_bars": False,
        "execution_no_progress_timeout_s": -1,
        "raise_original_map_exception": True,
        "max_consecutive_actor_init_deaths": START_ATTEMPTS - 1,
    }
    context = DataContext.get_current()
    previous = {name: getattr(context, name) for name in ours}
    loggers = {name: logging.getLogger(name).level for name in ("ray.data", "ray")}
    for name, value in ours.items():
        setattr(context, name, value)
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, value in previous.items():
            setattr(context, name, value)
        for name, level in loggers.items():
            logging.getLogger(name).setLevel(level)


def allow_silence(seconds: float) -> None:
    """Let Ray Data end an execution in which nothing moves for so long."""
    DataContext.get_current().execution_no_progress_timeout_s = seconds


def wait_until_fits(cpus: float, gpus: float, timeout_s: float, waiting: Callable[[str], None]) -> None:
    """Wait until some node can hold an actor of this size; ``waiting`` is told every ten seconds what is awaited.

    Raises :class:`IncompleteRunError` if none can in time.
    """
    task: Any = ray.remote(num_cpus=cpus, num_gpus=gpus)(_nothing)
    reference, started = task.remote(), time.monotonic()
    pause = min(_WAITING_LINE_EVERY_S, timeout_s)
    while not ray.wait([reference], timeout=pause)[0]:
        waited = time.monotonic() - started
        if waited >= timeout_s:
            ray.cancel(reference, force=True)
            raise IncompleteRunError(
                f"Ray: expected {cpus:g} CPUs and {gpus:g} GPUs free on one node within actors.start_timeout_s "
                f"({timeout_s:g} s), found {_free()}. Run the same command again when there are."
            )
        waiting(f"waiting for {cpus:g} CPUs and {gpus:g} GPUs on one node since {waited:.0f} s, now {_free()}")
    get(reference)


def _nothing() -> None: ...


def first_load(function: Callable[[], Any], cpus: float, gpus: float) -> Any:
    """What ``function`` returns in a task of this size. Raises :class:`RunError` if its process keeps dying."""
    task: Any = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=START_ATTEMPTS - 1)(_call)
    try:
        return ray.get(task.remote(function))
    except (WorkerCrashedError, OutOfMemoryError) as error:
        raise RunError(
            f"model: expected a process that loads it, {START_ATTEMPTS} in a row died ({telling_line(error)}). Look "
            "at the node's memory, the model and the packages."
        ) from error
    except RayError as error:
        raise unwrapped(error) from error


def _call(function: Callable[[], Any]) -> Any:
    return function()


def _free() -> str:
    have, free = ray.cluster_resources(), ray.available_resources()
    return ", ".join(f"{name}s ({free.get(name, 0):g} of {have.get(name, 0):g} free)" for name in ("CPU", "GPU"))


def get(reference: Any) -> Any:
    """The result of a task.

    Raises what the task raised (not Ray's wrapping of it), and :class:`IncompleteRunError` if its worker was lost.
    """
    try:
        return ray.get(reference)
    except RayError as error:
        raise unwrapped(error) from error


def unwrapped(error: BaseException) -> BaseException:
    """What stands behind Ray's wrapping: an error of ours, else of the code, else the loss of a worker."""
    causes = list(_causes(error))
    ours = next((cause for cause in causes if isinstance(cause, QRBatchError)), None)
    if ours is not None:
        return ours
    raised = next(iter(causes), error)
    if isinstance(raised, RayError) and type(raised) is not RayError:  # a bare one stands for what cannot be pickled
        return IncompleteRunError(
            f"Ray: expected workers to live until the work was done, lost one ({type(raised).__name__}: "
            f"{telling_line(raised)}). Run the same command again; finished units are kept."
        )
    return raised


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The errors under Ray's carriers, outermost first."""
    while error is not None:
        if not isinstance(error, _CARRIERS):
            yield error
        error = getattr(error, "cause", None) or error.__cause__


def telling_line(error: RayError) -> str:
    """The one line of an error of Ray that says why."""
    lines = str(error).strip().splitlines() or ["no message"]
    # An actor that fails to start comes with a traceback, whose end says why.
    return lines[-1] if getattr(error, "actor_init_failed", False) else lines[0]


def check_resources(actors: int, cpus_per_actor: float, gpus_per_actor: float, encoders: int = 0) -> None:
    """Refuse a pool that would leave no CPU for reading, or an actor that no node can hold: Ray would wait for ever.

    Raises :class:`ConfigError` for resources this cluster does not have, :class:`IncompleteRunError` if it has nodes
    but none alive.
    """
    have = ray.cluster_resources()
    if not have.get("CPU"):
        raise IncompleteRunError("Ray: expected nodes with CPUs, found none alive. Run the same command again later.")
    need_cpus = actors * cpus_per_actor + encoders * ENCODER_CPUS + 2 * LIGHT_TASK_CPUS
    if need_cpus > have["CPU"]:
        ahead = f", {encoders} actors that tokenise" if encoders else ""
        raise ConfigError(
            f"resources: {actors} actors x {cpus_per_actor:g} CPUs{ahead} and reading need {need_cpus:g} CPUs, the "
            f"cluster has {have['CPU']:g}. Use fewer actors or fewer CPUs each."
        )
    if actors * gpus_per_actor > have.get("GPU", 0):
        raise ConfigError(
            f"resources: {actors} actors x {gpus_per_actor:g} GPUs need {actors * gpus_per_actor:g} GPUs, the cluster "
            f"has {have.get('GPU', 0):g}. Use fewer actors, or gpus_per_actor 0 to score on CPUs."
        )
    _check_one_node_holds_an_actor(cpus_per_actor, gpus_per_actor)


def _check_one_node_holds_an_actor(cpus: float, gpus: float) -> None:
    nodes = [node["Resources"] for node in _alive_nodes()]
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        largest = ", ".join(sorted({f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes}))
        raise ConfigError(
            f"resources: one actor needs {cpus:g} CPUs and {gpus:g} GPUs on one node, the nodes have {largest}. "
            "Ask for less per actor, or add a node that is large enough."
        )


def _alive_nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def refuse_local_files_on_many_nodes(uris: Sequence[str], shared: bool) -> None:
    """Raise :class:`ConfigError` for local paths on a cluster of several nodes, unless they are declared ``shared``.

    Each node would write to its own disk, and the driver would find a part of the run.
    """
    local = [uri for uri in uris if protocol_of(uri) == "file"]
    nodes = len(_alive_nodes())
    if local and nodes > 1 and not shared:
        raise ConfigError(
            f"{local[0]}: expected files that all {nodes} nodes of the cluster can reach, got a local path. Use s3://, "
            "or set storage.shared if this path is the same file system on every node."
        )
