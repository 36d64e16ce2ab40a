"""CoRe: contrast between a relevant document and all others, head by head (arXiv 2510.02219).

A head's value is the softmax, at a temperature, of the attention that a relevant document gets against that of the
documents that are not relevant. The attention is neither calibrated nor filtered. With several relevant documents each
one is set against the irrelevant ones only, and the mean is taken, as with several prompts of one relevant document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from qrcore.contracts.method import Method, Needs
from qrcore.contracts.scorer import Reading
from qrcore.errors import ConfigError


class CoRe:
    """See :class:`qrcore.contracts.detector.Detector`.

    ``temperature``: the authors tuned it for each model, 0.001 for Mistral and Granite, 0.1 for Llama and Phi. Raises
    :class:`ConfigError` unless it is above 0.
    """

    def __init__(self, temperature: float = 0.001) -> None:
        if not temperature > 0:
            raise ConfigError(f"temperature: expected a number above 0, got {temperature}. Try 0.001 or 0.1.")
        self.temperature = temperature

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"temperature": self.temperature}

    def head_values(self, reading: Reading, relevance: Sequence[int]) -> Tensor:
        """The contrast, 0 to 1: 1 / (1 + number of others) is chance; 0 where no document is relevant."""
        attention = reading.query_attention
        pooled = [attention[:, span.start : span.stop].sum(dim=-1) for span in reading.document_spans]
        scores = torch.stack(pooled, dim=-1).double() / self.temperature
        relevant = torch.tensor([grade > 0 for grade in relevance], device=scores.device)
        if not bool(relevant.any()):
            return torch.zeros(len(scores), device=scores.device)
        others = scores[:, ~relevant].logsumexp(dim=-1, keepdim=True)  # of no others: -inf, and the value is 1
        return torch.sigmoid(scores[:, relevant] - others).mean(dim=-1).float()


METHOD = Method(
    name="core",
    kind="detector",
    source="CoRe heads, arXiv 2510.02219",
    needs=Needs(labels=True, others=True),
    build=CoRe,
)
