"""How heads are chosen from scores; light enough for the command line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Choice:
    """How heads are chosen from scores: see :func:`qrcore.detection.choose_heads`."""

    top: int
    max_layer: int | None
    seed: int
