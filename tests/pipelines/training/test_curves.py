"""The curves' geometry, words and escaping; `test_curves_browser` looks at them in a browser."""

from __future__ import annotations

import dataclasses
import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.training.curves import length_curve, training_curve
from pipelines.training.findings import Interval, LengthPoint
from qrcore.training.progress import Progress
from tests.pipelines.training.card_samples import LENGTHS

SVG = "{http://www.w3.org/2000/svg}"
Point = tuple[float, float]


def record(tokens: int, copy: float, stage: str = "one", number: int = 0, index: float = 0.0) -> Progress:
    return Progress(stage, number, tokens, tokens, tokens, tokens, 0.0, 2.0 - copy, copy, index)


def two_stages() -> list[Progress]:
    first = [record(tokens, tokens / 1000) for tokens in range(100, 501, 100)]
    return first + [record(tokens, 0.9, "two", 1, index=tokens / 1000) for tokens in range(600, 1001, 100)]


def nodes(svg: str, tag: str, kind: str = "") -> list[ElementTree.Element]:
    found = ElementTree.fromstring(svg).iter(SVG + tag)
    return [node for node in found if not kind or kind in node.get("class", "").split()]


def points(path: ElementTree.Element) -> list[Point]:
    numbers = [float(one) for one in re.findall(r"-?[\d.]+", path.get("d", "").removesuffix("h0"))]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def drawn(svg: str, kind: str, tag: str = "curve") -> list[list[Point]]:
    # Strokes of the key are not in the stretched box.
    return [
        points(path)
        for path in nodes(svg, "path", kind)
        if tag in path.get("class", "") and "h16" not in path.get("d", "")
    ]


def level(svg: str, label: str, panel: int = 0) -> float:
    """Where the grid line of a value lies."""
    found = [
        float(text.get("y", "nan")) - 4 for text in nodes(svg, "text", "tick") if text.get("dx") and text.text == label
    ]
    return found[panel]


def words(svg: str, kind: str) -> list[str]:
    return [text.text or "" for text in nodes(svg, "text", kind)]


def about(svg: str) -> str:
    (desc,) = nodes(svg, "desc")
    return (desc.text or "").replace("\N{NO-BREAK SPACE}", " ")


def test_points_stand_where_their_numbers_say() -> None:
    svg = training_curve(two_stages())
    foot, top = level(svg, "0"), level(svg, "1")
    first, second = drawn(svg, "line0")
    assert [x for x, _ in first] == pytest.approx([100, 200, 300, 400, 500])
    assert [(foot - y) / (foot - top) for _, y in first] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5], abs=1e-3)
    assert [(foot - y) / (foot - top) for _, y in second] == pytest.approx([0.9] * 5, abs=1e-3)
    assert [y for _, y in first] == sorted((y for _, y in first), reverse=True)
    losses = drawn(svg, "plain")
    zero, one = level(svg, "0", 1), level(svg, "1", 1)
    assert [(zero - y) / (zero - one) for _, y in losses[0]] == pytest.approx([1.9, 1.8, 1.7, 1.6, 1.5], abs=1e-2)
    assert zero > foot


def test_an_accuracy_is_drawn_only_in_stages_where_it_occurs() -> None:
    svg = training_curve(two_stages())
    (index,) = drawn(svg, "line1")
    assert index[0][0] == pytest.approx(600)
    assert words(svg, "label") == ["copying 0.90", "document index 1.00"]


def test_stages_are_named_at_the_line_where_they_begin() -> None:
    svg = training_curve(two_stages())
    assert words(svg, "stage") == ["one", "two"]
    begins = {line.get("x1") for line in nodes(svg, "line", "border") if line.get("x1") == line.get("x2")}
    assert begins == {"0%", "50%"}
    assert (
        "one to 500 tokens: copying 0.50, loss 1.50; two to 1,000 tokens: copying 0.90, document index 1.00"
        in about(svg)
    )


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=21))
@settings(max_examples=40, deadline=None)
def test_names_keep_their_order_and_do_not_meet(sizes: list[int]) -> None:
    history, tokens = [], 0
    for number, size in enumerate(sizes):
        tokens += size
        history += [dataclasses.replace(record(tokens, 0.5, f"stage {number}", number), steps=number)]
    svg = training_curve(history)
    owners = {id(text): box for box in nodes(svg, "svg") for text in box if text.get("class") == "stage"}
    places = [float(box.get("x", "nan").rstrip("%")) for box in owners.values()]
    assert len(places) == len(sizes)
    assert all(0 <= place <= 100 for place in places)
    assert all(after - before >= 4.58 for before, after in pairwise(places))


def test_short_early_stages_get_room_from_a_root_scale() -> None:
    early = [record(tokens, 0.1, "early", 0) for tokens in (2_500, 5_000)]
    later = [record(tokens, 0.5, "later", 1) for tokens in (500_000, 1_000_000)]
    svg = training_curve([*early, *later])
    assert words(svg, "axis-title") == ["tokens trained, on a square root scale"]
    assert [x for x, _ in drawn(svg, "line0")[0]] == pytest.approx([50, 1000 * math.sqrt(0.005)], abs=0.01)
    assert {"0", "100k", "1M"} <= set(words(svg, "tick"))
    assert words(training_curve(later), "axis-title") == ["tokens trained"]


