"""The curves in a real browser: nothing overflows, no words meet, and both colour schemes can be read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from pipelines.training.curves import length_curve, training_curve
from qrcore.training.progress import Progress
from tests.pipelines.chromium import Browser, needs_browser
from tests.pipelines.training.card_samples import LENGTHS

pytestmark = needs_browser

NARROW, WIDE = 375, 900
#: The grounds that GitHub shows files on.
GROUNDS = {"light": (255, 255, 255), "dark": (13, 17, 23)}
TEXTS = """[...document.querySelectorAll('svg text')].map(text => {
  const {left, right, top, bottom} = text.getBoundingClientRect();
  return {said: text.textContent, left, right, top, bottom};
})"""
FRAME = """(() => {
  const {left, top, bottom} = document.querySelector('svg').getBoundingClientRect();
  return {left, top, bottom};
})()"""
COLOURS = """[...document.querySelectorAll('svg text, svg .curve')].map(node => {
  const style = getComputedStyle(node);
  return [node.tagName, (node.tagName === 'text' ? style.fill : style.stroke).match(/[\\d.]+/g).map(Number)];
})"""


def history(stages: int, first_tokens: int) -> list[Progress]:
    """Stages that grow from `first_tokens`, each of a few hundred records."""
    found, before = [], 0
    for number in range(stages):
        end = before + int(first_tokens * 1.5**number)
        for step in range(1, 201):
            learned = 1 - math.exp(-step / 40)
            tokens = before + (end - before) * step // 200
            found.append(
                Progress(
                    f"retrieval-{2**number}",
                    number,
                    step,
                    step,
                    tokens,
                    200 * number + step,
                    1.0 * step,
                    9 - 7 * learned,
                    0.9 * learned,
                    0.5 * learned * (number > 1),
                    0.98 * learned * (number > 3),
                    0.7 * learned,
                )
            )
        before = end
    return found


CURVES = {
    "training": training_curve(history(12, 200_000)),
    "training of one stage": training_curve(history(1, 5_000)),
    "nothing recorded": training_curve([]),
    "length": length_curve({"heads": LENGTHS}),
    "length of three seeds": length_curve({f"seed {seed}": LENGTHS for seed in range(3)}),
    "length with a long name": length_curve({"hotpotqa paragraphs, filled with others of the pool": LENGTHS}),
}


def page(folder: Path, body: str) -> Path:
    file = folder / "page.html"
    head = '<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    file.write_text(f"{head}<style>body {{ margin: 0; padding: 16px }}</style>{body}", encoding="utf-8")
    return file


def meet(one: dict[str, Any], other: dict[str, Any]) -> bool:
    across = one["left"] + 0.5 < other["right"] and other["left"] + 0.5 < one["right"]
    return bool(across and one["top"] + 2 < other["bottom"] and other["top"] + 2 < one["bottom"])


@pytest.mark.parametrize("width", [NARROW, WIDE])
@pytest.mark.parametrize("name", CURVES)
def test_words_stay_inside_and_apart(browser: Browser, tmp_path: Path, name: str, width: int) -> None:
    browser.open(page(tmp_path, CURVES[name]), width, "light")
    frame, texts = browser.evaluate(FRAME), browser.evaluate(TEXTS)
    assert texts
    cut = [one["said"] for one in texts if one["left"] < frame["left"] - 1 or one["right"] > width - 16 + 1]
    cut += [one["said"] for one in texts if one["top"] < frame["top"] or one["bottom"] > frame["bottom"]]
    assert not cut
    assert not [
        (one["said"], other["said"]) for n, one in enumerate(texts) for other in texts[n + 1 :] if meet(one, other)
    ]


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_as_an_image_it_takes_the_width_and_keeps_its_height(browser: Browser, tmp_path: Path, width: int) -> None:
    file = tmp_path / "training_curve.svg"
    file.write_text(CURVES["training"], encoding="utf-8")
    shown = page(tmp_path, '<p><img src="training_curve.svg" width="100%" style="max-width: 100%; height: auto"></p>')
    browser.open(shown, width, "dark")
    box = browser.evaluate("(({width, height}) => ({width, height}))(document.images[0].getBoundingClientRect())")
    assert browser.evaluate("document.images[0].complete && document.images[0].naturalHeight") == round(box["height"])
    assert box["width"] == width - 32 and 300 < box["height"] < 700
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.requests == [shown.as_uri(), file.as_uri()]


@pytest.mark.parametrize("scheme", GROUNDS)
def test_readable_in_light_and_dark(browser: Browser, tmp_path: Path, scheme: str) -> None:
    for name in ("training", "length of three seeds"):
        browser.open(page(tmp_path, CURVES[name]), WIDE, scheme)
        colours = browser.evaluate(COLOURS)
        assert {"text", "path"} == {tag for tag, _ in colours}
        for tag, colour in colours:
            assert contrast(tuple(colour), GROUNDS[scheme]) >= (4.5 if tag == "text" else 3), (name, tag, colour)


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """The contrast ratio of WCAG 2 of two colours."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: tuple[float, ...]) -> float:
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in (c / 255 for c in colour)
    ]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=False))
