"""Pages of found and proved heads: they say what the report says, and a browser shows them whole."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pipelines.detection.page import detection_page, proof_page
from pipelines.detection.pictures import MOST_HEADS, Dot, score_curve
from qrcore.heads import parse_head
from tests.pipelines.chromium import Browser, needs_browser
from tests.pipelines.detection.samples import LINE, SIZES, findings, proof
from tests.pipelines.detection.samples import causal as causal_sample
from tests.pipelines.test_report_browser import CHARTS, beyond, written


def _words(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html.split("<body>")[1]))


@pytest.mark.parametrize("size", SIZES)
def test_the_chosen_heads_stand_on_the_page_with_their_numbers(size: str) -> None:
    report, heads = findings(size)
    html = detection_page(report, heads, LINE)
    words = _words(html)
    assert heads.id in words and "80 queries" in words if size == "medium" else heads.id in words
    for head in heads.heads:
        score = report["methods"]["qrscore"]["scores"][head]
        assert f"{head} {score[0]:.4f}" in words
        assert f"{head}: {score[0]:.4g}, chosen" in html
    assert html.count('class="cell picked"') == len(heads.heads)
    assert html.count('class="cell') == SIZES[size][0] * SIZES[size][1]
    assert ("examples are few" in words) == (size == "few")


def test_one_example_has_no_halves() -> None:
    assert "One example has no halves" in _words(detection_page(*findings("few"), LINE))


def test_rivals_stand_on_the_page_with_what_may_be_said() -> None:
    report = proof("medium")
    words = _words(proof_page(report, LINE))
    for one in report["sets"][1:]:
        minus = one["chosen_minus"]
        said = "above" if minus["low"] > 0 else "below" if minus["high"] < 0 else "not distinguishable"
        place = words.index(f" {one['name']} ")
        assert said in words[place : place + 90], one["name"]
        assert f"{len(one['heads']) or '—'} {one['layers'] or '—'} {one['ndcg_10']['mean']:.3f}" in words
        assert one["layers"] == max((parse_head(head).layer + 1 for head in one["heads"]), default=0)
    assert "60 queries" in words and "over 5 seeds" in words
    assert "as given" in words and "Quality against depth" in words


def test_what_masking_costs_stands_on_the_page() -> None:
    for size in ("small", "medium"):
        report = proof(size)
        words = _words(proof_page(report, LINE))
        causal = report["causal"]
        assert "In 30 needle trials" in words and "20 control sets" in words
        numbers = [causal[part]["copied"]["mean"] for part in ("intact", "chosen")]
        assert f"tokens of the needle {numbers[0]:.3f} {numbers[1]:.3f}" in words and "100 %" in words
        assert ("document named" in words) == (causal["answered"] is not None)
    few = proof("small") | {"causal": causal_sample(controls=3, answered=False)}
    assert "too few other heads for 20 control sets" in _words(proof_page(few, LINE))
    assert "hold" not in _words(proof_page(proof("small") | {"causal": None}, LINE)).split("Does the place")[0]


def test_warnings_stand_on_the_page() -> None:
    said = "head set x: 3 of 9 prompts have more than 4 times the tokens"
    assert said in _words(proof_page(proof("small") | {"warnings": [said]}, LINE))


def test_nothing_that_proves_the_choice_is_said_plainly() -> None:
    words = _words(proof_page(proof("few", queries=0), LINE))
    assert "nothing proves the choice" in words
    assert "the choice has seen these queries" in _words(
        proof_page(proof("small") | {"seen_by_the_choice": True}, LINE)
    )


def test_a_long_curve_says_what_it_leaves_out() -> None:
    dots = [Dot(f"0-{n}", 1 - n / 500, 0.9 - n / 500, 1.1 - n / 500, n < 16) for n in range(300)]
    picture = score_curve(dots)
    assert picture.count("<circle") == MOST_HEADS
    assert f"{300 - MOST_HEADS} more are not shown" in picture


@needs_browser
@pytest.mark.parametrize("width", [375, 1440])
@pytest.mark.parametrize("size", SIZES)
def test_pages_fit_and_ask_for_nothing(browser: Browser, tmp_path: Path, size: str, width: int) -> None:
    for html in (detection_page(*findings(size), LINE), proof_page(proof(size), LINE)):
        page = written(tmp_path, html)
        browser.open(page, width, "light")
        assert [url for url in browser.requests if not url.startswith("data:")] == [page.as_uri()]
        assert beyond(browser, width) == []


@needs_browser
@pytest.mark.parametrize("width", [375, 1440])
@pytest.mark.parametrize("size", ["small", "medium", "large"])
def test_charts_have_axes_and_numbers(browser: Browser, tmp_path: Path, size: str, width: int) -> None:
    proved = proof(size)
    masked = 1 + (proved["causal"]["answered"] is not None)
    for html, count in ((detection_page(*findings(size), LINE), 3), (proof_page(proved, LINE), 2 + masked)):
        browser.open(written(tmp_path, html), width, "light")
        charts: list[dict[str, Any]] = browser.evaluate(CHARTS)
        assert len(charts) == count
        for chart in charts:
            assert chart["axes"] and len([tick for tick in chart["ticks"] if tick[0].isdigit()]) >= 2, chart["name"]
            assert not chart["cut"] and not chart["meeting"], chart
