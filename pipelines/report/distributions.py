"""Many numbers as a histogram."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from pipelines.report import model

_BINS: Final = 20


def distribution(values: Sequence[float]) -> model.Distribution:
    """Percentiles and a histogram of these values."""
    if not values:
        return model.Distribution(p5=None, p50=None, p95=None, max=None, edges=(), counts=())
    p5, p50, p95 = np.percentile(values, [5, 50, 95])
    counts, edges = np.histogram(values, bins=_bins(values))
    return model.Distribution(
        p5=p5, p50=p50, p95=p95, max=max(values), edges=tuple(edges.tolist()), counts=tuple(counts.tolist())
    )


def _bins(values: Sequence[float]) -> int:
    spread = max(values) - min(values)
    if all(isinstance(value, int) for value in values):
        return min(_BINS, max(1, int(spread)))
    # Values that differ by rounding alone leave no room for more edges between them.
    return _BINS if spread > 1e-9 * max(abs(max(values)), abs(min(values))) else 1
