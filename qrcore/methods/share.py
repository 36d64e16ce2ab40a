"""CAFE's score of a head: the share of its attention to all documents that the relevant ones get (arXiv 2505.10063).

The attention is that of the question's own tokens (``query_span: query``), neither calibrated nor filtered; documents
stand as given. Heads of CAFE's second stage are found in the same way on lists that its first stage has shortened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from qrcore.contracts.method import Method, Needs
from qrcore.contracts.scorer import Reading
from qrcore.scoring import document_shares


class GoldShare:
    """See :class:`qrcore.contracts.detector.Detector`."""

    @property
    def settings(self) -> Mapping[str, Any]:
        return {}

    def head_values(self, reading: Reading, relevance: Sequence[int]) -> Tensor:
        """The share, 0 to 1: that of the relevant among all documents is chance; 0 where no document is relevant."""
        relevant = [place for place, grade in enumerate(relevance) if grade > 0]
        return document_shares(reading.query_attention, reading.document_spans)[:, relevant].sum(dim=-1)


METHOD = Method(
    name="share",
    kind="detector",
    source="CAFE, arXiv 2505.10063",
    needs=Needs(labels=True, order="as_given"),
    build=GoldShare,
)
