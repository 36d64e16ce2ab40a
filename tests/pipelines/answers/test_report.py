"""What answer says of its answers: measures of each variant, what is left out of them, and a page."""

from __future__ import annotations

import re
from statistics import fmean

import pytest

from pipelines.report.answer_page import draw, render_answers
from tests.pipelines.answers.samples import VARIANTS, answered, cafe_rows, failed, report_of, said

QRELS = {f"q{number}": {f"q{number}/2": 1, f"q{number}/5": 1, f"q{number}/0": 0} for number in range(20)}


def test_each_variant_is_measured_over_the_rows_that_it_answered() -> None:
    report = report_of(cafe_rows(12), qrels=QRELS)
    result = report.result
    assert (result.rows, result.scored, result.failed, result.detection_queries) == (12, 11, 1, 1)
    own, full, *_, oracle = report.variants
    assert [one.name for one in report.variants] == list(VARIANTS)
    # 12 rows: one failed, one whose heads were found on it, and one that the oracle knows nothing of.
    assert [one.answered for one in report.variants] == [10, 10, 10, 10, 9]
    assert own.measures["sub_em"].mean == pytest.approx(fmean(number % 4 > 0 for number in range(10)))
    assert full.measures["sub_em"].mean == pytest.approx(0.5)
    assert oracle.measures["sub_em"].mean == 1.0 and oracle.measures["sub_em"].n == 9
    assert "judged" not in own.measures
    assert (own.documents.p50, full.documents.p50) == (3, 8)


def test_recall_is_that_of_the_prompt_and_of_the_pushed() -> None:
    own, full, *_ = report_of(cafe_rows(12), qrels=QRELS).variants
    assert own.shown_recall is not None and own.shown_recall.mean == 0.5  # of two relevant ones
    assert own.steered_recall is not None and own.steered_recall.mean == 0.5
    assert full.shown_recall is not None and full.shown_recall.mean == 1.0
    assert full.steered_recall is None
    assert report_of(cafe_rows(12)).variants[0].shown_recall is None


def test_variants_are_compared_query_by_query() -> None:
    rows = [
        answered("a", ["x"], said("x", ["x"], ["1"]), full=said("y", ["x"], ["1", "2"])),
        answered("b", ["x"], said("x", ["x"], ["1"]), full=said("x", ["x"], ["1", "2"])),
        answered("c", ["x"], said("y", ["x"], ["1"]), full={"error": failed("c")["error"]}),
    ]
    own, full = report_of(rows, ("cafe", "full")).variants
    assert own.behind == {}
    assert (full.behind["sub_em"].mean, full.behind["sub_em"].n) == (0.5, 2)
    assert own.measures["sub_em"].mean == pytest.approx(2 / 3)


def test_queries_that_heads_were_found_on_are_in_no_measure() -> None:
    rows = [
        answered("a", ["x"], said("y", ["x"], ["1"]), "detection_query"),
        answered("b", ["x"], said("x", ["x"], [])),
    ]
    report = report_of(rows, ("cafe",), {"a": {"1": 1}, "b": {"1": 1}})
    (own,) = report.variants
    assert own.measures["sub_em"].mean == 1.0 and own.shown_recall is not None and own.shown_recall.n == 1
    assert "left out" in render_answers(report)
    assert [example.query_id for example in report.examples] == ["b"]


def test_a_judge_that_says_nothing_is_counted() -> None:
    rows = [
        answered("a", ["x"], said("x", ["x"], [], judged=True)),
        answered("b", ["x"], said("x", ["x"], [], judged=None)),
        answered("c", None, said("x", None, [])),
    ]
    (own,) = report_of(rows, ("full",), judge="m").variants
    assert (own.measures["judged"].mean, own.measures["judged"].n, own.unjudged) == (1.0, 1, 1)


def test_examples_are_kept_only_where_they_may() -> None:
    report = report_of(cafe_rows(12))
    assert len(report.examples) == 6
    assert [example.answers[0].sub_em for example in report.examples] == [1, 1, 1, 0, 0, 0]
    assert "salt" in render_answers(report)
    kept = report_of(cafe_rows(12), examples=False)
    assert kept.examples == () and "salt" not in render_answers(kept)


def test_the_page_escapes_what_it_shows_and_tells_of_every_variant() -> None:
    report = report_of(cafe_rows(12), qrels=QRELS)
    page = render_answers(report)
    assert "<script" not in page and not re.search(r"(src|href)=.http", page)
    assert "<i>this</i>" not in page and "&lt;i&gt;this" in page and "&lt;b&gt;none" in page
    assert {name for name, chart in draw(report).items() if chart} == {"sub_em", "recall", "new_tokens"}
    for text in ("random order", "a warning", "recall in the prompt", "cafe minus", "contains it"):
        assert text in page, text


def test_a_run_without_gold_answers_says_how_to_give_some() -> None:
    page = render_answers(report_of([answered("a", None, said("x", None, ["1"]))], ("full",)))
    assert "--answers" in page
    nothing = render_answers(report_of([failed("a"), failed("b")], ("full",)))
    assert "No row was answered" in nothing
