"""The page of a run of select: one self-contained file, readable without scripts, network or this package."""

from __future__ import annotations

from markupsafe import Markup

from pipelines.report import charts
from pipelines.report.bundles import BundleReport
from pipelines.report.html import histogram, page_environment
from pipelines.report.pace_charts import pace_charts

TEMPLATE = "select.html.j2"


def render_bundles(report: BundleReport) -> str:
    """HTML with inline CSS and SVG, no script, no request; every text escaped."""
    tone = "warn" if report.result.failed or report.result.empty or report.asked.skipped_files else "good"
    return page_environment().get_template(TEMPLATE).render(report=report, charts=draw(report), tone=tone)


def draw(report: BundleReport) -> dict[str, Markup | None]:
    """The charts by name, None for those without data."""
    tokens = report.tokens
    return {
        "in_and_out": _bars("Tokens in and out", {"in": tokens.source, "out": tokens.context}, "tokens"),
        "ratio": histogram("Compression ratio per bundle", tokens.ratio, "context / source tokens", "bundles"),
        "budget_use": histogram("Budget use per bundle", tokens.budget_use, "context tokens / budget", "bundles"),
        "segments": histogram("Segments per bundle", tokens.segments, "segments", "bundles"),
        "windows": histogram("Prompts per ranking", report.rounds.windows, "prompts", "rankings"),
        "final_items": histogram("Documents in the last prompt", report.rounds.final_items, "documents", "rankings"),
        "gold": _gold(report),
        **(pace_charts(pace.throughput, pace.units, pace.unit_seconds) if (pace := report.pace) else {}),
    }


def _gold(report: BundleReport) -> Markup | None:
    if report.gold is None or not report.gold.judged_queries:
        return None
    counts = {"all": report.gold.all_gold, "some": report.gold.some_gold, "none": report.gold.no_gold}
    return _bars("Gold documents in the bundle", counts, "queries")


def _bars(title: str, counts: dict[str, int], axis: str) -> Markup | None:
    if not any(counts.values()):
        return None
    return charts.bars(title, [charts.Bar(name, count, charts.short(count)) for name, count in counts.items()], axis)
