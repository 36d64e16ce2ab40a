"""QRscore: how much calibrated attention a head pays to the relevant documents (arXiv 2506.09944, Eq. 3 and 4).

The published code leaves out, document by document, tokens at or below mean - 2 std of the head's own scores, which
the paper's equations do not; this follows the code (its LongMemEval variant).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from qrcore.contracts.method import Method, Needs
from qrcore.contracts.scorer import Reading
from qrcore.scoring import calibrate, pool_documents


class QRScore:
    """See :class:`qrcore.contracts.detector.Detector`; ``calibration_weight``: 1 as published, 0 none."""

    def __init__(self, calibration_weight: float = 1.0) -> None:
        self.calibration_weight = calibration_weight

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"calibration_weight": self.calibration_weight}

    def head_values(self, reading: Reading, relevance: Sequence[int]) -> Tensor:
        """The summed scores of the relevant documents; 0 where there is none, as in the published code."""
        tokens = calibrate(reading.query_attention, reading.null_attention, self.calibration_weight)
        relevant = torch.tensor([grade > 0 for grade in relevance], device=tokens.device)
        return pool_documents(tokens, reading.document_spans)[:, relevant].sum(dim=-1)


METHOD = Method(
    name="qrscore",
    kind="detector",
    source="QRHead, arXiv 2506.09944, Eq. 3 and 4",
    needs=Needs(labels=True, order="as_given"),
    build=QRScore,
)
