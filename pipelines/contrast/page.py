"""The page of contrasted answers."""

from __future__ import annotations

from markupsafe import Markup

from pipelines.contrast.report import Changed, ContrastReport
from pipelines.report import charts
from pipelines.report.html import histogram, page_environment

TEMPLATE = "contrast.html.j2"


def contrast_page(report: ContrastReport) -> str:
    """One self-contained page: tokens that contrast changed, what it did to answers, control sets, examples."""
    tone = "warn" if report.result.failed or report.asked.skipped_files else "good"
    return page_environment().get_template(TEMPLATE).render(report=report, charts=draw(report), tone=tone)


def draw(report: ContrastReport) -> dict[str, Markup | None]:
    """The charts by name, None for those without data."""
    changed = report.changed
    return {
        "per_answer": histogram("Tokens changed per answer", changed.per_answer, "share of steps", "answers"),
        "alpha": histogram("Weight per answer", changed.mean_alpha, "mean a of an answer", "answers"),
        "controls": _controls(changed),
    }


def _controls(changed: Changed) -> Markup | None:
    if not changed.control_shares or changed.share is None:
        return None
    # The longest label fits beside the bars.
    shares = {"heads": changed.share} | {f"set {place}": one for place, one in enumerate(changed.control_shares, 1)}
    bars = [charts.Bar(name, 100 * share, f"{100 * share:.1f} %") for name, share in shares.items()]
    return charts.bars("Tokens changed by heads and by control sets", bars, "% of steps")
