"""Line charts as SVG files that an ``<img>`` element shows, in a light and in a dark page alike.

Such a picture gets no style from its page and may ask for nothing, so it brings its own. It takes the width it is
given while its text keeps its size: horizontal positions are percentages of the plot, vertical ones pixels, and curves
are drawn in a box of their own that is stretched to the plot.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from pipelines.report.charts import number, percent, short, text_node, ticks, x_axis, y_level

COLOURS: Final = 4
ROW: Final = 18  # height of a line of the key

_BOX: Final = 1000  # width of the stretched box
_UPRIGHT_GAP: Final = 4.6  # per cent of the plot between two upright names: a line's height on a telephone
_NAME_LENGTH: Final = 24
_STYLE: Final = """
svg { font: 11px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", sans-serif; }
text { fill: #1a1f26; } .tick, .axis-title, .stage { fill: #59636f; }
.title { font-size: 12px; font-weight: 600; } .label { font-size: 12px; }
.axis { stroke: #59636f; } .grid { stroke: #dfe3e8; } .border { stroke: #b4bdc7; stroke-dasharray: 2 3; }
.curve { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.single { stroke-width: 6; }
.curve, .band { vector-effect: non-scaling-stroke; } .band { fill-opacity: .15; stroke: none; }
.plain { stroke: #59636f; } .dashed { stroke: #59636f; stroke-dasharray: 5 5; }
.line0 { stroke: #2f62c9; } .line1 { stroke: #c2570c; } .line2 { stroke: #18794a; } .line3 { stroke: #9036b0; }
.fill0 { fill: #2f62c9; } .fill1 { fill: #c2570c; } .fill2 { fill: #18794a; } .fill3 { fill: #9036b0; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6e9ed; } .tick, .axis-title, .stage { fill: #9ba6b2; }
  .axis, .plain, .dashed { stroke: #9ba6b2; } .grid { stroke: #2f363e; } .border { stroke: #56616d; }
  .line0 { stroke: #7ea8ff; } .line1 { stroke: #f2a35e; } .line2 { stroke: #5fcf95; } .line3 { stroke: #d48cf0; }
  .fill0 { fill: #7ea8ff; } .fill1 { fill: #f2a35e; } .fill2 { fill: #5fcf95; } .fill3 { fill: #d48cf0; }
}
"""

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Scale:
    """Where a value stands between the ends of an axis; a ``root`` scale, from 0 on, gives small values more room."""

    low: float
    high: float
    root: bool = False

    def share(self, value: float) -> float:
        """From 0 at `low` to 1 at `high`; values beyond stand at the ends."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return math.sqrt(share) if self.root else share

    def marks(self, about: int = 5) -> list[float]:
        """Round values to be written at the axis."""
        return self._root_marks(0.6 / about) if self.root else ticks(self.low, self.high, about)

    def _root_marks(self, apart: float) -> list[float]:
        highest = math.ceil(math.log10(self.high))
        marks = [0.0]
        for value in (float(step * 10**power) for power in range(highest - 5, highest + 1) for step in (1, 2, 4)):
            if value <= self.high and self.share(value) - self.share(marks[-1]) >= apart:
                marks.append(value)
        return marks


@dataclass(frozen=True, slots=True)
class Panel:
    """A part of the plot's height, in pixels, for one quantity."""

    top: float
    height: float
    scale: Scale

    @property
    def foot(self) -> float:
        """Where the scale's lowest value stands."""
        return self.top + self.height

    def y(self, value: float) -> float:
        """Pixels from the picture's top to where `value` stands."""
        return self.foot - self.height * self.scale.share(value)

    def levels(self, about: int = 5) -> list[Markup]:
        """Light horizontal lines at round values."""
        return [y_level(self.y(mark), short(mark)) for mark in self.scale.marks(about)]


def document(title: str, about: str, height: float, words: Iterable[Markup], plot: Iterable[Markup] = ()) -> str:
    """The file: `words` over the whole width, `plot` within margins for the numbers at its axes.

    `title` and `about` are what is read to those who do not see it.
    """
    frame = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" width="100%" height="{}" role="img" aria-labelledby="title about">\n'
        '<title id="title">{}</title>\n<desc id="about">{}</desc>\n<style>{}</style>\n{}\n'
        # Browsers differ in what they take from a style here, so the margins are shares of the width, moved by pixels.
        '<g transform="translate(26 0)"><svg x="1.5%" width="86%" height="100%" overflow="visible">\n{}\n</svg></g>\n'
        "</svg>\n"
    )
    drawn = (Markup("\n").join(parts) for parts in (words, plot))
    return str(frame.format(number(height), printable(title), printable(about), Markup(_STYLE), *drawn))


def bottom_axis(scale: Scale, y: float, name: str) -> Markup:
    """The horizontal axis with its values and name."""
    return x_axis([(100 * scale.share(mark), short(mark)) for mark in scale.marks()], y, name)


def heading(y: float, text: str) -> Markup:
    """What a panel shows, at the picture's left edge."""
    return text_node("0", y, printable(text), "title", "start")


def key(top: float, entries: Sequence[tuple[str, str]]) -> tuple[list[Markup], float]:
    """Pairs of a line's class and its name in one or two columns, and where the key ends."""
    columns = 2 if max((len(name) for _, name in entries), default=0) <= 20 else 1
    parts = []
    for index, (kind, name) in enumerate(entries):
        x, y = percent(50 * (index % columns)), top + ROW * (index // columns)
        stroke = Markup('<svg x="{}" y="{}" overflow="visible"><path class="curve {}" d="M1 0h16"/></svg>')
        parts += [stroke.format(x, number(y), kind)]
        parts += [text_node(x, y + 4, clipped(name, 2 * _NAME_LENGTH), "label", "start", dx=23)]
    return parts, top + ROW * math.ceil(len(entries) / columns)


def stretched(height: float, curves: Iterable[Markup]) -> Markup:
    """The box that curves are drawn in, as wide as the plot."""
    box = '<svg width="100%" height="{0}" viewBox="0 0 {1} {0}" preserveAspectRatio="none" overflow="visible">{2}</svg>'
    return Markup(box).format(number(height), _BOX, Markup("\n").join(curves))


def curve(points: Sequence[Point], kind: str) -> Markup:
    """A line through points: shares of the width, and pixels from the top. One point alone is a dot."""
    kind, end = (f"{kind} single", "h0") if len(points) == 1 else (kind, "")
    return Markup('<path class="curve {}" d="{}{}"/>').format(kind, _through(points), end)


def band(upper: Sequence[Point], lower: Sequence[Point], kind: str) -> Markup:
    """The area between two lines over the same places."""
    return Markup('<path class="band {}" d="{}Z"/>').format(kind, _through([*upper, *reversed(lower)]))


def dot(point: Point, kind: str) -> Markup:
    """A round mark; outside the stretched box, which would make it an ellipse."""
    x, y = point
    return Markup('<circle class="{}" cx="{}" cy="{}" r="3.5"/>').format(kind, percent(100 * x), number(y))


def borders(named: Sequence[tuple[float, str]], panels: Sequence[Panel]) -> list[Markup]:
    """Light lines at shares of the width, each with its name upright above it, bent where names need more room."""
    every = max(1, math.ceil(len(named) * _UPRIGHT_GAP / 100))
    places = _apart([100 * share for share, _ in named[::every]])
    top = panels[0].top
    parts = []
    for index, (share, name) in enumerate(named):
        parts += [_border(100 * share, 100 * share, panel.top, panel.foot) for panel in panels]
        if index % every == 0:
            place = places[index // every]
            parts += [_border(place, 100 * share, top - 14, top), _upright(place, top - 18, clipped(name))]
    return parts


def room_for(names: Iterable[str]) -> float:
    """Height in pixels of the upright names above :func:`borders` and of the bends below them."""
    return 22 + 5.8 * max((len(clipped(name)) for name in names), default=0)


def clipped(name: str, length: int = _NAME_LENGTH) -> str:
    """A name that fits; its beginning and its end tell names apart."""
    name = printable(name)
    return name if len(name) <= length else f"{name[: length // 2]}…{name[-(length - length // 2 - 1) :]}"


def printable(text: str) -> str:
    """Without the characters that XML forbids."""
    return "".join(one if one.isprintable() else " " for one in text)


def _border(x: float, end: float, top: float, foot: float) -> Markup:
    line = Markup('<line class="border" x1="{}" x2="{}" y1="{}" y2="{}"/>')
    return line.format(percent(x), percent(end), number(top), number(foot))


def _upright(x: float, y: float, name: str) -> Markup:
    text = '<svg x="{}" y="{}" overflow="visible"><text class="stage" transform="rotate(-90)" y="4">{}</text></svg>'
    return Markup(text).format(percent(x), number(y), name)


def _through(points: Iterable[Point]) -> str:
    return "M" + "L".join(f"{number(_BOX * x)} {number(y)}" for x, y in points)


def _apart(wanted: Sequence[float]) -> list[float]:
    """Places from 0 to 100 near the wanted ones, in their order, no two nearer than names need."""
    places: list[float] = []
    for value in wanted:
        places.append(max(value, places[-1] + _UPRIGHT_GAP) if places else value)
    for after, index in enumerate(reversed(range(len(places)))):
        places[index] = min(places[index], 100 - _UPRIGHT_GAP * after)
    return places
