"""The log of readings of test queries: a line before each reading, and one after it with what was read.

Test queries are read once for each candidate of a release. A line without its second one tells that a reading was
begun and broke off: queries may have been seen, and nothing is known of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.training.findings import ListQuality
from pipelines.training.ranking_study import HEADS
from qrcore.errors import ConfigError, StorageError


@dataclass(frozen=True, slots=True)
class Reading:
    """Which heads of which weights are measured on which lists; ``seed``: None where it is not known."""

    model: str
    seed: int | None
    weights_sha256: str
    lists_sha256: str
    heads: tuple[str, ...]


def check_log(log: str | None) -> None:
    """Make the log's folder and file. Raises ConfigError if there is no log or nothing can be added to it."""
    if not log or "://" in log:
        raise ConfigError(
            f"log: expected a local file to which readings of test queries are added, got {log!r}. Name one "
            "(evaluation.log), or measure on dev queries."
        )
    try:
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        with Path(log).open("a", encoding="utf-8"):
            pass
    except OSError as error:
        raise ConfigError(
            f"log {log}: expected a file that lines can be added to; {error.strerror}. Choose another file."
        ) from error


def log_reading(log: str, reading: Reading) -> None:
    """Say that test queries are about to be read. Raises StorageError; then they must not be."""
    _add(log, {"event": "reading", **_entry(reading)})


def log_read(log: str, reading: Reading, qualities: Iterable[ListQuality]) -> None:
    """Say that they were, with nDCG@10 of the heads on the test queries of each list. Raises StorageError."""
    means = {one.name: round(one.ndcg_10.mean, 4) for one in qualities if (one.part, one.method) == ("test", HEADS)}
    _add(log, {"event": "read", **_entry(reading), "ndcg@10": means})


def _entry(reading: Reading) -> dict[str, Any]:
    return {"date": datetime.now(UTC).date().isoformat(), **asdict(reading)}


def _add(log: str, entry: dict[str, Any]) -> None:
    try:
        with Path(log).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")
    except OSError as error:
        raise StorageError(
            f"{log}: expected to add a line on a reading of test queries; {error.strerror}. Make it writable."
        ) from error
