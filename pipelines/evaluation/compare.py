"""Two runs side by side: ``compare.json`` and ``compare.html``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, Final

from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, Field

from pipelines.evaluation.evaluate import EvaluateSettings, Evaluation, Measured, evaluation_of, measure_all
from pipelines.labels import Qrels
from pipelines.ranges import read_rows
from pipelines.report import charts
from pipelines.report.html import page_environment
from pipelines.report.model import RankedDoc
from pipelines.storage import Storage, StorageOptions, absolute, join
from qrcore.errors import IncompleteRunError, StorageError

_LISTED: Final = 10
_BINS: Final = 20


class ComparedQuery(BaseModel):
    """One query on which the runs differ."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    query_id: str
    query: str | None = Field(description="its text, where the run's input can still be read")
    a: float
    b: float
    first: tuple[RankedDoc, ...]
    second: tuple[RankedDoc, ...]

    @property
    def rows(self) -> list[tuple[int, RankedDoc | None, RankedDoc | None]]:
        """Both lists line by line."""
        return [(rank, *pair) for rank, pair in enumerate(zip_longest(self.first, self.second), start=1)]


class ComparisonReport(BaseModel):
    """Everything that ``compare.json`` says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    evaluation: Evaluation
    measure: str = Field(description="the measure by which queries are compared")
    differences: dict[str, float] = Field(description="a minus b by query")
    best_for_a: tuple[ComparedQuery, ...]
    best_for_b: tuple[ComparedQuery, ...]


def compare(settings: EvaluateSettings, examples: int) -> ComparisonReport:
    """Compare two runs on the first of the measures, query by query; put the record and the page.

    Raises errors of :mod:`qrcore.errors`.
    """
    qrels, measured = measure_all(settings)
    report = _report(settings, qrels, measured, examples)
    storage, folder = Storage(settings.output, settings.storage), absolute(settings.output)
    storage.replace(join(folder, "compare.json"), report.model_dump_json(indent=1).encode())
    storage.replace(join(folder, "compare.html"), render(report).encode())
    return report


def _report(settings: EvaluateSettings, qrels: Qrels, measured: Sequence[Measured], examples: int) -> ComparisonReport:
    a, b = measured
    name = next(iter(a.values))
    differences = {query_id: a.values[name][query_id] - b.values[name][query_id] for query_id in qrels}
    falling = sorted(differences, key=lambda query_id: (-differences[query_id], query_id))
    for_a = [query_id for query_id in falling if differences[query_id] > 0][:examples]
    for_b = [query_id for query_id in reversed(falling) if differences[query_id] < 0][:examples]

    def compared(query_id: str) -> ComparedQuery:
        return ComparedQuery(
            query_id=query_id,
            query=_text(query_id, measured, settings.storage),
            a=a.values[name][query_id],
            b=b.values[name][query_id],
            first=_places(a, qrels, query_id),
            second=_places(b, qrels, query_id),
        )

    return ComparisonReport(
        evaluation=evaluation_of(settings, qrels, measured),
        measure=name,
        differences=differences,
        best_for_a=tuple(map(compared, for_a)),
        best_for_b=tuple(map(compared, for_b)),
    )


def _places(one: Measured, qrels: Qrels, query_id: str) -> tuple[RankedDoc, ...]:
    judged = qrels[query_id]
    listed = one.reading.rankings.get(query_id, ())[:_LISTED]
    return tuple(
        RankedDoc(doc_id=doc_id, relevant=judged[doc_id] > 0 if doc_id in judged else None) for doc_id in listed
    )


def _text(query_id: str, measured: Sequence[Measured], options: StorageOptions) -> str | None:
    for one in measured:
        if (source := one.reading.sources.get(query_id)) is not None:
            uri, row = source
            try:
                file = Storage(uri, options).info(uri)
                text: str = read_rows(file, row, row + 1, ["query"], options)["query"][0].as_py()
                return text
            except (StorageError, IncompleteRunError, LookupError):
                continue  # the input of an old run may be gone; its ranking still counts
    return None


def render(report: ComparisonReport) -> str:
    """The page: HTML with inline CSS and SVG, no script, no request; every text escaped."""
    a, b = report.evaluation.runs
    return (
        page_environment()
        .get_template("compare.html.j2")
        .render(report=report, a=a, b=b, chart=_chart(report), pairs=_pairs(report))
    )


def _pairs(report: ComparisonReport) -> list[dict[str, Any]]:
    of_a, of_b = ({value.measure: value for value in run.values} for run in report.evaluation.runs)
    return [{"a": of_a[one.measure], "b": of_b[one.measure], "test": one} for one in report.evaluation.comparisons]


def _chart(report: ComparisonReport) -> Markup | None:
    """How often the runs differ by how much."""
    values = sorted(report.differences.values())
    if not values or values[0] == values[-1]:
        return None
    reach = max(abs(values[0]), abs(values[-1]))
    width = 2 * reach / _BINS
    counts = [0] * _BINS
    for value in values:
        counts[min(_BINS - 1, int((value + reach) / width))] += 1
    edges = [-reach + width * place for place in range(_BINS + 1)]
    mean = sum(values) / len(values)
    return charts.histogram("Difference per query", edges, counts, {"mean": mean}, f"{report.measure}, a minus b")
