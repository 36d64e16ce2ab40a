"""Named points of a run at which a process can be told to die or to wait.

A point is armed by a file. The process that reaches it first takes the file away, writes its number down and kills
itself: so a kill that is counted hit a process that was alive and had come to the point.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa

from pipelines import work
from pipelines.job import Job
from pipelines.metrics import UnitMetrics
from pipelines.storage import Storage
from pipelines.units import UnitRows
from pipelines.work import UnitWorker

DRIVER_POINTS = ("after plan", "before side files", "before manifest", "after manifest")
WORKER_POINTS = ("during read", "actor constructor", "mid-score", "before PUT", "after PUT before reply")
POINTS = (*DRIVER_POINTS, *WORKER_POINTS)

_read_unit = work._read_unit
_write_unit = work._write_unit


def arm(folder: str, point: str) -> None:
    """Let the next process that reaches ``point`` die there."""
    Path(folder, f"{point}.armed").touch()


def kills(folder: str, point: str) -> int:
    """How many died there."""
    return len(list(Path(folder).glob(f"{point}.*.killed")))


def reach(folder: str, point: str, *, with_driver: bool = False) -> None:
    """Die here if the point is armed, with the driver or alone; wait here while it is to be waited at."""
    while Path(folder, f"{point}.wait").exists():
        Path(folder, f"{point}.{os.getpid()}.waiting").touch()
        time.sleep(0.05)
    try:
        Path(folder, f"{point}.armed").rename(Path(folder, f"{point}.{os.getpid()}-{time.time_ns()}.killed"))
    except FileNotFoundError:
        return
    if with_driver:  # else Ray would try the same task again, and hide what the first try left
        os.kill(int(Path(folder, "driver.pid").read_text()), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class PointedJob:
    """A job whose processes pass the points of ``folder``; see :class:`pipelines.job.Job`."""

    inner: Any
    folder: str

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def worker(self, facts: Any, plan: Any) -> Callable[[], UnitWorker]:
        return partial(_pointed_worker, self.inner.worker(facts, plan), self.folder)

    def side_files(self, plan: Any, facts: Any) -> Any:
        return _PointedSideFiles(self.inner.side_files(plan, facts), self.folder)


def _pointed_worker(make: Callable[[], UnitWorker], folder: str) -> UnitWorker:
    reach(folder, "actor constructor")
    return _PointedWorker(make(), folder)


class _PointedWorker:
    def __init__(self, inner: UnitWorker, folder: str) -> None:
        self._inner = inner
        self._folder = folder

    def answer(self, unit: UnitRows) -> tuple[pa.Table, UnitMetrics]:
        if len(unit.table) == 1:
            # A row that dies twice while it alone is in flight is an error by rule: nothing here dies there.
            return self._inner.answer(unit)
        scorer = getattr(self._inner, "_scorer", None)
        if scorer is not None:
            with patch.object(self._inner, "_scorer", _PointedScorer(scorer, self._folder)):
                return self._inner.answer(unit)
        answered = self._inner.answer(unit)
        reach(self._folder, "mid-score")
        return answered


class _PointedScorer:
    """Comes to the point when the first of several rows is scored."""

    def __init__(self, inner: Any, folder: str) -> None:
        self._inner = inner
        self._folder = folder

    def rank_many(self, requests: Iterable[Any]) -> Iterator[Any]:
        for answer in self._inner.rank_many(requests):
            reach(self._folder, "mid-score")
            yield answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _PointedSideFiles:
    def __init__(self, inner: Any, folder: str) -> None:
        self._inner = inner
        self._folder = folder

    @property
    def warnings(self) -> tuple[str, ...]:
        found: tuple[str, ...] = self._inner.warnings
        return found

    def watch(self, units: Any) -> Any:
        return self._inner.watch(units)

    def write(self, *arguments: Any) -> list[str]:
        reach(self._folder, "before side files")
        written: list[str] = self._inner.write(*arguments)
        return written


class _PointedStorage(Storage):
    folder = ""

    def create(self, uri: str, data: bytes) -> bool:
        reach(self.folder, "before PUT")
        created = super().create(uri, data)
        reach(self.folder, "after PUT before reply")
        return created


class _MarkerFirst(_PointedStorage):
    """Broken on purpose: what says that a unit is done stands there before its data do."""

    def create(self, uri: str, data: bytes) -> bool:
        self.replace(uri, data[:12])
        reach(self.folder, "before PUT", with_driver=True)
        self.replace(uri, data)
        return True


def _pointed_read(row: dict[str, Any], work: Any, folder: str) -> dict[str, Any]:
    reach(folder, "during read")
    return _read_unit(row, work)


def _pointed_write(row: dict[str, Any], work: Any, folder: str, broken: str) -> dict[str, Any]:
    kind = _MarkerFirst if broken == "marker before data" else _PointedStorage
    kind.folder = folder
    with patch("pipelines.work.Storage", kind), broken_store(broken):
        return _write_unit(row, work)


def broken_store(broken: str) -> Any:
    """A store whose creates are broken on purpose, for the length of a block."""
    if broken == "non-atomic create":
        return patch("pipelines.storage.Storage.create", _overwriting_create)
    if broken == "409 taken as done":
        return patch("pipelines.storage.Storage._create_remote", _hasty_create)
    return nullcontext()


def _overwriting_create(self: Storage, uri: str, data: bytes) -> bool:
    self.replace(uri, data)
    return True


def _hasty_create(self: Storage, uri: str, data: bytes) -> bool:
    from pipelines.storage_errors import http_statuses

    try:
        self._fs.pipe_file(uri.split("://", 1)[1], data, mode="create", chunksize=2**30)
    except OSError as error:
        if not http_statuses(error) & {409, 412} and not isinstance(error, FileExistsError):
            raise
        return False
    return True


def pass_points(job: Job[Any], folder: str, broken: str, stack: Any) -> PointedJob:
    """The job with points, and this process's own points in place for the length of ``stack``."""
    from pipelines import run

    def store_plan(*arguments: Any) -> Any:
        plan = _real["store_plan"](*arguments)
        reach(folder, "after plan")
        return plan

    def commit(*arguments: Any) -> Any:
        reach(folder, "before manifest")
        with broken_store(broken):  # only here: the probe at planning would refuse such a store
            return _real["commit"](*arguments)

    def point_latest(*arguments: Any) -> Any:
        reach(folder, "after manifest")
        return _real["point_latest"](*arguments)

    _real: Mapping[str, Any] = {
        "store_plan": run.store_plan,
        "commit": run.commit,
        "point_latest": run.point_latest,
    }
    stack.enter_context(patch("pipelines.run.store_plan", store_plan))
    stack.enter_context(patch("pipelines.run.commit", commit))
    stack.enter_context(patch("pipelines.commit.point_latest", point_latest))
    stack.enter_context(patch("pipelines.work._read_unit", partial(_pointed_read, folder=folder)))
    stack.enter_context(patch("pipelines.work._write_unit", partial(_pointed_write, folder=folder, broken=broken)))
    return PointedJob(job, folder)
