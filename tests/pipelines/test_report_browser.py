"""The report in a real browser: no request, nothing overflows, axes and numbers are there, readable in both schemes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.report import RunReport, render_report
from tests.pipelines.chromium import Browser, needs_browser
from tests.pipelines.report_samples import SAMPLES

pytestmark = needs_browser

OPEN_ALL = "document.querySelectorAll('details').forEach(one => one.open = true)"
# What stands left or right of the window or spills out of its box, except inside a container that scrolls by itself.
BEYOND = """[...document.querySelectorAll('body *')].filter(one => {
  const box = one.getBoundingClientRect();
  const scrolls = one.parentElement.closest('.scroll');
  const spills = one.clientWidth && one.scrollWidth > one.clientWidth + 1 && !one.matches('.scroll, svg, svg *');
  return box.width && !scrolls && (box.right > WIDTH + 1 || box.left < -1 || spills);
}).map(one => one.outerHTML.slice(0, 120))"""
PAGE_WIDTH = "document.documentElement.scrollWidth"
CHARTS = """[...document.querySelectorAll('svg.chart')].map(chart => {
  const shown = kind => [...chart.querySelectorAll(kind)].filter(one => one.getBoundingClientRect().width);
  const words = kind => shown(kind).map(one => one.textContent);
  const frame = chart.closest('figure').getBoundingClientRect();
  const texts = shown('text').map(one => [one.textContent, one.getBoundingClientRect()]);
  const cut = box => box.left < frame.left || box.right > frame.right || box.bottom > frame.bottom;
  const meet = (a, b) => a.left < b.right && b.left < a.right && a.top + 3 < b.bottom && b.top + 3 < a.bottom;
  const meeting = texts.flatMap(([text, box], index) =>
    texts.slice(index + 1).filter(([, other]) => meet(box, other)).map(([other]) => [text, other]));
  return {
    name: chart.getAttribute('aria-label'), bars: shown('rect').length, ticks: words('.tick'),
    axes: words('.axis-title'), cut: texts.filter(([, box]) => cut(box)).map(([text]) => text), meeting,
  };
})"""
# The smallest WCAG contrast of text with what it stands on; in a heat map with its strongest cell.
CONTRAST = """(() => {
  const linear = part => part <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4;
  const parts = colour => {
    const numbers = colour.match(/[\\d.]+/g).map(Number);
    return colour.startsWith('color') ? numbers : numbers.map((one, place) => place < 3 ? one / 255 : one);
  };
  const light = colour => [.2126, .7152, .0722].reduce((sum, share, place) => sum + linear(colour[place]) * share, .05);
  const ratio = (one, other) => Math.max(light(one) / light(other), light(other) / light(one));
  const style = node => getComputedStyle(node);
  const behind = node => {  // what is see-through shows what is behind it
    const [red, green, blue, alpha = 1] = parts(style(node).backgroundColor);
    if (alpha === 1) return [red, green, blue];
    return behind(node.parentElement).map((part, place) => part + alpha * ([red, green, blue][place] - part));
  };
  const texts = [...document.querySelectorAll('p, td, th, dt, dd, h1, h2, h3, .soft, .pill, .good, .bad:not(.key)')];
  const drawn = [...document.querySelectorAll('text.tick, text.label, text.value')];
  const cell = document.querySelector('text.in') && document.querySelector('rect.cell');
  const fill = node => parts(style(node).fill);
  const cells = cell ? ratio(fill(document.querySelector('text.in')), fill(cell)) : 21;
  return Math.min(cells, ...texts.map(node => ratio(parts(style(node).color), behind(node))),
    ...drawn.map(node => ratio(fill(node), behind(node))));
})()"""


def written(folder: Path, html: str) -> Path:
    page = folder / "report.html"
    page.write_text(html, encoding="utf-8")
    return page


def beyond(browser: Browser, width: int) -> list[str]:
    browser.evaluate(OPEN_ALL)
    wide = [] if browser.evaluate(PAGE_WIDTH) <= width else ["the page itself"]
    return wide + list(browser.evaluate(BEYOND.replace("WIDTH", str(width))))


def test_the_checks_see_requests_and_overflow(browser: Browser, tmp_path: Path) -> None:
    page = written(tmp_path, '<!doctype html><img src="missing.png"><p style="width:900px">wide</p>')
    browser.open(page, 375, "light")
    assert browser.requests == [page.as_uri(), page.with_name("missing.png").as_uri()]
    assert beyond(browser, 375)[0] == "the page itself"


@pytest.mark.parametrize("width", [375, 1440])
@pytest.mark.parametrize("name", SAMPLES)
def test_page_fits_and_asks_for_nothing(browser: Browser, tmp_path: Path, name: str, width: int) -> None:
    page = written(tmp_path, render_report(RunReport.model_validate(SAMPLES[name]())))
    browser.open(page, width, "light")
    assert [url for url in browser.requests if not url.startswith("data:")] == [page.as_uri()]
    assert beyond(browser, width) == []


@pytest.mark.parametrize("width", [375, 1440])
@pytest.mark.parametrize(("name", "count"), [("plain", 4), ("awkward", 9), ("empty", 0)])
def test_charts_have_axes_and_numbers(browser: Browser, tmp_path: Path, name: str, count: int, width: int) -> None:
    browser.open(written(tmp_path, render_report(RunReport.model_validate(SAMPLES[name]()))), width, "light")
    charts: list[dict[str, Any]] = browser.evaluate(CHARTS)
    assert len(charts) == count
    for chart in charts:
        assert chart["bars"], chart["name"]
        assert chart["axes"] and len([tick for tick in chart["ticks"] if tick[0].isdigit()]) >= 2, chart["name"]
        assert not chart["cut"] and not chart["meeting"], chart


def test_readable_in_light_and_dark(browser: Browser, tmp_path: Path) -> None:
    page = written(tmp_path, render_report(RunReport.model_validate(SAMPLES["awkward"]())))
    grounds = set()
    for scheme in ("light", "dark"):
        browser.open(page, 1440, scheme)
        browser.evaluate(OPEN_ALL)
        grounds.add(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert browser.evaluate(CONTRAST) >= 4.5, scheme
    assert len(grounds) == 2
