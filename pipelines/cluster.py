"""Join a Ray cluster or start one on this machine."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import ray
from ray.data import DataContext

from qrcore.errors import ConfigError, IncompleteRunError

#: Logical CPUs of a local Ray beyond the machine's cores: reading and writing must never wait for scorers that hold
#: every core, or nothing moves.
_SPARE_CPUS: Final = 2
#: What reading, writing and inspecting take, per task.
LIGHT_TASK_CPUS: Final = 0.5


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """``address``: None starts Ray on this machine; ``auto`` or a URL joins one that runs."""

    address: str | None = None


@contextmanager
def ray_session(settings: ClusterSettings) -> Iterator[None]:
    """A connected Ray for the length of the block; one that was connected before is left as it was."""
    owned = not ray.is_initialized()
    if owned:
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
        ray.init(
            num_cpus=(os.cpu_count() or 1) + _SPARE_CPUS,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        return
    try:
        ray.init(address=settings.address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError) as error:
        raise ConfigError(
            f"Ray address {settings.address!r}: expected a cluster that answers; {error}. "
            "Start it, correct the address, or leave the address out to run on this machine."
        ) from error


@contextmanager
def _quiet_data() -> Iterator[None]:
    # Progress is ours to show: Ray Data's own counts blocks, which say nothing about queries.
    context = DataContext.get_current()
    previous = context.enable_progress_bars
    loggers = {name: logging.getLogger(name).level for name in ("ray.data", "ray")}
    context.enable_progress_bars = False
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars = previous
        for name, level in loggers.items():
            logging.getLogger(name).setLevel(level)


def check_resources(actors: int, cpus_per_actor: float, gpus_per_actor: float) -> None:
    """Refuse a pool that would leave no CPU for reading: Ray would wait for ever.

    Raises :class:`ConfigError` for resources this cluster does not have, :class:`IncompleteRunError` if it has nodes
    but none alive.
    """
    have = ray.cluster_resources()
    if not have.get("CPU"):
        raise IncompleteRunError("Ray: expected nodes with CPUs, found none alive. Run the same command again later.")
    need_cpus = actors * cpus_per_actor + 2 * LIGHT_TASK_CPUS
    if need_cpus > have["CPU"]:
        raise ConfigError(
            f"resources: {actors} actors x {cpus_per_actor:g} CPUs and reading need {need_cpus:g} CPUs, the cluster "
            f"has {have['CPU']:g}. Use fewer actors or fewer CPUs each."
        )
    if actors * gpus_per_actor > have.get("GPU", 0):
        raise ConfigError(
            f"resources: {actors} actors x {gpus_per_actor:g} GPUs need {actors * gpus_per_actor:g} GPUs, the cluster "
            f"has {have.get('GPU', 0):g}. Use fewer actors, or gpus_per_actor 0 to score on CPUs."
        )
