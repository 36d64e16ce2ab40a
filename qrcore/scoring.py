"""The arithmetic of QR scores: calibrate, drop outliers, pool by document. Pure tensor functions.

Source: QRHead (arXiv 2506.09944) Eq. 2, 4 and 5, and ICR (arXiv 2410.02642) for the token filter, which the
paper's equations leave out and the published numbers contain.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qrcore.records import RankedDocument, RankRequest, Span


def calibrate(query_attention: Tensor, null_attention: Tensor, weight: float = 1.0) -> Tensor:
    """Token scores: attention under the query minus ``weight`` times attention under the null query.

    Shapes: ``[..., token]`` each, float32, tokens of the shared document prefix; returns the same shape.
    """
    return query_attention - weight * null_attention


def pool_documents(token_scores: Tensor, document_spans: Sequence[Span]) -> Tensor:
    """Sum each document's token scores, leaving out its tokens at or below mean - 2 std (std with n - 1).

    ``token_scores`` is ``[..., token]``; leading axes are free: ranking pools after summing heads (``[token]``),
    detection pools each head on its own (``[head, token]``). Returns ``[..., doc]``. One token is never an outlier.
    """
    pooled = [_sum_without_outliers(token_scores[..., span.start : span.stop]) for span in document_spans]
    return torch.stack(pooled, dim=-1)


def _sum_without_outliers(token_scores: Tensor) -> Tensor:
    if token_scores.shape[-1] < 2:  # the deviation of one value is undefined
        return token_scores.sum(dim=-1)
    mean = token_scores.mean(dim=-1, keepdim=True)
    std = token_scores.std(dim=-1, keepdim=True, correction=1)
    kept = token_scores > mean - 2 * std
    return (token_scores * kept).sum(dim=-1)


def document_shares(attention: Tensor, document_spans: Sequence[Span]) -> Tensor:
    """How a head's attention to all documents is divided among them, ``[head, doc]``, from ``[head, token]``; 0 where a
    head looks at no document. CAFE (arXiv 2505.10063), its ``beta``."""
    masses = torch.stack([attention[:, span.start : span.stop].sum(dim=-1) for span in document_spans], dim=-1)
    return masses / masses.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(masses.dtype).tiny)


def rank_documents(request: RankRequest, scores: Sequence[float]) -> tuple[RankedDocument, ...]:
    """Order a request's documents by score, then input rank, then doc_id; each comes back exactly once."""
    places = range(1, len(request.documents) + 1)
    input_ranks = [p if d.rank is None else d.rank for d, p in zip(request.documents, places, strict=True)]
    numbered = zip(request.documents, scores, input_ranks, strict=True)
    ordered = sorted(numbered, key=lambda entry: (-entry[1], entry[2], entry[0].doc_id))
    return tuple(
        RankedDocument(document.doc_id, rank, score, input_rank, document.score)
        for rank, (document, score, input_rank) in enumerate(ordered, start=1)
    )
