"""One function over many stored objects, by tasks of which each takes several."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import ray

from pipelines.cluster import LIGHT_TASK_CPUS, get

Object = TypeVar("Object")
Result = TypeVar("Result")

_OBJECTS_A_TASK: Final = 64
_BYTES_A_TASK: Final = 32 * 2**20
_TASKS_AHEAD: Final = 8
_THREADS: Final = 4  # while one waits for the store, others work


def fan_out(
    function: Callable[..., Result], objects: Sequence[Object], size: Callable[[Object], int], *shared: Any
) -> Iterator[Result]:
    """``function(object, *shared)`` of every object, in order; what the function raises is raised here.

    A task takes up to 64 neighbours of together at most 32 MiB by ``size`` (bytes), or a larger one alone: a worker
    takes seconds to start, an object milliseconds to read, and Ray ends the workers that wait. ``shared`` may hold
    references.
    """
    task: Any = ray.remote(num_cpus=LIGHT_TASK_CPUS)(_each)
    pending: deque[Any] = deque()
    for together in _neighbours(objects, size):
        pending.append(task.remote(function, together, *shared))
        if len(pending) >= _TASKS_AHEAD:
            yield from get(pending.popleft())
    while pending:
        yield from get(pending.popleft())


def _each(function: Callable[..., Result], objects: Sequence[Object], *shared: Any) -> list[Result]:
    def of_one(one: Object) -> Result:
        return function(one, *shared)

    # The first is alone: it opens the client of the store, which several at once would each open for themselves.
    results = [of_one(objects[0])]
    with ThreadPoolExecutor(_THREADS) as threads:
        results += threads.map(of_one, objects[1:])
    return results


def _neighbours(objects: Sequence[Object], size: Callable[[Object], int]) -> Iterator[list[Object]]:
    together: list[Object] = []
    total = 0
    for one in objects:
        if together and (len(together) == _OBJECTS_A_TASK or total + size(one) > _BYTES_A_TASK):
            yield together
            together, total = [], 0
        together.append(one)
        total += size(one)
    if together:
        yield together
