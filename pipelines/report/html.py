"""`report.html`: one self-contained page, readable without scripts, network or this package."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from itertools import zip_longest

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipelines.report import charts
from pipelines.report.distributions import histogram as histogram
from pipelines.report.model import Contexts, Example, Measure, Movement, RankedDoc, RunReport
from pipelines.report.pace_charts import pace_charts
from pipelines.report.words import breakable, extent, hours, moment, money, setting
from pipelines.report.words import bytes_text as bytes_text
from pipelines.report.words import duration as duration
from pipelines.report.words import fixed as fixed

TEMPLATE = "report.html.j2"
LISTED_UNITS = 500
LISTED_ACTORS = 20
LISTED_DOCS = 10


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
    environment.globals["listed_units"] = LISTED_UNITS
    return environment


def tone(report: RunReport) -> str:
    """Colour of the headline: `good` (committed whole), `warn` (committed with gaps) or `bad` (not committed)."""
    if not report.run.status.startswith("committed"):
        return "bad"
    return "warn" if report.result.failed or report.asked.skipped_files else "good"


def draw(report: RunReport) -> dict[str, Markup | None]:
    """The charts of the report by name, None for those without data."""
    return {
        "prompt_tokens": histogram("Prompt tokens per query", report.distributions.prompt_tokens, "prompt tokens"),
        "candidates": histogram("Candidates per query", report.distributions.candidates, "candidates"),
        "margin": histogram("Score margin per query", report.distributions.margin, "score of first minus second"),
        **_context_charts(report.contexts),
        **pace_charts(report.throughput, report.units, report.distributions.unit_seconds),
        "movement": charts.heat_map("Rank movement", report.movement.counts) if report.movement else None,
    }


def _context_charts(contexts: Contexts | None) -> dict[str, Markup | None]:
    if contexts is None or not contexts.in_rounds:
        return {"windows": None, "final_items": None}
    return {
        "windows": histogram("Prompts per query", contexts.windows, "prompts"),
        "final_items": histogram("Documents in the last prompt per query", contexts.final_items, "documents"),
    }


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
