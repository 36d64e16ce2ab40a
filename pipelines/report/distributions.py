"""Many numbers as a histogram, and what there is to count of windows and rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from markupsafe import Markup

from pipelines.report import charts
from pipelines.report.model import Contexts
from pipelines.report.records import Distribution

_BINS: Final = 20


def distribution(values: Sequence[float]) -> Distribution:
    """Percentiles and a histogram of these values."""
    if not values:
        return Distribution(p5=None, p50=None, p95=None, max=None, edges=(), counts=())
    p5, p50, p95 = np.percentile(values, [5, 50, 95])
    counts, edges = np.histogram(values, bins=_bins(values))
    return Distribution(
        p5=p5, p50=p50, p95=p95, max=max(values), edges=tuple(edges.tolist()), counts=tuple(counts.tolist())
    )


def _bins(values: Sequence[float]) -> int | np.ndarray:
    spread = max(values) - min(values)
    if all(isinstance(value, int) for value in values) and spread < _BINS:
        return np.arange(min(values) - 0.5, max(values) + 1)  # a bar for each number
    # Values that differ by rounding alone leave no room for more edges between them.
    return _BINS if spread > 1e-9 * max(abs(max(values)), abs(min(values))) else 1


def histogram(title: str, values: Distribution | None, axis: str, counted: str = "queries") -> Markup | None:
    """The histogram of a distribution; None where nothing was measured, or the same value each time."""
    # One single value is said in words: a histogram of it is a full square.
    if values is None or values.p50 is None or values.p95 is None or not values.counts or values.p5 == values.max:
        return None
    return charts.histogram(
        title, values.edges, values.counts, {"median": values.p50, "p95": values.p95}, axis, counted
    )


@dataclass(slots=True)
class ContextCounts:
    """Takes rankings one by one: how many prompts they took, and what the last one held."""

    windows: list[int] = field(default_factory=list)
    final_items: list[int] = field(default_factory=list)
    cut_documents: int = 0
    cut_tokens: int = 0

    def add(self, windows: int, ranking: Sequence[Mapping[str, Any]]) -> None:
        """Take in one ranking."""
        last = max(item["round"] for item in ranking)
        self.windows.append(windows)
        self.final_items.append(sum(item["round"] == last for item in ranking))
        cut = [item["cut_tokens"] or 0 for item in ranking]  # null where an older version wrote the row
        self.cut_documents += sum(tokens > 0 for tokens in cut)
        self.cut_tokens += sum(cut)

    def finish(self, settings: Mapping[str, Any] | None) -> Contexts | None:
        """What was counted, None for a run that was planned without such settings."""
        if settings is None:
            return None
        return Contexts(
            settings=settings,
            in_rounds=sum(windows > 1 for windows in self.windows),
            windows=distribution(self.windows),
            final_items=distribution(self.final_items),
            cut_documents=self.cut_documents,
            cut_tokens=self.cut_tokens,
        )
