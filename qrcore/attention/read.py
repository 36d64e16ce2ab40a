"""The verb *read*: attention of chosen heads from chosen rows of each suffix to every key that the suffix sees."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from qrcore.attention.attach import run
from qrcore.attention.call import AttentionCall, AttentionInputs, LayerRead, PackedLayout
from qrcore.attention.kernel import attention_logits, keys_of_suffix, visible
from qrcore.heads import Head
from qrcore.records import Span

#: Logits held at once while reading one group of heads (float32: 64 MiB).
_LOGITS_AT_ONCE: Final = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Suffix:
    """Tokens that follow the shared documents, and which of them (``rows``, within the suffix) are read from."""

    ids: tuple[int, ...]
    rows: Span


def read_attention(
    model: PreTrainedModel, prefix_ids: Sequence[int], suffixes: Sequence[Suffix], heads: Sequence[Head]
) -> list[Tensor]:
    """Softmax attention from each suffix's rows, averaged over the rows, after one packed forward pass.

    Returns one float32 tensor ``[head, key]`` per suffix, heads in the order of ``heads`` (all different), keys the
    prefix followed by the suffix itself. The pass ends inside the deepest layer of ``heads``.
    QRHead (arXiv 2506.09944) Eq. 2 before the sum over document tokens.
    """
    layout = PackedLayout(len(prefix_ids), tuple(len(suffix.ids) for suffix in suffixes))
    rows = tuple(suffix.rows for suffix in suffixes)
    collected: dict[Head, list[Tensor]] = {}
    readers: dict[int, LayerRead] = {
        layer: LayerReader(layout, rows, tuple(chosen), collected) for layer, chosen in _by_layer(heads).items()
    }
    call = AttentionCall(layout=layout, reads=readers, last_layer=max(readers))
    token_ids = torch.tensor([*prefix_ids, *(token for suffix in suffixes for token in suffix.ids)])
    run(model, token_ids.to(model.device), call)
    return [torch.stack([collected[head][index] for head in heads]) for index in range(len(suffixes))]


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
            self.collected[head] = []
        for kv_head, members in groups.items():
            for suffix, rows in zip(self.layout.suffixes, self.rows, strict=True):
                means = self._read_group(inputs, kv_head, members, suffix, rows)
                for head, mean in zip(members, means, strict=True):
                    self.collected[head].append(mean)

    def _read_group(
        self, inputs: AttentionInputs, kv_head: int, members: Sequence[Head], suffix: Span, rows: Span
    ) -> Tensor:
        """Mean attention over the rows, ``[member, key]``, in float32 whatever the model's dtype."""
        own = slice(suffix.start, suffix.stop)
        key = keys_of_suffix(inputs.key[kv_head : kv_head + 1], self.layout, own)[0].float()
        query = inputs.query[[head.head for head in members], suffix.start + rows.start : suffix.start + rows.stop]
        first_position = self.layout.prefix_length + rows.start
        total = torch.zeros(len(members), key.shape[0], device=key.device)
        rows_at_once = max(1, _LOGITS_AT_ONCE // (len(members) * key.shape[0]))
        for start in range(0, query.shape[1], rows_at_once):
            chunk = query[:, start : start + rows_at_once].float()
            total = total + _attention_sum(chunk, key, inputs, first_position + start)
        return total / query.shape[1]


def _attention_sum(query: Tensor, key: Tensor, inputs: AttentionInputs, first_position: int) -> Tensor:
    logits = attention_logits(query, key, inputs.scaling, inputs.softcap)
    row_positions = torch.arange(first_position, first_position + query.shape[1], device=query.device)
    allowed = visible(row_positions, torch.arange(key.shape[0], device=query.device), inputs.window)
    return torch.softmax(logits.masked_fill(~allowed, float("-inf")), dim=-1).sum(dim=1)
