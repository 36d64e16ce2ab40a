"""The contract of methods that find heads: a value of every head on every labelled example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from qrcore.contracts.scorer import Reading


class Detector(Protocol):
    """Says how well each head of a reading finds the documents that are relevant; a head's score is the mean over
    examples."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything beside the reading that its values depend on, in plain values."""
        ...

    def head_values(self, reading: Reading, relevance: Sequence[int]) -> Tensor:
        """Values ``[head]`` (float32), higher is better, in the order of ``reading.heads``.

        ``relevance``: the grade of each document in the order in which they were given; above 0 is relevant.
        """
        ...
