"""The page of an audit of second thoughts."""

from __future__ import annotations

from typing import Final

from markupsafe import Markup

from pipelines.detection.pictures import Dot, head_map, masked_sets
from pipelines.flips.report import FlipReport, MaskRates, Rate
from pipelines.report.html import page_environment
from pipelines.report.pace_charts import charts_of
from qrcore.heads import Head, parse_head

TEMPLATE: Final = "flips.html.j2"
_SHOWN: Final = 10
#: Measures by the words that the page has for them.
TITLES: Final = {
    "yes_correct": "% Yes given a right answer",
    "yes_wrong": "% Yes given a wrong answer",
    "yes_injected": "% Yes given an injected wrong answer",
    "auroc": "AUROC of p_yes − p_no",
    "accuracy": "Accuracy of verdicts",
    "coherent": "Coherent verdicts",
}
#: The same above columns.
COLUMNS: Final = {
    "yes_correct": "Yes, right",
    "yes_wrong": "Yes, wrong",
    "yes_injected": "Yes, injected",
    "auroc": "AUROC",
    "accuracy": "accuracy",
    "coherent": "coherent",
}
_LONGEST_LABEL: Final = 14


def flips_page(report: FlipReport) -> str:
    """One self-contained page: the flip matrix, rates before and after with control sets, and the ranking."""
    tone = "warn" if report.result.failed or report.warnings else "good"
    return (
        page_environment()
        .get_template(TEMPLATE)
        .render(
            report=report,
            titles=TITLES,
            columns=COLUMNS,
            compared=draw(report),
            charts=charts_of(report.pace),
            map=_map(report),
            shown=_SHOWN,
            tone=tone,
        )
    )


def draw(report: FlipReport) -> dict[str, Markup]:
    """A chart of each measure that has control sets to stand beside."""
    return {
        measure: chart for measure in TITLES if (chart := _masked(report.masks, measure, TITLES[measure])) is not None
    }


def _masked(masks: tuple[MaskRates, ...], measure: str, title: str) -> Markup | None:
    rates = {mask.name: mask.rates[measure] for mask in masks if measure in mask.rates}
    controls = [
        Dot(f"other heads beside {mask.name}", value, value, value, marked=False)
        for mask in masks
        for value in mask.control_values.get(measure, ())
    ]
    return masked_sets([_dot(name, rate) for name, rate in rates.items()], controls, title) if controls else None


def _dot(name: str, rate: Rate) -> Dot:
    low, high = (rate.value if bound is None else bound for bound in (rate.low, rate.high))
    return Dot(name.split("@")[0][:_LONGEST_LABEL], rate.value, low, high, marked=True)


def _map(report: FlipReport) -> Markup | None:
    """Scores of all heads on the fit split."""
    if not report.ranking:
        return None
    scores = {parse_head(one.head): one.score for one in report.ranking}
    layers, heads = max(head.layer for head in scores) + 1, max(head.head for head in scores) + 1
    grid = [[scores.get(Head(layer, head), 0.0) for head in range(heads)] for layer in range(layers)]
    return head_map(grid, list(scores)[:_SHOWN])
