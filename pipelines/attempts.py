"""Marks that are put before a unit is scored, so that a row that kills its worker is found and left out.

A process that is killed reports nothing, so what it was about to do must stand there before it does it. The first
attempt at a unit costs one mark. If a mark is found there, an earlier attempt did not end: then each row is marked
before it is scored alone, and the last mark of such an attempt names the row in flight when it died.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import ray

from pipelines.lease import is_at_work
from pipelines.storage import Storage, join
from qrcore.errors import ErrorLimitError, ScoreError

ATTEMPTS: Final = "_attempts"
#: A row is given up after so many deaths while it alone was in flight.
DEATHS: Final = 2
_FIRST: Final = "0"
_ROW: Final = re.compile(r"(\d+)-(\d+)\.json")
_END: Final = re.compile(r"(\d+)-end\.json")


@dataclass(slots=True)
class Attempts:
    """The marks at one unit, and this attempt among them. ``driver``: the one that this worker works for."""

    storage: Storage
    run_uri: str
    unit_id: str
    driver: str
    number: int = 0
    _deaths: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))

    def is_first(self) -> bool:
        """Mark the unit as begun; False if an earlier attempt did, whatever became of it."""
        return self.storage.create(self._uri(_FIRST), self._content())

    def held_by_another(self) -> bool:
        """Whether the first attempt is that of another driver that is at work."""
        driver = self._read(_FIRST)["driver"]
        return bool(driver != self.driver) and is_at_work(self.storage, self.run_uri, driver)

    def look_back(self) -> None:
        """Read what became of earlier attempts at single rows."""
        last: dict[int, int] = {}
        ended: set[int] = set()
        for file in self.storage.list_files(join(self.run_uri, ATTEMPTS, self.unit_id)):
            name = file.uri.rsplit("/", 1)[1]
            if row := _ROW.fullmatch(name):
                last[int(row[1])] = max(last.get(int(row[1]), 0), int(row[2]))
            elif end := _END.fullmatch(name):
                ended.add(int(end[1]))
        drivers = {attempt: self._read(f"{attempt}-{place:06}")["driver"] for attempt, place in last.items()}
        newest = {driver: attempt for attempt, driver in sorted(drivers.items())}
        for attempt, place in last.items():
            # What a driver was at when it stopped in order died of that, and not of the row.
            stopped = newest[drivers[attempt]] == attempt and has_stopped(self.storage, self.run_uri, drivers[attempt])
            if attempt not in ended and not stopped:
                self._deaths[place].append(f"{attempt}-{place:06}")
        self.number = max([*last, *ended, 0]) + 1

    def begin_row(self, place: int) -> None:
        """Mark that a row is about to be scored alone."""
        self.storage.create(self._uri(f"{self.number}-{place:06}"), self._content())

    def end(self) -> None:
        """Mark that this attempt outlived its last row."""
        self.storage.create(self._uri(f"{self.number}-end"), self._content())

    def killers(self) -> list[int]:
        """Places of the rows that are given up."""
        return sorted(place for place, marks in self._deaths.items() if len(marks) >= DEATHS)

    def nodes(self, place: int) -> list[str]:
        """Where a row killed its workers."""
        return sorted({self._read(mark)["node"] for mark in self._deaths[place]})

    def error(self, place: int) -> ScoreError:
        """The error of a row that is given up."""
        return ScoreError(
            "worker_died",
            f"row: expected the worker to live, it died {DEATHS} times while it scored this row alone (on "
            f"{', '.join(self.nodes(place))}). Look at its size and at the node's memory, then score it again with "
            "--rows-from.",
            stage="score",
        )

    def check_limit(self, most: int) -> None:
        """Raise :class:`ErrorLimitError` if more rows than ``most`` of this unit kill their workers."""
        killers = self.killers()
        if len(killers) > most:
            nodes = sorted({node for place in killers for node in self.nodes(place)})
            raise ErrorLimitError(killer_message(len(killers), nodes, most))

    def _uri(self, mark: str) -> str:
        return join(self.run_uri, ATTEMPTS, self.unit_id, f"{mark}.json")

    def _read(self, mark: str) -> dict[str, str]:
        content: dict[str, str] = json.loads(self.storage.read(self._uri(mark)))
        return content

    def _content(self) -> bytes:
        return json.dumps(
            {
                "driver": self.driver,
                "node": ray.util.get_node_ip_address(),
                "pid": os.getpid(),
                "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            }
        ).encode()


def mark_stopped(storage: Storage, run_uri: str, driver: str) -> None:
    """Mark that a driver stopped in order: its workers are ended, whatever they were at."""
    storage.create(_stopped_uri(run_uri, driver), b"")


def has_stopped(storage: Storage, run_uri: str, driver: str) -> bool:
    """Whether a driver stopped in order."""
    return storage.exists(_stopped_uri(run_uri, driver))


def _stopped_uri(run_uri: str, driver: str) -> str:
    return join(run_uri, ATTEMPTS, f"stopped-{driver}")


def killer_message(rows: int, nodes: list[str], most: int) -> str:
    """What to say when too many rows kill their workers."""
    return (
        f"workers: expected at most {most} rows that kill their worker (units.max_killer_rows), found {rows}, on "
        f"nodes {', '.join(nodes)}. Look at these nodes' memory and drivers, then run the same command again."
    )
