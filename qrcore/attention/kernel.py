"""Attention over the packed layout: causal inside the documents, each suffix over its documents and itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.bias import causal_lower_right

from qrcore.attention.call import AttentionInputs, Block, PackedLayout
from qrcore.records import Span

#: Rows handled at once where a full mask or full logits would be needed; bounds memory to rows x keys.
_ROWS_AT_ONCE: Final = 512
#: Added logits held at once (float32: 64 MiB).
_BIAS_AT_ONCE: Final = 16 * 2**20


def packed_attention(inputs: AttentionInputs, layout: PackedLayout) -> Tensor:
    """Attention output of the chunk's rows, ``[head, row, dim]``."""
    outputs = []
    for before, blocks in groupby(layout.blocks(inputs.rows), key=lambda block: block.before):
        outputs += _attend_together(inputs, before, list(blocks))
    return torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0]


def seen_by(states: Tensor, block: Block) -> Tensor:
    """The states (``[kv_head, token, dim]``) that a block sees: those before it, then its own."""
    before, rows = block.before, block.rows
    if before.stop == rows.start:
        return states[:, before.start : rows.stop]
    return torch.cat([states[:, before.start : before.stop], states[:, rows.start : rows.stop]], dim=1)


def visible(row_positions: Tensor, key_positions: Tensor, window: int | None) -> Tensor:
    """Which keys each row may attend to, boolean ``[row, key]``: causal, and within the sliding window."""
    distance = row_positions[:, None] - key_positions[None, :]
    allowed = distance >= 0
    return allowed if window is None else allowed & (distance < window)


def attention_logits(query: Tensor, key: Tensor, scaling: float, softcap: float | None) -> Tensor:
    """Scaled and, where the model does so, softly capped logits, ``[head, row, key]``."""
    logits = torch.matmul(query, key.transpose(-1, -2)) * scaling
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def key_bias(inputs: AttentionInputs, heads: Sequence[int], rows: Span, keys: Span) -> Tensor | None:
    """What is added to the logits of ``heads`` from the packed tokens ``rows``, ``[head, row, key]`` float32; None for
    nothing. ``keys`` are counted as in :class:`~qrcore.attention.call.KeyBias`."""
    total = None
    for bias in inputs.biases:
        here = _overlap(bias.rows, rows)
        biased = [place for place, head in enumerate(heads) if head in bias.heads]
        if here is None or not biased:
            continue
        if total is None:
            shape = (len(heads), rows.stop - rows.start, keys.stop - keys.start)
            total = torch.zeros(shape, device=inputs.query.device)
        for span in bias.keys:
            seen = _overlap(span, keys)
            if seen is not None:
                columns = slice(seen.start - keys.start, seen.stop - keys.start)
                total[biased, here.start - rows.start : here.stop - rows.start, columns] += bias.delta
    return total


def _overlap(one: Span, other: Span) -> Span | None:
    start, stop = max(one.start, other.start), min(one.stop, other.stop)
    return Span(start, stop) if start < stop else None


def _attend_together(inputs: AttentionInputs, before: Span, blocks: Sequence[Block]) -> list[Tensor]:
    """Outputs of neighbouring blocks that see the same tokens before them."""
    longest = max(block.rows.stop - block.rows.start for block in blocks) + before.stop - before.start
    masked = (
        inputs.softcap is not None
        or (inputs.window is not None and longest > inputs.window)
        or any(_overlap(bias.rows, block.rows) for bias in inputs.biases for block in blocks)
    )
    if masked:
        return [_attend_masked(inputs, block) for block in blocks]
    if _gives_logsumexp(inputs.query):
        return [_attend_in_parts(inputs, before, blocks)]
    return [_attend_lower_right(inputs, block) for block in blocks]


def _gives_logsumexp(query: Tensor) -> bool:
    # The logsumexp of this kernel has no gradient.
    return query.device.type == "cpu" and not (torch.is_grad_enabled() and query.requires_grad)


