"""Charts as inline SVG: vector, scriptless, coloured by the page's CSS custom properties.

Horizontal positions are percentages and vertical ones pixels: a chart takes the width it is given while its text keeps
its size, on a phone as on a desk. Labels go through `Markup.format`, which escapes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

MAX_LANE_LABELS = 16
MAX_HEAT_CELLS = 40
MAX_HEAT_NUMBERS = 20


@dataclass(frozen=True, slots=True)
class Bar:
    """One horizontal bar: `value` gives its length, `shown` stands at its end."""

    label: str
    value: float
    shown: str


@dataclass(frozen=True, slots=True)
class Span:
    """One stretch of work in a lane of a timeline, in seconds since the timeline's zero."""

    lane: str
    start: float
    end: float
    tip: str
    failed: bool


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) within [low, high], at most about `about` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def short(value: float) -> str:
    """A number in few characters: 950, 1,200, 12k, 1.5M."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if suffix == 'k' else size):.4g}{suffix}"
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"


def bars(title: str, items: Sequence[Bar], axis: str) -> Markup:
    """Horizontal bars from zero, one per item; `axis` names the quantity and its unit."""
    marks = ticks(0, max((item.value for item in items), default=0) or 1, 4)
    high = max([*marks, *(item.value for item in items)])
    bottom = 30 * len(items)
    parts = [x_axis([(100 * mark / high, short(mark)) for mark in marks], bottom, axis)]
    for index, item in enumerate(items):
        y = 30 * index
        parts += [text_node("0", y + 19, item.label, "label", "end", dx=-8)]
        parts += [rect(0, y + 5, 100 * item.value / high, 20, "bar", f"{item.label}: {item.shown}")]
        parts += [text_node(percent(100 * item.value / high), y + 19, item.shown, "value", "start", dx=6)]
    said = "; ".join(f"{item.label} {item.shown}" for item in items)
    return svg(title, f"Horizontal bars of {axis}: {said}.", bottom + 44, parts, left=62, right=72)


def histogram(
    title: str,
    edges: Sequence[float],
    counts: Sequence[int],
    marks: dict[str, float],
    axis: str,
    counted: str = "queries",
) -> Markup:
    """Bars of `counts` over their bins, with a labelled line per mark (a percentile); `axis` names the x quantity,
    `counted` what is counted."""
    low, high = edges[0], edges[-1]
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    top, height = 32, 150
    levels = [level for level in ticks(0, max(counts), 4) if level == int(level)]
    tallest = max([*levels, *counts, 1])

    def x_of(value: float) -> float:
        return 100 * (value - low) / (high - low)

    parts = [y_level(top + height * (1 - level / tallest), short(level)) for level in levels]
    whole = all(edge % 1 == 0.5 for edge in edges)  # each bar is one whole number
    shown = [value for value in ticks(low, high) if not whole or value == int(value)]
    for (start, end), count in zip(pairwise(edges), counts, strict=True):
        size = height * count / tallest
        bin_name = short(start + 0.5) if whole else f"{short(start)} to {short(end)}"
        tip = f"{bin_name}: {count:,} {counted}"
        parts += [rect(x_of(start), top + height - size, x_of(end) - x_of(start), size, "bar", tip)] if count else []
    parts += [x_axis([(x_of(value), short(value)) for value in shown], top + height, axis)]
    for row, (name, value) in enumerate(marks.items()):
        parts += _mark(x_of(value), 10 + 13 * row, top + height, f"{name} {short(value)}")
    parts += [y_title(top + height / 2, counted)]
    said = ", ".join(f"{name} {short(value)}" for name, value in marks.items())
    ends = (low + 0.5, high - 0.5) if whole else (low, high)
    about = f"Histogram of {axis} over {sum(counts):,} {counted} from {short(ends[0])} to {short(ends[1])}; {said}."
    return svg(title, about, top + height + 44, parts, left=58, right=18)


def timeline(title: str, spans: Sequence[Span]) -> Markup:
    """One lane per actor, one bar per unit, over the seconds since the first unit started."""
    lanes = {lane: index for index, lane in enumerate(dict.fromkeys(span.lane for span in spans))}
    labelled = len(lanes) <= MAX_LANE_LABELS
    pitch, offset, thick = (40, 18, 18) if labelled else (9, 1, 7)
    high = max((span.end for span in spans), default=0) or 1.0
    bottom = pitch * len(lanes) + 6
    parts, size, unit = _clock_axis(high, bottom)
    parts += [text_node("0", pitch * index + 12, lane, "label", "start") for lane, index in lanes.items() if labelled]
    for span in spans:
        kind = "bar failed" if span.failed else "bar"
        y = pitch * lanes[span.lane] + offset
        parts += [rect(100 * span.start / high, y, 100 * (span.end - span.start) / high, thick, kind, span.tip)]
    about = f"Timeline of {len(spans):,} units on {len(lanes):,} actors over {high / size:.3g} {unit}."
    return svg(title, about, bottom + 44, parts, left=8, right=18)


def over_time(title: str, rates: Sequence[float], seconds: float, mean: float, counted: str) -> Markup:
    """`rates` of equal stretches of `seconds` as columns, with their `mean` as a line; `counted` names the quantity."""
    top, height = 22, 150
    levels = ticks(0, max([*rates, mean]), 4)
    tallest = max([*levels, *rates, mean]) or 1.0
    parts, size, unit = _clock_axis(seconds, top + height)
    parts += [y_level(top + height * (1 - level / tallest), short(level)) for level in levels]
    width, stretch = 100 / len(rates), seconds / len(rates) / size
    for index, rate in enumerate(rates):
        tall = height * rate / tallest
        tip = f"{short(index * stretch)} to {short((index + 1) * stretch)} {unit}: {short(round(rate, 1))} {counted}"
        parts += [rect(width * index, top + height - tall, width, tall, "bar flat", tip)] if rate else []
    line = Markup('<line class="mark" x1="0" x2="100%" y1="{0}" y2="{0}"/>')
    parts += [line.format(number(top + height * (1 - mean / tallest)))]
    parts += [text_node("0", 10, f"mean {short(round(mean, 1))} (dashed)", "value", "start")]
    parts += [y_title(top + height / 2, counted)]
    about = (
        f"Columns of {counted} over {seconds / size:.3g} {unit}: from {short(round(min(rates), 1))} to "
        f"{short(round(max(rates), 1))}, mean {short(round(mean, 1))}."
    )
    return svg(title, about, top + height + 44, parts, left=58, right=18)


def _clock_axis(high: float, y: float) -> tuple[list[Markup], float, str]:
    """The axis of the seconds from 0 to ``high`` since the first unit started, with its unit's size and name."""
    size, unit = next(
        ((size, unit) for size, unit in ((3600.0, "hours"), (60.0, "minutes")) if high >= 2 * size), (1.0, "seconds")
    )
    marks = [(100 * mark * size / high, short(mark)) for mark in ticks(0, high / size, 5)]
    return [x_axis(marks, y, f"{unit} since the first unit started")], size, unit


