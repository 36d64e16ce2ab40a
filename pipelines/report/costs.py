"""What a run took of CPUs and GPUs, and what that costs at the rates of its configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pipelines.report.model import Cost
from pipelines.report.pace import actors_of

_HOUR_S: Final = 3600.0


def cost_of(config: Mapping[str, Any], footers: Sequence[Mapping[str, Any]], wall_s: float) -> Cost | None:
    """The cost of ``wall_s`` seconds with the actors that the units name; None for a job without actors.

    Actors are charged for the whole time in which units were scored, as a cloud charges for them. What a killed driver
    or a starting cluster took beside it is not in the records, and so not in here.
    """
    if not footers or "actors.cpus" not in config:
        return None
    actors = actors_of(config, footers)
    hours = actors * wall_s / _HOUR_S
    cpu_hours, gpu_hours = hours * config["actors.cpus"], hours * config["actors.gpus"]
    cpu_rate, gpu_rate = config.get("cost.cpu_hour"), config.get("cost.gpu_hour")
    total = None
    if cpu_rate is not None or gpu_rate is not None:
        total = cpu_hours * (cpu_rate or 0.0) + gpu_hours * (gpu_rate or 0.0)
    rows, tokens = (sum(footer[key] for footer in footers) for key in ("rows", "prompt_tokens"))
    return Cost(
        actors=actors,
        cpu_hours=cpu_hours,
        gpu_hours=gpu_hours,
        cpu_hour_rate=cpu_rate,
        gpu_hour_rate=gpu_rate,
        currency=config.get("cost.currency", "USD"),
        total=total,
        per_1000_queries=None if total is None or not rows else 1e3 * total / rows,
        per_million_tokens=None if total is None or not tokens else 1e6 * total / tokens,
    )
