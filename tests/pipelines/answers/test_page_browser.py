"""The page of answers in a real browser: nothing overflows, charts are whole, readable in both schemes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.report.answer_page import render_answers
from tests.pipelines.answers.samples import answered, cafe_rows, failed, report_of, said
from tests.pipelines.answers.test_report import QRELS
from tests.pipelines.chromium import Browser, needs_browser
from tests.pipelines.test_report_browser import CHARTS, beyond, written

pytestmark = needs_browser

LONG = "a" * 60 + " " + "word " * 200
AWKWARD = [
    answered(LONG, [LONG], said(LONG, [LONG], [LONG] * 3, steered=[LONG], judged=True), full=said("", [LONG], [LONG])),
    answered("v", ["TRUE"], said("TRUE", ["TRUE"], ["1"]), full={"error": failed("v")["error"]}),
    failed(LONG),
]
PAGES = {
    "cafe": lambda: report_of(cafe_rows(40), qrels=QRELS),
    "awkward": lambda: report_of(AWKWARD, ("cafe", "full"), {LONG: {LONG: 1}}, judge="m"),
    "empty": lambda: report_of([failed("a"), failed("b")], ("full",)),
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1440])
@pytest.mark.parametrize("name", PAGES)
def test_the_page_fits_and_its_charts_are_whole(
    browser: Browser, tmp_path: Path, name: str, width: int, scheme: str
) -> None:
    page = written(tmp_path, render_answers(PAGES[name]()))
    browser.open(page, width, scheme)
    assert [url for url in browser.requests if not url.startswith("data:")] == [page.as_uri()]
    assert beyond(browser, width) == []
    charts = browser.evaluate(CHARTS)
    assert len(charts) == {"cafe": 3, "awkward": 5, "empty": 0}[name]
    for chart in charts:
        assert chart["bars"] and chart["axes"] and not chart["cut"] and not chart["meeting"], chart
