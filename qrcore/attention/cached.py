"""The cached layout: one step of a batch that is padded on the left, over what a cache holds of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from qrcore.attention.attach import LayerStates, attached, attend, each_layer, own_weights
from qrcore.attention.call import AttentionCall, AttentionInputs, CachedLayout, PackedLayout, Part
from qrcore.errors import ModelError
from qrcore.records import Span


def run_cached(model: PreTrainedModel, token_ids: Tensor, call: AttentionCall, cache: Cache, **settings: Any) -> Any:
    """The last ``call.layout.new`` tokens of every row (``[row, token]``) through the model, over ``cache``.

    Padding is never attended to, and positions are counted without it. Behind a fork the batch is copies times as
    large, and so is what the cache holds of those layers; a cache that was filled without the fork is copied once.
    Returns the model's own output. What :func:`~qrcore.attention.attach.run` says of state, gradients and errors is
    true here, too.
    """
    layout = call.layout
    if not isinstance(layout, CachedLayout) or token_ids.shape != (len(layout.padding), layout.new):
        raise ModelError(
            f"cached pass: expected a cached layout of the tokens {list(token_ids.shape)}, got {layout}. "
            "Build the layout from the same rows."
        )
    cached = _CachedPass(call, layout, cache)
    with attached(model, call), each_layer(model, cached.through):
        return model(
            input_ids=token_ids,
            position_ids=_position_ids(layout, token_ids.device),
            past_key_values=cache,
            use_cache=True,
            attention_pass=cached,
            **settings,
        )


def _position_ids(layout: CachedLayout, device: torch.device) -> Tensor:
    """Positions of the tokens that run, ``[row, token]``; those of padding are 0."""
    places = torch.arange(layout.length - layout.new, layout.length, device=device)
    return (places[None] - torch.tensor(layout.padding, device=device)[:, None]).clamp(min=0)


@dataclass(frozen=True, slots=True, eq=False)
class _CachedPass:
    call: AttentionCall
    layout: CachedLayout
    cache: Cache

    def through(
        self,
        layer: int,
        forward: Callable[..., Tensor],
        hidden: Tensor,
        *,
        position_embeddings: tuple[Tensor, Tensor],
        position_ids: Tensor,
        **others: Any,
    ) -> Tensor:
        """A decoder layer's own ``forward`` over ``hidden`` (``[row, token, dim]``) and its copies."""
        copies = self.call.copies_at(layer)
        if copies == 1:
            return forward(hidden, position_embeddings=position_embeddings, position_ids=position_ids, **others)
        if hidden.shape[0] == len(self.layout.padding):
            hidden = hidden.repeat(copies, 1, 1)
        _copy_cached(self.cache, layer, hidden.shape[0])
        cosine, sine = (table.repeat(copies, 1, 1) for table in position_embeddings)
        positions = position_ids.repeat(copies, 1)
        return forward(hidden, position_embeddings=(cosine, sine), position_ids=positions, **others)

    def attend(self, states: LayerStates) -> Tensor:
        """Row by row: each sees its own tokens and no padding, as if it were alone."""
        rows = [self._attend_row(states, row) for row in range(states.query.shape[0])]
        return torch.stack(rows).transpose(1, 2)

    def _attend_row(self, states: LayerStates, row: int) -> Tensor:
        """Output ``[head, token, dim]`` of one row; that of padding is 0."""
        padding = self.layout.padding[row % len(self.layout.padding)]
        forgotten = self.layout.length - states.key.shape[2]  # by a cache of a layer with a window
        first_key = max(padding - forgotten, 0)
        first_new = min(max(padding - (self.layout.length - self.layout.new), 0), self.layout.new)
        output = torch.zeros_like(states.query[row])
        if first_new == self.layout.new:
            return output
        key, value = (s[row, :, first_key:] for s in (states.key, states.value))
        query = states.query[row, :, first_new:]
        seen = key.shape[1]
        rows = Span(seen - query.shape[1], seen)
        first_position = self.layout.length - padding - query.shape[1]
        inputs = AttentionInputs(
            rows=rows,
            query=query,
            key=key,
            value=value,
            scaling=states.scaling,
            window=states.window,
            softcap=states.softcap,
            own_weights=partial(own_weights, states, states.query),
            parts=(Part(row, rows, first_position, forgotten + first_key - padding),),
        )
        output[:, first_new:] = attend(self.call, states, inputs, PackedLayout.of_one(seen))
        return output


def _copy_cached(cache: Cache, layer: int, rows: int) -> None:
    """Make what a layer's cache holds as many rows as run through it."""
    held: Any = cache.layers[layer] if layer < len(cache.layers) else None
    if held is None or not held.get_seq_length():
        return
    there = held.keys.shape[0]
    if there != rows:
        held.batch_select_indices(torch.arange(rows, device=held.keys.device) % there)
