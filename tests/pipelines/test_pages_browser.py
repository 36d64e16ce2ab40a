"""The pages of all jobs in a real browser: no request, nothing overflows, charts have axes, texts are legible."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.pipelines.chromium import Browser, needs_browser
from tests.pipelines.page_samples import PAGES
from tests.pipelines.report_samples import NASTY
from tests.pipelines.test_report_browser import CHARTS, CONTRAST, beyond, written


@pytest.mark.parametrize("name", PAGES)
def test_pages_escape_what_they_are_given_and_hold_no_script(name: str) -> None:
    html = PAGES[name]()
    assert (
        NASTY not in html
        and "<script" not in html
        and not re.search(r"https?://(?!www\.w3\.org)", html.split("<body>")[0])
    )
    for picture in re.findall(r"<svg[^>]*>", html):
        assert 'role="img"' in picture and re.search(r'aria-label="[^"]+"', picture), picture


@pytest.mark.parametrize("name", ["select", "detect", "prove", "influence"])
def test_pages_of_runs_say_how_they_ran_what_they_cost_and_what_was_asked(name: str) -> None:
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", PAGES[name]()))
    for said in (
        "How it ran", "Seconds of work per stage", "Where the clock went", "Throughput over time", "Units by actor",
        "44.1 CPU-hours, 14.7 GPU-hours", "38.51 EUR at 0.04 EUR a CPU-hour", "largest actor 3.0 GiB", "10 input files",
        "Provenance", "Errors",
    ):  # fmt: skip
        assert said in words, said


@needs_browser
@pytest.mark.parametrize("name", PAGES)
def test_pages_fit_ask_for_nothing_and_can_be_read(browser: Browser, tmp_path: Path, name: str) -> None:
    page = written(tmp_path, PAGES[name]())
    for width, scheme in ((375, "light"), (1440, "dark")):
        browser.open(page, width, scheme)
        charts: list[dict[str, Any]] = browser.evaluate(CHARTS)
        assert charts
        for chart in charts:
            assert chart["axes"] and len([tick for tick in chart["ticks"] if tick[0].isdigit()]) >= 2, chart["name"]
            assert not chart["cut"] and not chart["meeting"], chart
        assert [url for url in browser.requests if not url.startswith("data:")] == [page.as_uri()]
        assert beyond(browser, width) == []
        assert browser.evaluate(CONTRAST) >= 4.5, scheme
