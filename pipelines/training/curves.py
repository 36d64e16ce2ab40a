"""The curves beside a model card: how training went, and quality against the length of the prompt."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType
from typing import Final

from markupsafe import Markup

from pipelines.report.charts import short
from pipelines.training import drawing
from pipelines.training.claims import along_length
from pipelines.training.drawing import Panel, Point, Scale
from pipelines.training.findings import LengthPoint
from qrcore.training.progress import Progress

TRAINING_CURVE: Final = "training_curve.svg"
LENGTH_CURVE: Final = "length_curve.svg"

#: The accuracies of a training record by the name they are shown under. What did not occur in a stage stays at 0.
ACCURACIES: Final[Mapping[str, Callable[[Progress], float]]] = MappingProxyType(
    {
        "copying": lambda record: record.copy_accuracy,
        "document index": lambda record: record.index_accuracy,
        "taught heads": lambda record: record.head_accuracy,
        "yes or no": lambda record: record.verdict_accuracy,
    }
)

_PLACES: Final = 400  # points of a curve over the whole width: more would not be seen
_NOTHING: Final = "Nothing was recorded."
_UNMEASURED: Final = "Not measured."


@dataclass(frozen=True, slots=True)
class _Stage:
    """One stage's records by step; ``begins`` in tokens."""

    name: str
    begins: int
    records: tuple[Progress, ...]

    @property
    def last(self) -> Progress:
        return self.records[-1]

    def has(self, kind: str) -> bool:
        return any(ACCURACIES[kind](record) > 0 for record in self.records)


def training_curve(history: Sequence[Progress]) -> str:
    """An SVG file: accuracies, and below them the loss, against tokens trained, with the stages' names and borders.

    The tokens stand on a square root scale where a linear one would leave early stages no room. Records that are
    not finite are left out; of several records of one step, as after a resume, the last counts.
    """
    title = "Accuracy and loss against tokens trained"
    stages = _stages(history)
    if not stages:
        return drawing.document(title, _NOTHING, 40, [drawing.heading(24, _NOTHING)])
    tokens = _token_scale(stages)
    kinds = [kind for kind in ACCURACIES if any(stage.has(kind) for stage in stages)]
    legend, end = drawing.key(34, [(f"line{index}", _with_end(kind, stages)) for index, kind in enumerate(kinds)])
    upper = Panel(end + drawing.room_for(stage.name for stage in stages), 190, Scale(0, 1))
    lower = Panel(upper.foot + 44, 90, _loss_scale(stages))
    axis = "tokens trained, on a square root scale" if tokens.root else "tokens trained"
    words = [
        drawing.heading(14, "Accuracy, moving average, and its last value"),
        *legend,
        drawing.heading(lower.top - 14, f"Loss, moving average: {stages[-1].last.loss:.2f} at the end"),
    ]
    plot = [
        *upper.levels(),
        *lower.levels(),
        *drawing.borders([(tokens.share(stage.begins), stage.name) for stage in stages], (upper, lower)),
        drawing.stretched(
            lower.foot, [*_accuracy_lines(stages, kinds, tokens, upper), *_losses(stages, tokens, lower)]
        ),
        drawing.bottom_axis(tokens, lower.foot, axis),
    ]
    return drawing.document(title, _story(stages), lower.foot + 44, words, plot)


def length_curve(points_by_label: Mapping[str, Sequence[LengthPoint]]) -> str:
    """An SVG file: nDCG@10 of the heads against prompt tokens with its 95 % interval, and of a random order.

    Each label has a line of its own; a random order that several labels share is drawn once.
    """
    title = "Quality against the length of the prompt"
    measured = {label: sorted(points, key=lambda point: point.tokens) for label, points in points_by_label.items()}
    series = {label: points for label, points in measured.items() if points}
    if not series:
        return drawing.document(title, _UNMEASURED, 40, [drawing.heading(24, _UNMEASURED)])
    tokens = Scale(0, max(1, *(point.tokens for points in series.values() for point in points)))
    lines = [(f"line{index % drawing.COLOURS}", label) for index, label in enumerate(series)]
    legend, end = drawing.key(34, [*lines, ("dashed", "random order")])
    panel = Panel(end + 4, 220, Scale(0, 1))
    curves = _random_lines(series, tokens, panel)
    dots: list[Markup] = []
    for index, points in enumerate(series.values()):
        colour = index % drawing.COLOURS
        curves += _banded(points, tokens, panel, colour)
        dots += [drawing.dot(place, f"fill{colour}") for place in _means(points, tokens, panel)]
    plot = [
        *panel.levels(),
        drawing.stretched(panel.foot, curves),
        *dots,
        drawing.bottom_axis(tokens, panel.foot, "prompt tokens"),
    ]
    return drawing.document(
        title,
        _length_story(series),
        panel.foot + 44,
        [drawing.heading(14, "nDCG@10 with 95 % interval"), *legend],
        plot,
    )


