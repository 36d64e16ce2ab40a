"""The page of a run of answer: one self-contained file, readable without scripts, network or this package."""

from __future__ import annotations

from typing import Final

from markupsafe import Markup

from pipelines.report import charts
from pipelines.report.answers import JUDGED, MEASURES, AnswerReport, own_variant
from pipelines.report.html import fixed, histogram, page_environment

TEMPLATE: Final = "answer.html.j2"
#: What does not fit beside a bar.
_SHORT: Final = {"random_order": "shuffled"}
#: How measures are called on the page.
NAMES: Final = {
    "exact_match": "exact match",
    "sub_em": "contained",
    "token_f1": "token F1",
    "judged": "judged right",
    "verdicts": "right verdicts",
    "pairs": "right pairs",
}


def render_answers(report: AnswerReport) -> str:
    """HTML with inline CSS and SVG, no script, no request; every text escaped."""
    tone = "warn" if report.result.failed or report.asked.skipped_files else "good"
    page = page_environment().get_template(TEMPLATE)
    return page.render(
        report=report,
        own=own_variant(report),
        charts=draw(report),
        tone=tone,
        names=NAMES,
        measures=[name for name in (*MEASURES, JUDGED) if any(name in one.measures for one in report.variants)],
        has_recall=any(one.shown_recall for one in report.variants),
        has_verdicts=any(one.verdicts for one in report.variants),
    )


def draw(report: AnswerReport) -> dict[str, Markup | None]:
    """The charts by name, None for those without data."""
    own = own_variant(report)
    return {
        "sub_em": _by_variant(report, "sub_em"),
        "recall": _recall(report),
        "prompt_tokens": histogram("Prompt tokens per answer", own.prompt_tokens, "prompt tokens", "answers"),
        "new_tokens": histogram("Tokens per answer", own.new_tokens, "new tokens", "answers"),
        "documents": histogram("Documents per prompt", own.documents, "documents", "answers"),
    }


def _by_variant(report: AnswerReport, measure: str) -> Markup | None:
    found = {one.name: one.measures[measure].mean for one in report.variants if measure in one.measures}
    return _bars("Gold answer contained", found, "share of answers") if len(found) > 1 else None


def _recall(report: AnswerReport) -> Markup | None:
    found: dict[str, float] = {}
    for one in report.variants:
        if one.shown_recall:
            found[one.name] = one.shown_recall.mean
        if one.steered_recall and one is own_variant(report):
            found["pushed"] = one.steered_recall.mean
    return _bars("Relevant documents", found, "share of the relevant documents") if len(found) > 1 else None


def _bars(title: str, shares: dict[str, float], axis: str) -> Markup | None:
    if not any(shares.values()):
        return None
    return charts.bars(
        title, [charts.Bar(_SHORT.get(name, name), one, fixed(one)) for name, one in shares.items()], axis
    )
