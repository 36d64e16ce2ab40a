"""Attention over the packed layout: causal inside the documents, each suffix over the documents and itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from qrcore.attention.call import AttentionInputs, PackedLayout

#: Rows handled at once where a full mask or full logits would be needed; bounds memory to rows x keys.
_ROWS_AT_ONCE: Final = 512


def packed_attention(inputs: AttentionInputs, layout: PackedLayout) -> Tensor:
    """Attention output of all tokens, ``[head, token, dim]``."""
    prefix = slice(0, layout.prefix_length)
    outputs = [_attend(inputs, inputs.query[:, prefix], inputs.key[:, prefix], inputs.value[:, prefix], offset=0)]
    for span in layout.suffixes:
        rows = slice(span.start, span.stop)
        key, value = keys_of_suffix(inputs.key, layout, rows), keys_of_suffix(inputs.value, layout, rows)
        outputs.append(_attend(inputs, inputs.query[:, rows], key, value, offset=layout.prefix_length))
    return torch.cat(outputs, dim=1)


def keys_of_suffix(states: Tensor, layout: PackedLayout, rows: slice) -> Tensor:
    """The states (``[kv_head, token, dim]``) that one suffix sees: the documents', then its own."""
    return torch.cat([states[:, : layout.prefix_length], states[:, rows]], dim=1)


def visible(row_positions: Tensor, key_positions: Tensor, window: int | None) -> Tensor:
    """Which keys each row may attend to, boolean ``[row, key]``: causal, and within the sliding window."""
    distance = row_positions[:, None] - key_positions[None, :]
    allowed = distance >= 0
    return allowed if window is None else allowed & (distance < window)


def attention_logits(query: Tensor, key: Tensor, scaling: float, softcap: float | None) -> Tensor:
    """Scaled and, where the model does so, softly capped logits, ``[head, row, key]``."""
    logits = torch.matmul(query, key.transpose(-1, -2)) * scaling
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def _attend(inputs: AttentionInputs, query: Tensor, key: Tensor, value: Tensor, *, offset: int) -> Tensor:
    """Causal attention of rows at positions ``offset …`` over keys at positions ``0 …``."""
    groups = query.shape[0] // key.shape[0]
    key, value = key.repeat_interleave(groups, dim=0), value.repeat_interleave(groups, dim=0)
    fits_window = inputs.window is None or key.shape[1] <= inputs.window
    if offset == 0 and fits_window and inputs.softcap is None:
        return _sdpa(query, key, value, inputs.scaling, mask=None)
    outputs = [
        _attend_rows(inputs, query[:, rows], key, value, offset + rows.start) for rows in _row_chunks(query.shape[1])
    ]
    return torch.cat(outputs, dim=1)


def _row_chunks(rows: int) -> Iterator[slice]:
    for start in range(0, rows, _ROWS_AT_ONCE):
        yield slice(start, min(start + _ROWS_AT_ONCE, rows))


def _attend_rows(inputs: AttentionInputs, query: Tensor, key: Tensor, value: Tensor, first_position: int) -> Tensor:
    last_position = first_position + query.shape[1] - 1
    first_key = 0 if inputs.window is None else max(0, first_position - inputs.window + 1)
    seen = slice(first_key, last_position + 1)
    key, value = key[:, seen], value[:, seen]
    row_positions = torch.arange(first_position, last_position + 1, device=query.device)
    key_positions = torch.arange(first_key, last_position + 1, device=query.device)
    mask = visible(row_positions, key_positions, inputs.window)
    if inputs.softcap is None:
        return _sdpa(query, key, value, inputs.scaling, mask=mask)
    logits = attention_logits(query, key, inputs.scaling, inputs.softcap).masked_fill(~mask, float("-inf"))
    weights = torch.softmax(logits, dim=-1, dtype=torch.float32)
    return torch.matmul(weights.to(value.dtype), value)


def _sdpa(query: Tensor, key: Tensor, value: Tensor, scaling: float, mask: Tensor | None) -> Tensor:
    output = functional.scaled_dot_product_attention(
        query[None], key[None], value[None], attn_mask=mask, is_causal=mask is None, scale=scaling
    )
    return output[0]