def accuracies_at(record: Progress) -> str:
    """The accuracies of a record that are known, in words."""
    return ", ".join(_with_value(kind, record) for kind, of in ACCURACIES.items() if of(record) > 0)


def _stages(history: Sequence[Progress]) -> list[_Stage]:
    by_step = {record.steps: record for record in history if _is_finite(record)}
    ordered = [by_step[step] for step in sorted(by_step)]
    stages: list[_Stage] = []
    for (_, name), records in groupby(ordered, key=lambda record: (record.stage_number, record.stage)):
        stages.append(_Stage(name, stages[-1].last.tokens if stages else 0, tuple(records)))
    return stages


def _is_finite(record: Progress) -> bool:
    return all(math.isfinite(value) for value in (record.loss, *(of(record) for of in ACCURACIES.values())))


def _token_scale(stages: Sequence[_Stage]) -> Scale:
    """Linear, unless that would leave a quarter of the stages or more less than a hundredth of the width."""
    high = max(1, stages[-1].last.tokens)
    narrow = [stage for stage in stages if stage.last.tokens - stage.begins < high / 100]
    return Scale(0, high, root=4 * len(narrow) >= len(stages))


def _loss_scale(stages: Sequence[_Stage]) -> Scale:
    losses = [record.loss for stage in stages for record in stage.records]
    return Scale(min(0, *losses), max(1e-6, *losses))


def _accuracy_lines(stages: Sequence[_Stage], kinds: Sequence[str], tokens: Scale, panel: Panel) -> list[Markup]:
    # The averages begin anew with each stage, and so do the lines.
    return [
        drawing.curve([(x, panel.y(ACCURACIES[kind](record))) for x, record in _places(stage, tokens)], f"line{index}")
        for index, kind in enumerate(kinds)
        for stage in stages
        if stage.has(kind)
    ]


def _losses(stages: Sequence[_Stage], tokens: Scale, panel: Panel) -> list[Markup]:
    return [
        drawing.curve([(x, panel.y(record.loss)) for x, record in _places(stage, tokens)], "plain") for stage in stages
    ]


def _places(stage: _Stage, tokens: Scale) -> list[tuple[float, Progress]]:
    """The last record of each place that can be told apart on a screen."""
    last = {int(tokens.share(record.tokens) * _PLACES): record for record in stage.records}
    return [(tokens.share(record.tokens), record) for record in last.values()]


def _with_end(kind: str, stages: Sequence[_Stage]) -> str:
    last = next(stage.last for stage in reversed(stages) if stage.has(kind))
    return _with_value(kind, last)


def _with_value(kind: str, record: Progress) -> str:
    return f"{kind} {ACCURACIES[kind](record):.2f}"


def _story(stages: Sequence[_Stage]) -> str:
    told = []
    for stage in stages:
        found = [_with_value(kind, stage.last) for kind in ACCURACIES if stage.has(kind)]
        told += [
            f"{stage.name} to {short(stage.last.tokens)} tokens: {', '.join([*found, f'loss {stage.last.loss:.2f}'])}"
        ]
    return f"At the end of each stage, moving averages. {'; '.join(told)}."


def _random_lines(series: Mapping[str, Sequence[LengthPoint]], tokens: Scale, panel: Panel) -> list[Markup]:
    lines = dict.fromkeys(
        tuple((tokens.share(point.tokens), panel.y(point.random)) for point in points) for points in series.values()
    )
    return [drawing.curve(line, "dashed") for line in lines]


def _banded(points: Sequence[LengthPoint], tokens: Scale, panel: Panel, colour: int) -> list[Markup]:
    upper: list[Point] = [(tokens.share(point.tokens), panel.y(point.heads.high)) for point in points]
    lower: list[Point] = [(tokens.share(point.tokens), panel.y(point.heads.low)) for point in points]
    return [
        drawing.band(upper, lower, f"fill{colour}"),
        drawing.curve(_means(points, tokens, panel), f"line{colour}"),
    ]


def _means(points: Sequence[LengthPoint], tokens: Scale, panel: Panel) -> list[Point]:
    return [(tokens.share(point.tokens), panel.y(point.heads.mean)) for point in points]


def _length_story(series: Mapping[str, Sequence[LengthPoint]]) -> str:
    told = "; ".join(f"{label}: {along_length(points)}" for label, points in series.items())
    return f"nDCG@10 with 95 % interval. {told}."
