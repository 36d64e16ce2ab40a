"""What this process and Ray's workers below it have in memory over time, sampled by a thread while something runs."""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

EVERY_S: Final = 0.25
MIB: Final = 2**20
_SHOWN: Final = 24


@dataclass(slots=True)
class Watched:
    """Seconds that it took; ``driver``: seconds and bytes of this process's own, sample by sample; ``workers``: the
    most bytes that a worker shared with no other process, by what Ray calls it; an idle one keeps the name that it had.
    """

    seconds: float = 0.0
    driver: list[tuple[float, int]] = field(default_factory=list)
    workers: dict[str, int] = field(default_factory=dict)

    @property
    def largest_worker(self) -> int:
        """Bytes of the largest worker, at its peak."""
        return max(self.workers.values(), default=0)

    @property
    def driver_peak(self) -> int:
        """The most bytes of this process."""
        return max(size for _, size in self.driver)

    @property
    def driver_growth(self) -> int:
        """What this process had more at its peak than when it began."""
        return self.driver_peak - self.driver[0][1]

    def record(self) -> dict[str, Any]:
        """Plain values in MiB, of the driver's samples as many as a page can show."""
        step = max(1, len(self.driver) // _SHOWN)
        return {
            "seconds": round(self.seconds, 1),
            "driver_peak_mib": round(self.driver_peak / MIB),
            "driver_mib": [[round(at, 1), round(size / MIB)] for at, size in self.driver[::step]],
            "worker_peak_mib": {name: round(size / MIB) for name, size in sorted(self.workers.items())},
        }


@contextmanager
def watched() -> Iterator[Watched]:
    """Samples until it is left; complete only then."""
    found, done = Watched(), threading.Event()
    started = time.perf_counter()

    def watch() -> None:
        names: dict[int, str] = {}
        while True:
            found.driver.append((time.perf_counter() - started, own(os.getpid())))
            for pid, name in _workers(os.getpid()):
                names[pid] = name if name != "ray::IDLE" else names.get(pid, name)
                found.workers[names[pid]] = max(found.workers.get(names[pid], 0), private(pid))
            if done.wait(EVERY_S):
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        found.seconds = time.perf_counter() - started
        done.set()
        thread.join()


def own(pid: int) -> int:
    """Bytes of a process in memory that are no file's and not of Ray's object store, which has a limit of its own."""
    resident, shared = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1:3]
    return (int(resident) - int(shared)) * resource.getpagesize()


def private(pid: int) -> int:
    """Bytes that a process shares with no other, 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))


def _workers(ancestor: int) -> Iterator[tuple[int, str]]:
    """Ray's workers below a process, with what Ray calls them."""
    parents: dict[int, tuple[int, str]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            rest = (folder / "stat").read_text(encoding="utf-8", errors="replace").rsplit(")", 1)[1]
            title = (folder / "cmdline").read_bytes().split(b"\0")[0].decode("utf-8", "replace").strip()
            parents[int(folder.name)] = (int(rest.split()[1]), title)
        except (OSError, ValueError, IndexError):  # it has ended
            continue
    for pid, (_, title) in parents.items():
        above = pid
        while above in parents and above != ancestor:
            above = parents[above][0]
        if above == ancestor and title.startswith("ray::"):
            yield pid, title
