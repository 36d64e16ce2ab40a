"""How long a run took: seconds by stage, how busy its actors were, and where the clock went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pipelines.metrics import busy_seconds, tokenise_seconds
from pipelines.report import model

Footers = Sequence[Mapping[str, Any]]


def wall_seconds(footers: Footers) -> float:
    """Seconds in which units were being scored: a resumed run is not charged for the time it lay still."""
    return busy_seconds(footers, bridged_gap_s=10.0)


def actors_of(config: Mapping[str, Any], footers: Footers) -> int:
    """Actors that scored at one time: a resumed run has new processes in the place of old ones."""
    seen = len({(footer["node"], footer["actor_pid"]) for footer in footers})
    return min(seen, int(config.get("actors.count", seen)))


def throughput(
    config: Mapping[str, Any],
    footers: Footers,
    write_seconds: Mapping[str, float],
    started_at: datetime,
    finished_at: datetime,
    *,
    resumed: bool,
) -> model.Throughput:
    """How fast the units were done that these footers tell of, by a driver that lived from one moment to the other."""
    wall = wall_seconds(footers)
    tokens, rows = (sum(footer[key] for footer in footers) for key in ("prompt_tokens", "rows"))
    scored = sum(footer["score_s"] for footer in footers)
    available = actors_of(config, footers) * wall
    start, end = (None, None) if resumed or not footers else _around(footers, started_at, finished_at)
    return model.Throughput(
        prompt_tokens=tokens,
        tokens_per_second=tokens / wall if wall else 0.0,
        rows_per_second=rows / wall if wall else 0.0,
        seconds=model.RunSeconds(
            read=sum(footer["read_s"] for footer in footers),
            score=scored,
            tokenise=sum(map(tokenise_seconds, footers)),
            tokenise_in_score=sum(footer.get("tokenise_in_score_s", 0.0) for footer in footers),
            write=sum(write_seconds.values()),
            wait=sum(footer.get("wait_s", 0.0) for footer in footers),
            wall=wall,
            start=start,
            commit=end,
        ),
        busy=min(1.0, scored / available) if available else None,
    )


def _around(footers: Footers, started_at: datetime, finished_at: datetime) -> tuple[float, float]:
    """Seconds before the first unit and after the last one; clocks of nodes may be ahead of the driver's."""
    first = min(datetime.fromisoformat(footer["started_at"]) for footer in footers)
    last = max(datetime.fromisoformat(footer["finished_at"]) for footer in footers)
    return max(0.0, (first - started_at).total_seconds()), max(0.0, (finished_at - last).total_seconds())


def unit_of(footer: Mapping[str, Any], write_seconds: Mapping[str, float]) -> model.Unit:
    """One unit's line of the report."""
    return model.Unit(
        unit_id=footer["unit_id"],
        rows=footer["rows"],
        failed=footer["failed"],
        prompt_tokens=footer["prompt_tokens"],
        seconds=model.StageSeconds(
            read=footer["read_s"],
            score=footer["score_s"],
            tokenise=tokenise_seconds(footer),
            tokenise_in_score=footer.get("tokenise_in_score_s", 0.0),
            write=write_seconds.get(footer["unit_id"], 0.0),
            wait=footer.get("wait_s", 0.0),
        ),
        memory_bytes=footer.get("memory_bytes", 0),
        gpu_memory_bytes=footer.get("gpu_memory_bytes", 0),
        started_at=footer["started_at"],
        finished_at=footer["finished_at"],
        actor_pid=footer["actor_pid"],
        node=footer["node"],
    )
