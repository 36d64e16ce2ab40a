"""Who works on a run: an advisory sign that each driver renews while it lives.

It keeps two drivers from doing the same work. It is no lock: what makes a run right with two drivers are create-only
puts. Each driver has a file of its own, so nobody ever overwrites another's sign.
"""

from __future__ import annotations

import getpass
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.storage import Storage, join
from qrcore.errors import RunHeldError, StorageError

LEASES: Final = "_leases"
RENEW_EVERY_S: Final = 30.0
#: A driver that has given no sign for so long is taken for dead.
FRESH_FOR_S: Final = 3 * RENEW_EVERY_S


class Lease(BaseModel):
    """One driver's sign. ``process`` tells it from every other process of its ``host``, also after a restart."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    driver: str
    host: str
    user: str
    pid: int
    process: str
    started_at: datetime
    renewed_at: datetime

    @classmethod
    def of_this_process(cls, driver: str) -> Lease:
        """A sign given now."""
        now = datetime.now(UTC)
        return cls(
            driver=driver,
            host=socket.gethostname(),
            user=_user(),
            pid=os.getpid(),
            process=_process(os.getpid()),
            started_at=now,
            renewed_at=now,
        )

    @property
    def fresh(self) -> bool:
        """Whether its driver may still live."""
        if datetime.now(UTC) - self.renewed_at > timedelta(seconds=FRESH_FOR_S):
            return False
        # On this host it can be known: a driver that was killed need not be waited for.
        return self.host != socket.gethostname() or self.process == _process(self.pid)

    def __str__(self) -> str:
        silent = (datetime.now(UTC) - self.renewed_at).total_seconds()
        return (
            f"process {self.pid} of {self.user} on {self.host}, since {self.started_at:%Y-%m-%d %H:%M:%S} UTC, "
            f"last sign {max(silent, 0):.0f} s ago"
        )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a number without a name
        return str(os.getuid())


def _process(pid: int) -> str:
    """What tells a process from a later one with its number, empty if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else f"{boot} {pid} {fields[19]}"


def leases(storage: Storage, run_uri: str) -> list[Lease]:
    """The signs at a run, fresh or not, oldest driver first."""
    found = []
    for file in storage.list_files(join(run_uri, LEASES), suffix=".json"):
        with suppress(StorageError, ValidationError):  # given back meanwhile, or no sign of ours
            found.append(Lease.model_validate_json(storage.read(file.uri)))
    return sorted(found, key=lambda lease: (lease.started_at, lease.driver))


def is_at_work(storage: Storage, run_uri: str, driver: str) -> bool:
    """Whether a driver gives fresh signs at a run."""
    try:
        return Lease.model_validate_json(storage.read(_uri(run_uri, driver))).fresh
    except (StorageError, ValidationError):
        return False


@contextmanager
def held(storage: Storage, run_uri: str, driver: str, *, join_others: bool) -> Iterator[tuple[Lease, ...]]:
    """Give signs for the length of the block; yields the others that do. Signs of the dead are removed.

    Raises :class:`RunHeldError` if others work on the run, unless ``join_others``.
    """
    before = _fresh_others(storage, run_uri, driver)
    if before and not join_others:
        raise _held_error(run_uri, before[0])
    mine = Lease.of_this_process(driver)
    storage.replace(_uri(run_uri, driver), mine.model_dump_json().encode())
    stop = threading.Event()
    renewal = threading.Thread(target=_renew, args=(storage, run_uri, mine, stop), daemon=True)
    renewal.start()
    try:
        others = _fresh_others(storage, run_uri, driver)
        earlier = [o for o in others if (o.started_at, o.driver) < (mine.started_at, driver)]
        if earlier and not join_others:  # both began at once: the one that is first by its own clock goes on
            raise _held_error(run_uri, earlier[0])
        yield tuple(others)
    finally:
        stop.set()
        renewal.join(timeout=10)
        with suppress(StorageError):
            storage.delete(_uri(run_uri, driver))


def _fresh_others(storage: Storage, run_uri: str, driver: str) -> list[Lease]:
    fresh = []
    for lease in leases(storage, run_uri):
        if lease.driver == driver:
            continue
        if lease.fresh:
            fresh.append(lease)
            continue
        with suppress(StorageError):  # some roles may not delete; it is not fresh, which is enough
            storage.delete(_uri(run_uri, lease.driver))
    return fresh


def _held_error(run_uri: str, lease: Lease) -> RunHeldError:
    return RunHeldError(
        f"{run_uri}: expected no other driver, found {lease}. Wait for it, help it with --join, or, if it is dead, run "
        f"the same command again {FRESH_FOR_S:.0f} s after its last sign."
    )


def _renew(storage: Storage, run_uri: str, mine: Lease, stop: threading.Event) -> None:
    while not stop.wait(RENEW_EVERY_S):
        sign = mine.model_copy(update={"renewed_at": datetime.now(UTC)})
        with suppress(StorageError):  # a store that is down for a moment must not stop the work; the next sign tells
            storage.replace(_uri(run_uri, mine.driver), sign.model_dump_json().encode())


def _uri(run_uri: str, driver: str) -> str:
    return join(run_uri, LEASES, f"{driver}.json")
