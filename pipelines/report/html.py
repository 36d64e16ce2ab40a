"""`report.html`: one self-contained page, readable without scripts, network or this package."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from itertools import zip_longest

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipelines.report import charts
from pipelines.report.model import Contexts, Example, Measure, Movement, RankedDoc, RunReport, RunSeconds, Unit
from pipelines.report.records import Distribution

TEMPLATE = "report.html.j2"
LISTED_UNITS = 500
LISTED_ACTORS = 20
LISTED_DOCS = 10
_MOMENTS = 60  # columns of the chart of throughput


@dataclass(frozen=True, slots=True)
class ListRow:
    """One line of a before/after example: what stood at `rank` before, what stands there now and where it was.

    `was` is the earlier rank, `=` for the same one, `>n` below the n places that the report holds.
    """

    rank: int
    before: RankedDoc | None
    after: RankedDoc | None
    was: str


def render_report(report: RunReport) -> str:
    """Render the page of one run: HTML with inline CSS and SVG, no script, no request; every text escaped."""
    return (
        page_environment()
        .get_template(TEMPLATE)
        .render(
            report=report,
            tone=tone(report),
            charts=draw(report),
            moved=moved(report.movement) if report.movement else None,
            listed_units=LISTED_UNITS,
            listed_actors=LISTED_ACTORS,
        )
    )


def page_environment() -> Environment:
    """Templates of this folder, with what they need to say numbers; every text is escaped."""
    environment = Environment(
        loader=FileSystemLoader(str(files("pipelines.report"))),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "amount": lambda value: f"{value:,}",
        "bytes": bytes_text,
        "duration": duration,
        "moment": moment,
        "short": charts.short,
        "setting": setting,
        "listed": lambda values, sign: "\n".join(f"{name}{sign}{setting(values[name])}" for name in sorted(values)),
        "extent": extent,
        "hours": hours,
        "money": money,
        "fixed": fixed,
        "breakable": breakable,
        "verdict": verdict,
        "rows": list_rows,
    }
    return environment


def tone(report: RunReport) -> str:
    """Colour of the headline: `good` (committed whole), `warn` (committed with gaps) or `bad` (not committed)."""
    if not report.run.status.startswith("committed"):
        return "bad"
    return "warn" if report.result.failed or report.asked.skipped_files else "good"


def draw(report: RunReport) -> dict[str, Markup | None]:
    """The charts of the report by name, None for those without data."""
    spent = report.throughput.seconds
    return {
        "throughput": _throughput(report) if report.units else None,
        "prompt_tokens": histogram("Prompt tokens per query", report.distributions.prompt_tokens, "prompt tokens"),
        "candidates": histogram("Candidates per query", report.distributions.candidates, "candidates"),
        "unit_seconds": histogram(
            "Seconds of scoring per unit", report.distributions.unit_seconds, "seconds", counted="units"
        ),
        "margin": histogram("Score margin per query", report.distributions.margin, "score of first minus second"),
        **_context_charts(report.contexts),
        "stages": _seconds("Seconds of work per stage", _work_of(spent)),
        "clock": None if spent.start is None else _seconds("Where the clock went", _clock_of(spent)),
        "timeline": charts.timeline("Units by actor", _spans(report.units)) if report.units else None,
        "movement": charts.heat_map("Rank movement", report.movement.counts) if report.movement else None,
    }


def _context_charts(contexts: Contexts | None) -> dict[str, Markup | None]:
    if contexts is None or not contexts.in_rounds:
        return {"windows": None, "final_items": None}
    return {
        "windows": histogram("Prompts per query", contexts.windows, "prompts"),
        "final_items": histogram("Documents in the last prompt per query", contexts.final_items, "documents"),
    }


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


def _throughput(report: RunReport) -> Markup:
    """Tokens per second while the run went on; rows where no model read any."""
    in_tokens = report.throughput.prompt_tokens > 0
    rates, seconds = rates_over_time(report.units, in_tokens=in_tokens)
    speed = report.throughput
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


def histogram(title: str, values: Distribution | None, axis: str, counted: str = "queries") -> Markup | None:
    """The histogram of a distribution; None where nothing was measured, or the same value each time."""
    # One single value is said in words: a histogram of it is a full square.
    if values is None or values.p50 is None or values.p95 is None or not values.counts or values.p5 == values.max:
        return None
    return charts.histogram(
        title, values.edges, values.counts, {"median": values.p50, "p95": values.p95}, axis, counted
    )


def extent(values: Distribution) -> str:
    """The ends of a distribution, to close a caption."""
    return f"; 5th percentile {charts.short(values.p5 or 0)}, largest {charts.short(values.max or 0)}."


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


def moved(movement: Movement) -> dict[str, float]:
    """Two shares in words: candidates that kept their rank, and first places that stayed with the first candidate."""
    counts, everything = movement.counts, sum(map(sum, movement.counts))
    firsts = sum(row[0] for row in counts)
    kept = sum(counts[rank][rank] for rank in range(movement.depth))
    return {"kept": kept / (everything or 1), "first": counts[0][0] / (firsts or 1)}


def verdict(measure: Measure) -> str:
    """The paired interval in plain words: the difference is told from zero only where the interval leaves zero out."""
    if measure.low is None or measure.high is None:
        return "no interval"
    if measure.low > 0:
        return "higher"
    return "lower" if measure.high < 0 else "not distinguishable"


def list_rows(example: Example) -> list[ListRow]:
    """The first places of both lists side by side."""
    was = {doc.doc_id: rank for rank, doc in enumerate(example.first_stage, 1)}
    pairs = zip_longest(example.first_stage[:LISTED_DOCS], example.reranked[:LISTED_DOCS])
    return [
        ListRow(rank, before, after, _was(rank, was.get(after.doc_id), len(was)) if after else "")
        for rank, (before, after) in enumerate(pairs, 1)
    ]


def _was(rank: int, earlier: int | None, held: int) -> str:
    if earlier is None:
        return f">{held}"
    return "=" if earlier == rank else str(earlier)


def fixed(value: float | None, sign: str = "") -> str:
    """A measure to three places with a true minus sign, a dash where it does not exist."""
    return "—" if value is None else format(value, f"{sign}.3f").replace("-", "\N{MINUS SIGN}")


def breakable(name: str) -> Markup:
    """A long name that may break after its punctuation instead of inside a word."""
    return Markup("<wbr>").join(re.split(r"(?<=[./_:=-])", name))


def setting(value: object) -> str:
    """A configuration value: strings as they are, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def duration(seconds: float) -> str:
    """Seconds for people: 0.42 s, 43.1 s, 12m 30s, 3h 05m."""
    if seconds < 120:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)}m {int(seconds % 60):02d}s"
    return f"{int(seconds // 3600):,}h {int(seconds % 3600 // 60):02d}m"


def moment(value: datetime) -> str:
    """A time to the second with its zone."""
    return f"{value:%Y-%m-%d %H:%M:%S} {value.tzname() or ''}".rstrip()


def hours(value: float) -> str:
    """Hours with three significant digits: 0.0123, 4.56, 1,230."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def money(value: float | None, currency: str) -> str:
    """A price with three significant digits, at least two places; a dash where there is no rate."""
    if value is None:
        return "—"
    return f"{value:,.2f} {currency}" if value >= 0.1 or value == 0 else f"{value:.3g} {currency}"


def bytes_text(size: float) -> str:
    """Bytes in powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"
