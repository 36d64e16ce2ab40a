"""Compare our reading with the model's own full attention matrices on a short prompt, once per loaded model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from qrcore.attention.read import Suffix, read_attention
from qrcore.errors import ModelError
from qrcore.heads import Head
from qrcore.models import LoadedModel
from qrcore.records import Span

_PROMPT: Final = "[1] Rivers\nA river carries water to the sea.\n\n[2] Bees\nBees collect nectar from flowers."
_QUESTIONS: Final = ("\n\nQuery: Where does a river flow?", "\n\nQuery: N/A")
_TOLERANCE: Final = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 5e-3}


def check_reading(model: LoadedModel, heads: Sequence[Head]) -> float:
    """The largest difference of any attention weight of ``heads``; raises :class:`ModelError` above tolerance."""
    encode = model.tokenizer.encode
    prefix: list[int] = encode(_PROMPT, add_special_tokens=True)
    suffixes = [
        Suffix(tuple(ids), Span(0, len(ids))) for ids in (encode(q, add_special_tokens=False) for q in _QUESTIONS)
    ]
    with torch.inference_mode():
        ours = read_attention(model.model, prefix, suffixes, heads)
        theirs = [_eager_attention(model, [*prefix, *suffix.ids], len(prefix), heads) for suffix in suffixes]
    worst = max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
    tolerance = _TOLERANCE[model.model.dtype]
    if not worst <= tolerance:  # also refuses NaN
        raise ModelError(
            f"model {model.source.model_id!r}: expected attention within {tolerance:g} of the model's own on a short "
            f"prompt, got a difference of {worst:g}. This checkpoint cannot be read exactly; please report its config."
        )
    return worst


def _eager_attention(model: LoadedModel, ids: list[int], first_row: int, heads: Sequence[Head]) -> Tensor:
    """Attention averaged over the rows from ``first_row`` on, ``[head, key]``, from full matrices."""
    config = model.model.config
    previous = config._attn_implementation
    config._attn_implementation = "eager"
    try:
        output = model.model(
            input_ids=torch.tensor([ids], device=model.model.device), output_attentions=True, use_cache=False
        )
    finally:
        config._attn_implementation = previous
    rows = [output.attentions[head.layer][0, head.head, first_row:] for head in heads]
    return torch.stack([row.float().mean(dim=0) for row in rows])