def heat_map(title: str, counts: Sequence[Sequence[int]]) -> Markup:
    """Where the candidates of each input rank (row) went (column), as shares of the row; deep lists in rank groups."""
    group = math.ceil(len(counts) / MAX_HEAT_CELLS)
    grid, names = _grouped(counts, group)
    shares = [[value / sum(row) if sum(row) else 0.0 for value in row] for row in grid]
    strongest = max(max(row) for row in shares) or 1.0
    depth, top = len(grid), 26
    pitch, width = max(10.0, 320 / depth), 100 / depth
    parts: list[Markup] = []
    for row, column in ((row, column) for row in range(depth) for column in range(depth)):
        share = shares[row][column]
        tip = f"input rank {names[row]} to new rank {names[column]}: {grid[row][column]:,} ({share:.0%})"
        x, y, kind = width * column, top + pitch * row, "cell kept" if row == column else "cell"
        parts += [rect(x, y, width, pitch, kind, tip, share / strongest)] if share or row == column else []
        if share and depth <= MAX_HEAT_NUMBERS:
            crowd = "in dense" if depth > 10 else "in"
            parts += [text_node(percent(x + width / 2), y + pitch / 2 + 4, f"{100 * share:.0f}", crowd)]
    every = math.ceil(depth / 10)
    shown = [index for index in range(depth) if index == 0 or (index + 1) % every == 0]
    parts += [text_node(percent(width * (index + 0.5)), top - 6, names[index], "tick") for index in shown]
    parts += [text_node("0", top + pitch * (index + 0.5) + 4, names[index], "tick", "end", dx=-7) for index in shown]
    bottom = top + pitch * depth
    parts += [y_title((top + bottom) / 2, "input rank"), text_node("50%", 8, "new rank", "axis-title")]
    parts += _scale(strongest, bottom + 14)
    about = (
        f"Heat map of input rank against new rank, {depth} by {depth}; on average {_kept(shares):.0%} keep their rank."
    )
    return svg(title, about, bottom + 62, parts, left=58, right=10)


