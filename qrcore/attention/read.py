"""The verb *read*: attention of chosen heads from chosen rows of each suffix to every key that the suffix sees."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from qrcore.attention.attach import run
from qrcore.attention.call import (
    CHUNK_TOKENS,
    AttentionCall,
    AttentionInputs,
    Block,
    LayerRead,
    PackedLayout,
    Segment,
)
from qrcore.attention.kernel import attention_logits, key_bias, seen_by, visible
from qrcore.heads import Head
from qrcore.records import Span

#: Logits held at once while reading one group of heads (float32: 16 MiB).
LOGITS_AT_ONCE: Final = 4 * 2**20


TokenIds = Sequence[int] | npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Suffix:
    """Tokens that follow the shared documents, and which of them (``rows``, within the suffix) are read from."""

    ids: TokenIds
    rows: Span


@dataclass(frozen=True, slots=True, eq=False)
class SharedPrompt:
    """Documents (``prefix_ids``) and everything that is asked of them."""

    prefix_ids: TokenIds
    suffixes: tuple[Suffix, ...]


def read_attention(
    model: PreTrainedModel, prefix_ids: TokenIds, suffixes: Sequence[Suffix], heads: Sequence[Head]
) -> list[Tensor]:
    """:func:`read_packed` of a single prompt."""
    return read_packed(model, [SharedPrompt(prefix_ids, tuple(suffixes))], heads)[0]


def read_packed(
    model: PreTrainedModel, prompts: Sequence[SharedPrompt], heads: Sequence[Head], chunk_tokens: int = CHUNK_TOKENS
) -> list[list[Tensor]]:
    """Softmax attention from each suffix's rows, averaged over the rows, after one pass over all prompts.

    Returns for each prompt one float32 tensor ``[head, key]`` per suffix, heads in the order of ``heads`` (all
    different), keys the prefix followed by the suffix itself. The pass ends inside the deepest layer of ``heads``;
    ``chunk_tokens``: see :class:`~qrcore.attention.call.AttentionCall`. Prompts do not influence one another but for
    rounding. QRHead (arXiv 2506.09944) Eq. 2 before the sum over document tokens.
    """
    layout = PackedLayout(tuple(_segment(prompt) for prompt in prompts))
    rows = tuple(suffix.rows for prompt in prompts for suffix in prompt.suffixes)
    collected: dict[Head, list[Tensor]] = {}
    readers: dict[int, LayerRead] = {
        layer: LayerReader(layout, rows, tuple(chosen), collected) for layer, chosen in _by_layer(heads).items()
    }
    call = AttentionCall(layout=layout, reads=readers, last_layer=max(readers), chunk_tokens=chunk_tokens)
    run(model, _token_ids(prompts).to(model.device), call)
    stacked = iter([torch.stack(of_heads) for of_heads in zip(*(collected[head] for head in heads), strict=True)])
    return [[next(stacked) for _ in prompt.suffixes] for prompt in prompts]


def _segment(prompt: SharedPrompt) -> Segment:
    return Segment(len(prompt.prefix_ids), tuple(len(suffix.ids) for suffix in prompt.suffixes))


def _token_ids(prompts: Sequence[SharedPrompt]) -> Tensor:
    parts = [ids for prompt in prompts for ids in (prompt.prefix_ids, *(suffix.ids for suffix in prompt.suffixes))]
    return torch.from_numpy(np.concatenate([np.asarray(ids, dtype=np.int64) for ids in parts]))


def _by_layer(heads: Iterable[Head]) -> dict[int, list[Head]]:
    layers: dict[int, list[Head]] = defaultdict(list)
    for head in heads:
        layers[head.layer].append(head)
    return dict(layers)


@dataclass(frozen=True, slots=True, eq=False)
class LayerReader:
    """Reads its heads in one layer; ``collected[head]`` gets one ``[key]`` tensor per suffix."""

    layout: PackedLayout
    rows: tuple[Span, ...]
    heads: tuple[Head, ...]
    collected: dict[Head, list[Tensor]]

    def __call__(self, layer: int, inputs: AttentionInputs) -> None:
        group_size = inputs.query.shape[0] // inputs.key.shape[0]
        groups: dict[int, list[Head]] = defaultdict(list)
        for head in self.heads:
            groups[head.head // group_size].append(head)
            self.collected.setdefault(head, [])
        for kv_head, members in groups.items():
            for suffix, rows in zip(self.layout.suffixes, self.rows, strict=True):
                if inputs.rows.start <= suffix.rows.start < inputs.rows.stop:
                    means = self._read_group(inputs, kv_head, members, suffix, rows)
                    for head, mean in zip(members, means, strict=True):
                        self.collected[head].append(mean)

    def _read_group(
        self, inputs: AttentionInputs, kv_head: int, members: Sequence[Head], suffix: Block, rows: Span
    ) -> Tensor:
        """Mean attention over the rows, ``[member, key]``, in float32 whatever the model's dtype."""
        key = seen_by(inputs.key[kv_head : kv_head + 1], suffix)[0].float()
        start = suffix.rows.start - inputs.rows.start
        query = inputs.query[[head.head for head in members], start + rows.start : start + rows.stop]
        first_position = suffix.before.stop - suffix.before.start + rows.start
        total = torch.zeros(len(members), key.shape[0], device=key.device)
        rows_at_once = max(1, LOGITS_AT_ONCE // (len(members) * key.shape[0]))
        for start in range(0, query.shape[1], rows_at_once):
            chunk = query[:, start : start + rows_at_once].float()
            packed = suffix.rows.start + rows.start + start
            bias = key_bias(
                inputs,
                [head.head for head in members],
                Span(packed, packed + chunk.shape[1]),
                Span(0, key.shape[0]),
            )
            total = total + _attention_sum(chunk, key, inputs, first_position + start, bias)
        return total / query.shape[1]


def _attention_sum(
    query: Tensor, key: Tensor, inputs: AttentionInputs, first_position: int, bias: Tensor | None
) -> Tensor:
    logits = attention_logits(query, key, inputs.scaling, inputs.softcap)
    if bias is not None:
        logits = logits + bias
    row_positions = torch.arange(first_position, first_position + query.shape[1], device=query.device)
    allowed = visible(row_positions, torch.arange(key.shape[0], device=query.device), inputs.window)
    return torch.softmax(logits.masked_fill(~allowed, float("-inf")), dim=-1).sum(dim=1)
