"""Per-head nDCG: how well a head alone ranks the documents (the BEIR variant of QRHead's published code).

Gain is the grade, the discount log2(rank + 1), as in trec_eval; the ideal is taken over the documents of the prompt.
Equal scores stay in the order in which the documents were given. The published code shuffles the documents first, so
that no head is chosen for looking at a place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from qrcore.contracts.method import Method, Needs
from qrcore.contracts.scorer import Reading
from qrcore.scoring import calibrate, pool_documents


class PerHeadNDCG:
    """See :class:`qrcore.contracts.detector.Detector`; ``cutoff``: ranks that count."""

    def __init__(self, cutoff: int = 10, calibration_weight: float = 1.0) -> None:
        self.cutoff = cutoff
        self.calibration_weight = calibration_weight

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"cutoff": self.cutoff, "calibration_weight": self.calibration_weight}

    def head_values(self, reading: Reading, relevance: Sequence[int]) -> Tensor:
        """nDCG at the cut-off, 0 to 1; 0 where no document is relevant."""
        tokens = calibrate(reading.query_attention, reading.null_attention, self.calibration_weight)
        return ndcg(pool_documents(tokens, reading.document_spans), relevance, self.cutoff)


def ndcg(scores: Tensor, relevance: Sequence[int], cutoff: int) -> Tensor:
    """nDCG ``[...]`` of the orders by falling ``scores`` ``[..., doc]``; a grade below 0 counts as 0."""
    gains = torch.tensor(relevance, dtype=torch.float64, device=scores.device).clamp(min=0)
    ranks = torch.arange(1, len(gains) + 1, dtype=torch.float64, device=scores.device)
    discounts = torch.where(ranks <= cutoff, 1.0 / torch.log2(ranks + 1), 0.0)
    ideal = (gains.sort(descending=True).values * discounts).sum()
    order = scores.argsort(dim=-1, descending=True, stable=True)
    found = (gains[order] * discounts).sum(dim=-1)
    return (found / ideal if ideal > 0 else torch.zeros_like(found)).float()


METHOD = Method(
    name="ndcg",
    kind="detector",
    source="QRHead, published code, detection on BEIR (arXiv 2506.09944)",
    needs=Needs(labels=True, order="shuffled"),
    build=PerHeadNDCG,
)