def _grouped(counts: Sequence[Sequence[int]], group: int) -> tuple[list[list[int]], list[str]]:
    starts = range(0, len(counts), group)
    rows = [[sum(column) for column in zip(*counts[start : start + group], strict=True)] for start in starts]
    grid = [[sum(row[start : start + group]) for start in starts] for row in rows]
    ends = [min(start + group, len(counts)) for start in starts]
    return grid, [
        str(end) if group == 1 else f"{start + 1}\N{EN DASH}{end}" for start, end in zip(starts, ends, strict=True)
    ]


def _kept(shares: Sequence[Sequence[float]]) -> float:
    return sum(row[index] for index, row in enumerate(shares)) / len(shares)


def _scale(strongest: float, y: float) -> list[Markup]:
    levels = [step / 5 for step in range(1, 6)]
    parts = [
        rect(12 * index, y, 12, 10, "cell", f"{level * strongest:.0%}", level) for index, level in enumerate(levels)
    ]
    parts += [
        text_node("0", y + 24, "0 %", "tick", "start"),
        text_node("60%", y + 24, f"{100 * strongest:.0f} %", "tick", "end"),
    ]
    return [*parts, text_node("0", y + 42, "share of the candidates at the input rank", "axis-title", "start")]


def svg(title: str, about: str, height: float, parts: Iterable[Markup], left: int, right: int) -> Markup:
    frame = Markup(
        '<svg class="chart" role="img" aria-label="{}. {}" height="{}"'
        ' style="margin-left:{}px;width:calc(100% - {}px)">'
        "<title>{}</title><desc>{}</desc>{}</svg>"
    )
    return frame.format(title, about, number(height), left, left + right, title, about, Markup("").join(parts))


def x_axis(marks: Iterable[tuple[float, str]], y: float, name: str) -> Markup:
    parts = [Markup('<line class="axis" x1="0" x2="100%" y1="{0}" y2="{0}"/>').format(number(y))]
    for x, label in marks:
        parts += [
            Markup('<line class="axis" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(
                percent(x), number(y), number(y + 4)
            )
        ]
        parts += [text_node(percent(x), y + 17, label, "tick")]
    return Markup("").join([*parts, text_node("50%", y + 36, name, "axis-title")])


def y_level(y: float, label: str) -> Markup:
    line = Markup('<line class="grid" x1="0" x2="100%" y1="{0}" y2="{0}"/>').format(number(y))
    return line + text_node("0", y + 4, label, "tick", "end", dx=-7)


def y_title(middle: float, name: str) -> Markup:
    text = '<text class="axis-title" text-anchor="middle" transform="translate(-44 {}) rotate(-90)">{}</text>'
    return Markup(text).format(number(middle), name)


def _mark(x: float, y: float, bottom: float, label: str) -> list[Markup]:
    line = Markup('<line class="mark" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>')
    anchor, dx = ("end", -4) if x > 60 else ("start", 4)
    return [
        line.format(percent(x), number(y - 8), number(bottom)),
        text_node(percent(x), y, label, "value", anchor, dx=dx),
    ]


def rect(x: float, y: float, width: float, height: float, kind: str, tip: str, opacity: float = 1.0) -> Markup:
    frame = Markup('<rect x="{}" y="{}" width="{}" height="{}" class="{}"{}><title>{}</title></rect>')
    faded = Markup(' fill-opacity="{}"').format(number(opacity)) if opacity < 1 else ""
    return frame.format(percent(x), number(y), percent(width), number(height), kind, faded, tip)


def text_node(x: str, y: float, text: str, kind: str, anchor: str = "middle", dx: int = 0) -> Markup:
    shift = Markup(' dx="{}"').format(dx) if dx else ""
    node = Markup('<text x="{}" y="{}" class="{}" text-anchor="{}"{}>{}</text>')
    return node.format(x, number(y), kind, anchor, shift, text)


def percent(value: float) -> str:
    return f"{number(value)}%"


def number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
