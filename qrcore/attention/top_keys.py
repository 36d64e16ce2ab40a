"""The verb *top keys*: which key each head attends to most, token by token of the end of a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from qrcore.attention.attach import run
from qrcore.attention.call import AttentionCall, AttentionInputs, LayerRead, PackedLayout
from qrcore.attention.kernel import attention_logits, visible

#: Logits held at once (float32: 64 MiB).
_LOGITS_AT_ONCE: Final = 16 * 2**20


def read_top_keys(model: PreTrainedModel, ids: Sequence[int], rows: int) -> Tensor:
    """The place of the key with the largest attention of the last ``rows`` tokens of ``ids``, ``[layer, head, row]``.

    All layers and heads of the model, in one plain causal pass. Of equal keys it is the first. Softmax keeps the
    order, so logits are compared.
    """
    layout = PackedLayout.of_one(len(ids))
    layers = model.config.num_hidden_layers
    collected: dict[int, list[Tensor]] = {layer: [] for layer in range(layers)}
    readers: dict[int, LayerRead] = {layer: _TopKeyReader(len(ids) - rows, collected) for layer in range(layers)}
    call = AttentionCall(layout=layout, reads=readers, last_layer=layers - 1)
    run(model, torch.tensor(list(ids)).to(model.device), call)
    return torch.stack([torch.cat(collected[layer], dim=1) for layer in range(layers)])


@dataclass(frozen=True, slots=True, eq=False)
class _TopKeyReader:
    first: int
    collected: dict[int, list[Tensor]]

    def __call__(self, layer: int, inputs: AttentionInputs) -> None:
        heads, length = inputs.query.shape[0], inputs.key.shape[1]
        group = heads // inputs.key.shape[0]
        rows_at_once = max(1, _LOGITS_AT_ONCE // length)
        for start in range(max(self.first, inputs.rows.start), inputs.rows.stop, rows_at_once):
            stop = min(start + rows_at_once, inputs.rows.stop)
            rows = slice(start - inputs.rows.start, stop - inputs.rows.start)
            found = [_top(inputs, inputs.query[head, rows], inputs.key[head // group], start) for head in range(heads)]
            self.collected[layer].append(torch.stack(found))


def _top(inputs: AttentionInputs, query: Tensor, key: Tensor, first: int) -> Tensor:
    logits = attention_logits(query.float()[None], key.float()[None], inputs.scaling, inputs.softcap)[0]
    places = torch.arange(len(key), device=key.device)
    allowed = visible(places[first : first + len(query)], places, inputs.window)
    return logits.masked_fill(~allowed, float("-inf")).argmax(dim=-1)