def _attend_in_parts(inputs: AttentionInputs, before: Span, blocks: Sequence[Block]) -> Tensor:
    """All rows over what they share, each block over itself, and both put together by their softmax sums."""
    # No mask, no copy of the shared keys per block, and no work on keys that are hidden.
    own = [_flash(inputs, block.rows, block.rows, causal=True) for block in blocks]
    output, logsumexp = (torch.cat(parts, dim=1) if len(own) > 1 else parts[0] for parts in zip(*own, strict=True))
    if before.start == before.stop:
        return output
    rows = Span(blocks[0].rows.start, blocks[-1].rows.stop)
    shared, shared_logsumexp = _flash(inputs, rows, before, causal=False)
    share = torch.sigmoid(shared_logsumexp - logsumexp)[..., None].to(output.dtype)
    return torch.lerp(output, shared, share)


def _flash(inputs: AttentionInputs, rows: Span, keys: Span, *, causal: bool) -> tuple[Tensor, Tensor]:
    """Output ``[head, row, dim]`` and logsumexp ``[head, row]`` of torch's fused CPU kernel."""
    query, key, value = _by_group(
        _rows(inputs, rows), inputs.key[:, keys.start : keys.stop], inputs.value[:, keys.start : keys.stop]
    )
    output, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, causal, scale=inputs.scaling
    )
    return output.flatten(0, 1), logsumexp.flatten(0, 1)


def _attend_lower_right(inputs: AttentionInputs, block: Block) -> Tensor:
    query, key, value = _by_group(_rows(inputs, block.rows), seen_by(inputs.key, block), seen_by(inputs.value, block))
    bias = causal_lower_right(query.shape[2], key.shape[2])
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=inputs.scaling).flatten(
        0, 1
    )


def _attend_masked(inputs: AttentionInputs, block: Block) -> Tensor:
    query = _rows(inputs, block.rows)
    key, value = seen_by(inputs.key, block), seen_by(inputs.value, block)
    first = block.before.stop - block.before.start
    outputs = []
    at_once = (
        min(_ROWS_AT_ONCE, max(1, _BIAS_AT_ONCE // (len(query) * key.shape[1]))) if inputs.biases else _ROWS_AT_ONCE
    )
    for rows in _row_chunks(query.shape[1], at_once):
        packed = Span(block.rows.start + rows.start, block.rows.start + rows.stop)
        outputs.append(_attend_masked_rows(inputs, query[:, rows], key, value, first + rows.start, packed))
    return torch.cat(outputs, dim=1)


def _row_chunks(rows: int, at_once: int) -> Iterator[slice]:
    for start in range(0, rows, at_once):
        yield slice(start, min(start + at_once, rows))


def _attend_masked_rows(
    inputs: AttentionInputs, query: Tensor, key: Tensor, value: Tensor, first_position: int, packed: Span
) -> Tensor:
    """Rows (the tokens ``packed``) whose first one has ``first_position`` among the keys."""
    last_position = first_position + query.shape[1] - 1
    first_key = 0 if inputs.window is None else max(0, first_position - inputs.window + 1)
    seen = slice(first_key, last_position + 1)
    bias = key_bias(inputs, range(len(query)), packed, Span(first_key, last_position + 1))
    query, key, value = _by_group(query, key[:, seen], value[:, seen])
    row_positions = torch.arange(first_position, last_position + 1, device=query.device)
    key_positions = torch.arange(first_key, last_position + 1, device=query.device)
    mask = visible(row_positions, key_positions, inputs.window)
    if bias is not None:
        bias = bias.masked_fill_(~mask, float("-inf")).unflatten(0, query.shape[:2])
    if inputs.softcap is None:
        mask = mask if bias is None else bias.to(query.dtype)
        output = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=inputs.scaling)
        return output.flatten(0, 1)
    logits = attention_logits(query, key, inputs.scaling, inputs.softcap)
    logits = logits.masked_fill(~mask, float("-inf")) if bias is None else logits + bias
    weights = torch.softmax(logits, dim=-1, dtype=torch.float32)
    return torch.matmul(weights.to(value.dtype), value).flatten(0, 1)


def _rows(inputs: AttentionInputs, rows: Span) -> Tensor:
    return inputs.query[:, rows.start - inputs.rows.start : rows.stop - inputs.rows.start]


def _by_group(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three as ``[kv_head, member, token, dim]``; keys and values are seen by all members, never copied."""
    kv_heads, members = key.shape[0], query.shape[0] // key.shape[0]
    grouped = query.unflatten(0, (kv_heads, members))
    return grouped, *(states[:, None].expand(-1, members, -1, -1) for states in (key, value))
