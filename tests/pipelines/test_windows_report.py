"""Rows of several rounds: what the report counts of them, and which orders verifying takes for whole."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.report import render_report
from pipelines.report.build import ReportBuilder, RunFacts
from pipelines.report.distributions import ContextCounts
from pipelines.verify import _ranking
from qrcore.windows import ContextSettings
from tests.pipelines.report_samples import START
from tests.pipelines.test_report_build import plan_of, scored, unit


def item(doc_id: str, rank: int, score: float, round_number: int, cut: int | None = 0) -> dict[str, Any]:
    ranks = {"rank": rank, "input_rank": rank, "input_score": None}
    return {"doc_id": doc_id, "score": score, "round": round_number, "cut_tokens": cut, **ranks}


#: In the last round by score, before it by rank within windows, where scores mean nothing to one another.
WHOLE = [item("a", 1, 2.0, 3), item("b", 2, 1.0, 3), item("c", 3, -5.0, 2), item("d", 4, 9.0, 1), item("e", 5, 11.0, 1)]


def test_scores_of_windows_need_not_fall() -> None:
    assert list(_ranking(WHOLE)) == []


@pytest.mark.parametrize(
    "wrong",
    [
        [item("a", 1, 1.0, 2), item("b", 2, 2.0, 2), item("c", 3, 0.0, 1)],  # the last prompt is one prompt
        [item("a", 1, 1.0, 1), item("b", 2, 2.0, 2)],  # who was in the last prompt comes first
    ],
)
def test_orders_that_no_run_makes_are_named(wrong: list[dict[str, Any]]) -> None:
    assert [code for code, _ in _ranking(wrong)] == ["wrong_order"]


def test_counts_of_windows() -> None:
    counts = ContextCounts()
    counts.add(7, WHOLE)
    counts.add(1, [item("a", 1, 1.0, 1, cut=30), item("b", 2, 0.0, 1, cut=None)])
    found = counts.finish({"policy": "tournament"})
    assert found is not None
    assert (found.in_rounds, found.windows.max, found.final_items.max) == (1, 7, 2)
    assert (found.cut_documents, found.cut_tokens) == (1, 30)
    assert counts.finish(None) is None


def test_the_page_says_how_many_the_last_prompts_held() -> None:
    planned = ContextSettings(policy="tournament", window_tokens=300)
    plan = plan_of("as_given")
    contexts = {name: getattr(planned, name) for name in ("policy", "window_tokens", "survivors")}
    plan = plan.model_copy(update={"provenance": {**plan.provenance, "contexts": contexts}})
    rows = [{**scored("q", ("a", 1, None)), "ranking": WHOLE, "windows": 7, "prompt_tokens": 1400}]
    rows += [{**scored("p", ("a", 1, None)), "windows": 1}]
    builder = ReportBuilder(plan, None)
    builder.add(unit(rows))
    report = builder.finish(RunFacts("d", "o", START, START, False, {}, None), None)
    page = render_report(report)
    assert "1 of the queries did not fit one prompt of 300 tokens" in page
    assert "10 of each at most went on" in page
    assert report.contexts is not None and report.contexts.windows.max == 7


def test_warnings_of_length_are_of_a_prompt_and_not_of_all_together() -> None:
    plan = plan_of("as_given")
    plan = plan.model_copy(update={"provenance": {**plan.provenance, "detection_tokens": {"p95": 100, "max": 120}}})
    builders = [ReportBuilder(plan, None) for _ in range(2)]
    for builder, windows in zip(builders, (1, 20), strict=True):
        builder.add(unit([{**scored("q", ("a", 1, None)), "windows": windows, "prompt_tokens": 2000}]))
    assert builders[0].warnings and not builders[1].warnings
