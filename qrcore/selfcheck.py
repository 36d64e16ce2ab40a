"""Compare our reading with the family's own attention on a short prompt, once per loaded model.

Two comparisons. In every precision, layer by layer on the very same queries and keys: scale, softcap, head groups,
sinks or biases that our formula does not know show here, and rounding does not. In float32 also from beginning to end
against the model run on each prompt alone: positions and the packing of two prompts show here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from qrcore.attention.attach import run
from qrcore.attention.call import AttentionCall, AttentionInputs, LayerRead, PackedLayout
from qrcore.attention.read import LayerReader, Suffix, read_attention
from qrcore.errors import ModelError
from qrcore.heads import Head
from qrcore.models import LoadedModel
from qrcore.records import Span

_PROMPT: Final = "[1] Rivers\nA river carries water to the sea.\n\n[2] Bees\nBees collect nectar from flowers."
_QUESTIONS: Final = ("\n\nQuery: Where does a river flow?", "\n\nQuery: N/A")
#: Largest difference of an averaged attention weight, relative to its head's largest one, on the same inputs.
_SAME_INPUTS: Final = 1e-3
#: Largest absolute difference from beginning to end, in float32, for logits up to 10; grows with them as rounding does.
_END_TO_END: Final = 1e-5


def check_reading(model: LoadedModel, heads: Sequence[Head]) -> None:
    """Raise :class:`ModelError` unless the attention of ``heads`` is read as the model's own code computes it."""
    encode = model.tokenizer.encode
    prefix: list[int] = encode(_PROMPT, add_special_tokens=True)
    questions: list[list[int]] = [encode(question, add_special_tokens=False) for question in _QUESTIONS]
    suffixes = [Suffix(tuple(ids), Span(0, len(ids))) for ids in questions]
    with torch.inference_mode():
        worst, largest_logit = _compare_layers(model, prefix, suffixes[0], heads)
        _check(model, worst, _SAME_INPUTS)
        if model.model.dtype == torch.float32:
            tolerance = _END_TO_END * max(1.0, largest_logit / 10)
            _check(model, _end_to_end(model, prefix, suffixes, heads), tolerance)


def _check(model: LoadedModel, worst: float, tolerance: float) -> None:
    if not worst <= tolerance:  # also refuses NaN
        raise ModelError(
            f"model {model.source.model_id!r}: expected attention within {tolerance:.2g} of the model's own on a "
            f"short prompt, got a difference of {worst:.2g}. This checkpoint cannot be read exactly; please report "
            "its config."
        )


@dataclass(slots=True)
class _LayerComparison:
    """Reads a layer with our reader and with the family's own function, and keeps the worst relative difference."""

    reader: LayerReader
    first_row: int
    worst: float = 0.0
    largest_logit: float = 0.0

    def __call__(self, layer: int, inputs: AttentionInputs) -> None:
        self.reader(layer, inputs)
        own = inputs.own_weights()
        for head in self.reader.heads:
            theirs = own[head.head, self.first_row :].mean(dim=0)
            difference = (self.reader.collected[head][0] - theirs).abs().max() / theirs.max()
            self.worst = max(self.worst, _or_infinity(difference))
            self.largest_logit = max(self.largest_logit, _largest_logit(inputs, head))


def _or_infinity(value: Tensor) -> float:
    return float(value) if bool(torch.isfinite(value)) else float("inf")


def _largest_logit(inputs: AttentionInputs, head: Head) -> float:
    group = inputs.query.shape[0] // inputs.key.shape[0]
    logits = inputs.query[head.head].float() @ inputs.key[head.head // group].float().T
    return float(logits.abs().max()) * inputs.scaling


def _compare_layers(
    model: LoadedModel, prefix: Sequence[int], suffix: Suffix, heads: Sequence[Head]
) -> tuple[float, float]:
    """The worst relative difference of any head, and the largest logit seen."""
    layout = PackedLayout.of_one(len(prefix), (len(suffix.ids),))
    comparisons: dict[int, _LayerComparison] = {}
    for layer in sorted({head.layer for head in heads}):
        chosen = tuple(head for head in heads if head.layer == layer)
        comparisons[layer] = _LayerComparison(LayerReader(layout, (suffix.rows,), chosen, {}), len(prefix))
    reads: dict[int, LayerRead] = dict(comparisons)
    token_ids = torch.tensor([*prefix, *suffix.ids], device=model.model.device)
    run(model.model, token_ids, AttentionCall(layout, reads, last_layer=max(reads)))
    worst = max(comparison.worst for comparison in comparisons.values())
    return worst, max(comparison.largest_logit for comparison in comparisons.values())


def _end_to_end(model: LoadedModel, prefix: list[int], suffixes: Sequence[Suffix], heads: Sequence[Head]) -> float:
    ours = read_attention(model.model, prefix, suffixes, heads)
    theirs = [_eager_attention(model, [*prefix, *suffix.ids], len(prefix), heads) for suffix in suffixes]
    return max(_or_infinity((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


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