def test_what_is_not_finite_is_left_out() -> None:
    spoiled = [dataclasses.replace(record(700, 0.5, "two", 1), loss=math.nan), record(800, math.inf, "two", 1)]
    svg = training_curve([*two_stages()[:5], *spoiled, *two_stages()[7:]])
    assert not re.search(r"\b(nan|inf)", svg)
    assert [x for x, _ in drawn(svg, "line0")[1]] == pytest.approx([800, 900, 1000])
    assert training_curve(spoiled) == training_curve([])


def test_of_a_step_that_was_done_twice_the_last_counts() -> None:
    again = [record(300, 0.3), record(400, 0.8), record(500, 0.5)]
    assert training_curve([*two_stages()[:4], *again, *two_stages()[5:]]) == training_curve(
        [*two_stages()[:3], *again[1:], *two_stages()[5:]]
    )


def test_long_histories_make_small_files_that_keep_the_end() -> None:
    svg = training_curve([record(tokens, tokens / 40_000) for tokens in range(1, 30_001)])
    assert len(svg) < 30_000
    assert drawn(svg, "line0")[0][-1] == drawn(training_curve([record(30_000, 0.75)]), "line0")[0][0]


def test_one_record_is_seen_as_a_dot() -> None:
    (path,) = [
        node for node in nodes(training_curve([record(10, 0.5)]), "path", "line0") if "h16" not in node.get("d", "")
    ]
    assert path.get("d", "").endswith("h0") and "single" in path.get("class", "")


@given(st.text(), st.text())
@settings(max_examples=60, deadline=None)
def test_any_name_makes_a_well_formed_file(stage: str, label: str) -> None:
    shown = "".join(one if one.isprintable() else " " for one in stage)
    svg = training_curve([record(10, 0.5, stage)])
    assert f"{shown} to 10 tokens" in about(svg)
    if len(shown) <= 24:
        assert words(svg, "stage") == [shown]
    assert len(words(length_curve({label: LENGTHS}), "label")) == 2


@pytest.mark.parametrize("svg", [training_curve([]), length_curve({}), length_curve({"heads": []})])
def test_nothing_is_said_where_nothing_is_known(svg: str) -> None:
    assert about(svg) in {"Nothing was recorded.", "Not measured."}
    assert words(svg, "title") == [about(svg)]
    assert not nodes(svg, "path")


@pytest.mark.parametrize("svg", [training_curve(two_stages()), length_curve({"heads": LENGTHS}), training_curve([])])
def test_files_stand_alone_in_light_and_dark(svg: str) -> None:
    assert "@media (prefers-color-scheme: dark)" in svg
    assert not re.search(r"<script|href|url\(|@import|<image|<foreignObject|<rect|background", svg)
    root = ElementTree.fromstring(svg)
    assert root.get("width") == "100%" and root.get("viewBox") is None and float(root.get("height", 0)) > 0
    named = {node.get("id"): node.text for node in root if node.get("id")}
    assert list(named) == (root.get("aria-labelledby") or "").split() == ["title", "about"] and all(named.values())


def test_length_points_bands_and_random_order() -> None:
    second = [dataclasses.replace(point, heads=Interval(0.5, 0.4, 0.7)) for point in LENGTHS]
    svg = length_curve({"seed 0": LENGTHS[::-1], "seed 1": second})
    foot, top = level(svg, "0"), level(svg, "1")

    def values(line: list[Point]) -> list[float]:
        return [(foot - y) / (foot - top) for _, y in line]

    (mean,) = drawn(svg, "line0")
    assert [x for x, _ in mean] == pytest.approx([1000 * point.tokens / 4000 for point in LENGTHS])
    assert values(mean) == pytest.approx([point.heads.mean for point in LENGTHS], abs=1e-3)
    (band,) = drawn(svg, "fill1", "band")
    assert values(band) == pytest.approx([0.7] * 5 + [0.4] * 5, abs=1e-3)
    (random,) = drawn(svg, "dashed")  # of the same lists for both seeds
    assert values(random) == pytest.approx([point.random for point in LENGTHS], abs=1e-3)
    dots = [float(dot.get("cy", "nan")) for dot in nodes(svg, "circle", "fill0")]
    assert dots == pytest.approx([y for _, y in mean])
    assert words(svg, "label") == ["seed 0", "seed 1", "random order"]
    assert "seed 0: 0.972 [0.952, 0.992] at 512 tokens (random 0.620), 0.965" in about(svg)


def test_random_orders_of_other_lists_are_drawn_too() -> None:
    other = [LengthPoint(point.tokens, 10, 2.0, point.heads, 0.1) for point in LENGTHS]
    assert len(drawn(length_curve({"a": LENGTHS, "b": other}), "dashed")) == 2
