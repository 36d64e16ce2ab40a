"""The pages of prepare and select in a real browser: they fit, ask for nothing, and are readable in both schemes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.prepare.report import Duplicates, Judged, PrepareReport
from pipelines.prepare.report import render as render_prepared
from pipelines.report.bundle_page import render_bundles
from pipelines.report.bundles import BundleReport
from pipelines.report.distributions import distribution
from pipelines.report.model import InputFile
from tests.pipelines.chromium import Browser, needs_browser
from tests.pipelines.prepare.test_report import report as prepared_report
from tests.pipelines.report_samples import LONG_URI, NASTY
from tests.pipelines.test_bundle_report import QRELS, ROWS, bundle, report_of
from tests.pipelines.test_report_browser import CHARTS, CONTRAST, OPEN_ALL, beyond, written

pytestmark = needs_browser


def awkward_prepared() -> PrepareReport:
    """Long names, errors, large numbers, everything to look at."""
    made = prepared_report(7)
    return made.model_copy(
        update={
            "run": made.run.model_copy(update={"output": LONG_URI, "run_id": f"{'very-long-name-' * 4}0123456789ab"}),
            "candidates": distribution([3, 20_000, *range(40, 900)]),
            "characters": distribution([7 * 10**6, *range(400, 90_000, 100)]),
            "longest": distribution([10**5, *range(40, 900)]),
            "duplicates": Duplicates(
                query_ids=1234, examples=(NASTY, LONG_URI), rows_with_repeated_texts=99, repeated_texts=123_456
            ),
            "judged": Judged(
                with_gold=10**6, without_gold=8, gold=2 * 10**6, gold_missing=1234, queries_without_their_gold=12
            ),
            "config": {"recipe": "documents", "input.uris": [LONG_URI], "split.pattern": NASTY, "none": None},
        }
    )


def awkward_bundles() -> BundleReport:
    """Every flag, gold that is missing, long names, contexts of a million tokens."""
    flags = ("no_positive_score", "truncated_documents", "detection_query", "uninformative_query")
    rows = [*ROWS, *(bundle(f"z{n}", ["d"], 99, 10**6 + n, flags[n % 4], windows=1 + 9 * n) for n in range(40))]
    made = report_of(rows, QRELS, {"a": 1, "c": 1})
    assert made.gold is not None
    asked = made.asked.model_copy(update={"inputs": (InputFile(uri=LONG_URI, rows=10**6, bytes=10**9),)})
    return made.model_copy(
        update={
            "run": made.run.model_copy(update={"output": LONG_URI, "run_id": f"{'very-long-name-' * 4}0123456789ab"}),
            "asked": asked,
            "gold": made.gold.model_copy(update={"qrels": LONG_URI}),
            "provenance": {"told": NASTY, "tokenizer": {"name": LONG_URI, "sha256": "ab" * 32}},
        }
    )


PAGES = {
    "prepare": lambda: render_prepared(prepared_report(0)),
    "prepare, awkward": lambda: render_prepared(awkward_prepared()),
    "select": lambda: render_bundles(report_of(ROWS, QRELS)),
    "select, awkward": lambda: render_bundles(awkward_bundles()),
    "select, nothing": lambda: render_bundles(report_of([])),
}


@pytest.mark.parametrize("width", [375, 1440])
@pytest.mark.parametrize("name", PAGES)
def test_pages_fit_and_ask_for_nothing(browser: Browser, tmp_path: Path, name: str, width: int) -> None:
    page = written(tmp_path, PAGES[name]())
    browser.open(page, width, "light")
    assert [url for url in browser.requests if not url.startswith("data:")] == [page.as_uri()]
    assert beyond(browser, width) == []
    for chart in browser.evaluate(CHARTS):
        assert chart["bars"] and chart["axes"] and not chart["cut"] and not chart["meeting"], chart


@pytest.mark.parametrize("name", [name for name in PAGES if "awkward" in name])
def test_pages_are_readable_in_light_and_dark(browser: Browser, tmp_path: Path, name: str) -> None:
    page = written(tmp_path, PAGES[name]())
    for scheme in ("light", "dark"):
        browser.open(page, 1440, scheme)
        browser.evaluate(OPEN_ALL)
        assert browser.evaluate(CONTRAST) >= 4.5, scheme
