"""Attention for training: exact, on a CPU in slices of queries that stay in the processor's cache.

The CPU backward pass of PyTorch's fused attention is the larger part of a training step in bfloat16; this one is two to
four times faster at the lengths trained here and gives the same gradients up to rounding.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention
from transformers import LlamaForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from qrcore.training.teaching import HeadLesson

#: Name under which the attention function is registered with transformers.
TRAINING: Final = "qrbatch_training"
_SLICE = 256


class _SlicedAttention(torch.autograd.Function):
    """Softmax attention of ``[sample, head, token, size]`` tensors with an additive bias ``[sample, 1, query, key]``.

    The bias must forbid keys after the query: they are never computed.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor, scale: float
    ) -> torch.Tensor:
        scaled = query * scale
        output = torch.empty_like(query)
        shares = []
        for sample, start, stop in _slices(query):
            scores = torch.matmul(scaled[sample, :, start:stop], key[sample, :, :stop].transpose(-1, -2))
            share = torch.softmax(scores.add_(bias[sample, :, start:stop, :stop]), dim=-1)
            output[sample, :, start:stop] = torch.matmul(share, value[sample, :, :stop])
            shares.append(share)
        ctx.save_for_backward(scaled, key, value, *shares)
        ctx.scale = scale
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scaled, key, value, *shares = ctx.saved_tensors
        grad_query = torch.empty_like(scaled)
        # Sums over slices are kept in float32: bfloat16 would lose the later ones.
        grad_key, grad_value = (torch.zeros_like(part, dtype=torch.float32) for part in (key, value))
        for (sample, start, stop), share in zip(_slices(scaled), shares, strict=True):
            piece = grad[sample, :, start:stop]
            grad_value[sample, :, :stop] += torch.matmul(share.transpose(-1, -2), piece)
            grad_share = torch.matmul(piece, value[sample, :, :stop].transpose(-1, -2))
            grad_scores = torch._softmax_backward_data(grad_share, share, -1, share.dtype)
            grad_query[sample, :, start:stop] = torch.matmul(grad_scores, key[sample, :, :stop])
            grad_key[sample, :, :stop] += torch.matmul(grad_scores.transpose(-1, -2), scaled[sample, :, start:stop])
        return grad_query * ctx.scale, grad_key.to(key.dtype), grad_value.to(value.dtype), None, None


def attach_training_attention(model: LlamaForCausalLM) -> None:
    """Make the model attend by :func:`training_attention`, which wants an additive bias as its mask."""
    # Compiled layers call it as it is: a compiler would unroll its loops anew for every length.
    ALL_ATTENTION_FUNCTIONS.register(TRAINING, torch.compiler.disable(training_attention))
    model.set_attn_implementation(TRAINING)


def training_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float,
    lesson: HeadLesson | None = None,
    gate: torch.Tensor | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """The attention function as transformers calls it; `attention_mask` is the additive causal bias.

    `lesson` is shown every layer's queries and keys. `gate` ``[layer, query head]`` multiplies the queries: 0 makes a
    head attend alike to every token it sees.
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    query, key, bias = query.to(value.dtype), key.to(value.dtype), attention_mask.to(value.dtype)
    # Autocast would make the softmax float32 and so double the memory traffic that this function saves.
    with torch.autocast(query.device.type, enabled=False):
        layer = int(module.layer_idx)  # type: ignore[arg-type]
        if lesson:
            lesson.read(layer, query, key, bias, scaling)
        if gate is not None:
            query = query * gate[layer].to(query.dtype).view(1, -1, 1, 1)
        if query.device.type == "cpu":
            output = _SlicedAttention.apply(query, key, value, bias, scaling)  # type: ignore[no-untyped-call]
        else:
            output = scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scaling)
    return output.transpose(1, 2).contiguous(), None


def _slices(query: torch.Tensor) -> list[tuple[int, int, int]]:
    samples, _, length, _ = query.shape
    return [
        (sample, start, min(start + _SLICE, length)) for sample in range(samples) for start in range(0, length, _SLICE)
    ]
