"""Charts of how a run went, the same in the pages of all jobs: throughput, seconds, and which actor did what when."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from markupsafe import Markup

from pipelines.report import charts
from pipelines.report.distributions import histogram
from pipelines.report.model import RunSeconds, Throughput, Unit
from pipelines.report.parts import CommonReport
from pipelines.report.records import Distribution
from pipelines.report.words import duration

_MOMENTS: Final = 60  # columns of the chart of throughput


def pace_charts(
    speed: Throughput, units: Sequence[Unit], unit_seconds: Distribution | None
) -> dict[str, Markup | None]:
    """The charts by name, None for those without data."""
    spent = speed.seconds
    return {
        "throughput": _over_time(speed, units) if units else None,
        "unit_seconds": histogram("Seconds of scoring per unit", unit_seconds, "seconds", counted="units"),
        "stages": _seconds("Seconds of work per stage", _work_of(spent)),
        "clock": None if spent.start is None else _seconds("Where the clock went", _clock_of(spent)),
        "timeline": charts.timeline("Units by actor", _spans(units)) if units else None,
    }


def charts_of(common: CommonReport | None) -> dict[str, Markup | None]:
    """The same for what every report says; none where it is not told."""
    if common is None:
        return {}
    return pace_charts(common.pace.throughput, common.pace.units, common.pace.unit_seconds)


def _work_of(spent: RunSeconds) -> dict[str, float]:
    in_model = max(0.0, spent.score - spent.tokenise_in_score)
    tokenise = {"tokenise": spent.tokenise} if spent.tokenise else {}  # not every job measures it
    return {"read": spent.read, **tokenise, "score": in_model, "write": spent.write}


def _clock_of(spent: RunSeconds) -> dict[str, float]:
    return {"start": spent.start or 0.0, "scoring": spent.wall, "commit": spent.commit or 0.0}


def _seconds(title: str, parts: Mapping[str, float]) -> Markup | None:
    if not any(parts.values()):
        return None
    return charts.bars(title, [charts.Bar(name, one, duration(one)) for name, one in parts.items()], "seconds")


def _over_time(speed: Throughput, units: Sequence[Unit]) -> Markup:
    """Tokens per second while the run went on; rows where no model read any."""
    in_tokens = speed.prompt_tokens > 0
    rates, seconds = rates_over_time(units, in_tokens=in_tokens)
    mean = speed.tokens_per_second if in_tokens else speed.rows_per_second
    return charts.over_time("Throughput", rates, seconds, mean, "tokens/s" if in_tokens else "rows/s")


def rates_over_time(units: Sequence[Unit], *, in_tokens: bool) -> tuple[list[float], float]:
    """Tokens (or rows) per second in equal stretches of the clock, and its seconds from the first unit's start on.

    A unit's work is taken as spread evenly over its time.
    """
    zero = min(unit.started_at for unit in units)
    end = max((unit.finished_at - zero).total_seconds() for unit in units)
    width = max(end, 1e-3) / _MOMENTS
    rates = [0.0] * _MOMENTS
    for unit in units:
        work = unit.prompt_tokens if in_tokens else unit.rows
        start, stop = ((moment - zero).total_seconds() / width for moment in (unit.started_at, unit.finished_at))
        start = min(start, _MOMENTS - 1e-9)
        stop = max(stop, start + 1e-9)
        for place in range(int(start), min(_MOMENTS, math.ceil(stop))):
            share = (min(stop, place + 1) - max(start, place)) / (stop - start)
            rates[place] += work * share / width
    return rates, width * _MOMENTS


def _spans(units: Sequence[Unit]) -> list[charts.Span]:
    zero = min(unit.started_at for unit in units)
    several_nodes = len({unit.node for unit in units}) > 1
    return [_span(unit, zero, several_nodes) for unit in sorted(units, key=lambda unit: unit.started_at)]


def _span(unit: Unit, zero: datetime, several_nodes: bool) -> charts.Span:
    start, end = ((moment - zero).total_seconds() for moment in (unit.started_at, unit.finished_at))
    failed = f", {unit.failed:,} failed" if unit.failed else ""
    tip = f"unit {unit.unit_id}: {unit.rows:,} rows{failed}, {duration(end - start)}"
    # The telling part of a node's name may stand at either end.
    node = unit.node if len(unit.node) <= 26 else f"{unit.node[:12]}…{unit.node[-12:]}"
    lane = f"{node} · {unit.actor_pid}" if several_nodes else f"actor {unit.actor_pid}"
    return charts.Span(lane, start, max(start, end), tip, unit.failed > 0)
