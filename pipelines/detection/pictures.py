"""Pictures of heads: which ones retrieve, how clear the choice is, and what depth and number cost.

Inline SVG in the frame of :mod:`pipelines.report.charts`: horizontal positions in per cent, vertical ones in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from pipelines.report.charts import number, percent, rect, short, svg, text_node, ticks, x_axis, y_level, y_title

#: Heads on the sorted curve, at most: those behind are as like one another as the last ones shown.
MOST_HEADS: Final = 96
_PLOT: Final = 190
_TALLEST_ROW: Final = 22.0
_MAP_HEIGHT: Final = 520.0


@dataclass(frozen=True, slots=True)
class Dot:
    """A value with its interval; ``marked`` ones are the chosen."""

    label: str
    value: float
    low: float
    high: float
    marked: bool


def head_map(scores: Sequence[Sequence[float]], chosen: Collection[tuple[int, int]]) -> Markup:
    """Scores ``[layer][head]`` as a grid, layer 0 at the foot; chosen heads are outlined. Below 0 is empty."""
    layers, heads = len(scores), len(scores[0])
    strongest = max(max(row) for row in scores)
    pitch, width, top = min(_TALLEST_ROW, _MAP_HEIGHT / layers), 100 / heads, 8.0
    parts: list[Markup] = []
    for layer, row in enumerate(scores):
        y = top + pitch * (layers - 1 - layer)
        for head, score in enumerate(row):
            # Between empty and strongest, small differences are the ones to see.
            share = math.sqrt(max(0.0, score) / strongest) if strongest > 0 else 0.0
            kind = "cell picked" if (layer, head) in chosen else "cell"
            tip = f"{layer}-{head}: {score:.4g}" + ", chosen" * ((layer, head) in chosen)
            parts.append(rect(width * head, y, width, pitch, kind, tip, min(share, 0.999)))
    # Outlines last: a neighbour drawn later would cover them.
    parts.sort(key=lambda part: "picked" in part)
    bottom = top + pitch * layers
    shown = [layer for layer in range(layers) if not layer % _every(layers, bottom / 14)]
    parts += [
        text_node("0", top + pitch * (layers - 0.5 - layer) + 4, str(layer), "tick", "end", dx=-7) for layer in shown
    ]
    marks = [(width * (head + 0.5), str(head)) for head in range(heads) if not head % _every(heads, 9)]
    parts += [x_axis(marks, bottom + 2, "head"), y_title((top + bottom) / 2, "layer")]
    about = (
        f"Grid of {layers} layers by {heads} heads, darker for higher scores, the highest {short(strongest)}; "
        f"chosen: {', '.join(f'{layer}-{head}' for layer, head in sorted(chosen))}."
    )
    return svg("Scores by layer and head", about, bottom + 46, parts, left=46, right=10)


def score_curve(dots: Sequence[Dot]) -> Markup:
    """Scores of heads, best first, with intervals and the cut between chosen ones and the rest."""
    shown = dots[:MOST_HEADS]
    parts, x_of, bottom = _dots(shown, [index for index in range(len(shown))], "score")
    chosen = [index for index, dot in enumerate(shown) if dot.marked]
    if chosen and len(chosen) < len(shown):
        cut = percent(x_of(max(chosen) + 0.5))
        parts.append(Markup('<line class="mark" x1="{0}" x2="{0}" y1="8" y2="{1}"/>').format(cut, number(bottom)))
        parts.append(text_node(cut, 6, f"{len(chosen)} chosen", "value", "start", dx=4))
    marks = [(x_of(index), str(index + 1)) for index in range(len(shown)) if not index % _every(len(shown), 8)]
    parts.append(x_axis(marks, bottom, "head, best first"))
    left_out = f"; {len(dots) - len(shown)} more are not shown" if len(dots) > len(shown) else ""
    best, last = shown[0], shown[-1]
    about = (
        f"{len(shown)} heads by falling score, from {short(best.value)} ({best.label}) to {short(last.value)} "
        f"({last.label}), with 95 % intervals{left_out}."
    )
    return svg("Scores of heads, best first", about, bottom + 44, parts, left=58, right=18)


def trade_off(title: str, axis: str, dots: Sequence[tuple[float, Dot]]) -> Markup:
    """nDCG@10 with its interval against a price: layers that are run, or heads that are read."""
    prices = [price for price, _ in dots]
    parts, x_of, bottom = _dots([dot for _, dot in dots], prices, "nDCG@10")
    parts.append(x_axis([(x_of(price), short(price)) for price in sorted(set(prices))], bottom, axis))
    said = "; ".join(f"{short(price)}: {dot.value:.3f} ({dot.label})" for price, dot in dots)
    return svg(title, f"nDCG@10 against {axis}: {said}.", bottom + 44, parts, left=58, right=30)


def masked_sets(dots: Sequence[Dot], controls: Sequence[Dot], axis: str) -> Markup:
    """Accuracy of named sets (``dots``) and of control sets, the highest first, with intervals."""
    ordered = [*dots, *sorted(controls, key=lambda dot: -dot.value)]
    # A gap keeps the control sets apart from what they are compared with.
    places = [*range(len(dots)), *(len(dots) + 1 + number for number in range(len(controls)))]
    parts, x_of, bottom = _dots(ordered, [float(place) for place in places], axis)
    marks = [(x_of(number), str(number + 1)) for number in range(len(dots))]
    middle = len(dots) + 1 + (len(controls) - 1) / 2
    marks.append((x_of(middle), f"{len(controls)} control sets"))
    named = ", ".join(f"{number + 1} {dot.label}" for number, dot in enumerate(dots))
    parts.append(x_axis(marks, bottom, named))
    said = "; ".join(f"{dot.label}: {dot.value:.3f}" for dot in dots)
    low, high = min(dot.value for dot in controls), max(dot.value for dot in controls)
    about = f"{axis}: {said}; {len(controls)} control sets from {low:.3f} to {high:.3f}."
    return svg(f"{axis} with heads held back", about, bottom + 44, parts, left=58, right=18)


def _dots(dots: Sequence[Dot], places: Sequence[float], axis: str) -> tuple[list[Markup], _Place, float]:
    low, high = min(dot.low for dot in dots), max(dot.high for dot in dots)
    levels = ticks(low, high, 5)
    low, high = min(low, levels[0]), max(high, levels[-1])
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    top = 16.0
    x_of = _Place(min(places), max(places))

    def y_of(value: float) -> float:
        return top + _PLOT * (1 - (value - low) / (high - low))

    parts = [y_level(y_of(level), short(level)) for level in levels]
    for place, dot in zip(places, dots, strict=True):
        x, kind = percent(x_of(place)), "picked" if dot.marked else "plain"
        tip = f"{dot.label}: {dot.value:.4g} [{dot.low:.4g}, {dot.high:.4g}]"
        line = Markup('<line class="whisker {}" x1="{}" x2="{}" y1="{}" y2="{}"/>')
        circle = Markup('<circle class="dot-{}" cx="{}" cy="{}" r="{}"><title>{}</title></circle>')
        parts.append(line.format(kind, x, x, number(y_of(dot.low)), number(y_of(dot.high))))
        parts.append(circle.format(kind, x, number(y_of(dot.value)), "4" if dot.marked else "3", tip))
    parts.append(y_title(top + _PLOT / 2, axis))
    return parts, x_of, top + _PLOT


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a value stands between the ends of the horizontal axis, in per cent; the ends keep off the borders."""

    low: float
    high: float

    def __call__(self, value: float) -> float:
        if self.high == self.low:
            return 50.0
        return 2 + 96 * (value - self.low) / (self.high - self.low)


def _every(count: int, about: float) -> int:
    """The smallest of 1, 2, 4, 5, 8, 10, 16, 20, 32, 40, 64 steps that leaves at most ``about`` of ``count`` labels."""
    steps = (1, 2, 4, 5, 8, 10, 16, 20, 32, 40, 64)
    return next((step for step in steps if math.ceil(count / step) <= about), steps[-1])
