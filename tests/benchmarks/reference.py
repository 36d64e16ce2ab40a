"""A fair reading without any of this project's engine: what a careful user of transformers would write.

SDPA in every layer at full depth, the documents' keys and values kept and shared between query and null query, no LM
head, attention recomputed only for the rows of the query but for all heads of all layers, one query at a time; the
choice of heads comes last. This is how the published code goes about it, without its second-rate parts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from qrcore.attention.read import SharedPrompt, Suffix
from qrcore.heads import Head

_NAME = "benchmark_reference"
_queries: dict[int, Tensor] = {}


def _keeping_queries(module: Any, query: Tensor, *others: Any, **settings: Any) -> Any:
    """SDPA that keeps its query vectors; the official code's cache does the same."""
    _queries[module.layer_idx] = query
    return sdpa_attention_forward(module, query, *others, **settings)


def read(model: PreTrainedModel, prompt: SharedPrompt, heads: tuple[Head, ...]) -> list[Tensor]:
    """Mean attention ``[head, prefix token]`` of each query of ``prompt`` minus the null query's, one at a time."""
    AttentionInterface.register(_NAME, _keeping_queries)
    AttentionMaskInterface.register(_NAME, sdpa_mask)
    model.config._attn_implementation = _NAME
    *asked, null = prompt.suffixes
    try:
        return [_read_one(model, prompt, query, null, heads) for query in asked]
    finally:
        model.config._attn_implementation = "sdpa"
        _queries.clear()


def stock_forward(model: PreTrainedModel, prompt: SharedPrompt) -> Callable[[], Any]:
    """A stock forward pass over documents and the first query: no cache, no reading."""
    ids = _joined(prompt, prompt.suffixes[0], model.device)
    return lambda: model(input_ids=ids, use_cache=False)


def _read_one(
    model: PreTrainedModel, prompt: SharedPrompt, query: Suffix, null: Suffix, heads: tuple[Head, ...]
) -> Tensor:
    shared = len(prompt.prefix_ids)
    cache = DynamicCache(config=model.config)
    model(input_ids=_joined(prompt, query, model.device), past_key_values=cache)
    asked = _mean_attention(cache, query, shared)
    cache.crop(-len(query.ids))
    model(input_ids=_tensor(null.ids, model.device), past_key_values=cache)
    difference = asked - _mean_attention(cache, null, shared)
    return torch.stack([difference[head.layer, head.head] for head in heads])


def _mean_attention(cache: DynamicCache, suffix: Suffix, shared: int) -> Tensor:
    """``[layer, head, prefix token]``: every head of every layer, of the suffix's rows alone."""
    means = []
    for layer, states in enumerate(cache.layers):
        key = states.keys[0]  # [kv_head, token, dim]
        own = _queries[layer][0, :, -len(suffix.ids) :][:, suffix.rows.start : suffix.rows.stop]
        query = (own * own.shape[-1] ** -0.5).reshape(key.shape[0], -1, own.shape[-1])
        logits = (query @ key.transpose(-1, -2)).float().view(*own.shape[:2], -1)
        places = torch.arange(len(suffix.ids), device=key.device)
        later = places[suffix.rows.start : suffix.rows.stop, None] < places
        logits[..., shared:].masked_fill_(later, float("-inf"))
        means.append(torch.softmax(logits, dim=-1)[..., :shared].mean(dim=1))
    return torch.stack(means)


def _joined(prompt: SharedPrompt, query: Suffix, device: torch.device) -> Tensor:
    return torch.cat([_tensor(prompt.prefix_ids, device), _tensor(query.ids, device)], dim=1)


def _tensor(ids: Any, device: torch.device) -> Tensor:
    return torch.as_tensor(ids, dtype=torch.long, device=device)[None]
