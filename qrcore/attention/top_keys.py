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
    layout = PackedLayout(len(ids), ())
    layers = model.config.num_hidden_layers
    collected: dict[int, Tensor] = {}
    readers: dict[int, LayerRead] = {layer: _TopKeyReader(rows, collected) for layer in range(layers)}
    call = AttentionCall(layout=layout, reads=readers, last_layer=layers - 1)
    run(model, torch.tensor(list(ids)).to(model.device), call)
    return torch.stack([collected[layer] for layer in range(layers)])


@dataclass(frozen=True, slots=True, eq=False)
class _TopKeyReader:
    rows: int
    collected: dict[int, Tensor]

    def __call__(self, layer: int, inputs: AttentionInputs) -> None:
        heads, length = inputs.query.shape[0], inputs.query.shape[1]
        group = heads // inputs.key.shape[0]
        rows_at_once = max(1, _LOGITS_AT_ONCE // length)
        first = length - self.rows
        found = torch.empty(heads, self.rows, dtype=torch.long, device=inputs.query.device)
        for head in range(heads):
            key = inputs.key[head // group].float()
            for start in range(first, length, rows_at_once):
                stop = min(start + rows_at_once, length)
                found[head, start - first : stop - first] = _top(inputs, inputs.query[head, start:stop], key, start)
        self.collected[layer] = found


def _top(inputs: AttentionInputs, query: Tensor, key: Tensor, first: int) -> Tensor:
    logits = attention_logits(query.float()[None], key[None], inputs.scaling, inputs.softcap)[0]
    places = torch.arange(len(key), device=key.device)
    allowed = visible(places[first : first + len(query)], places, inputs.window)
    return logits.masked_fill(~allowed, float("-inf")).argmax(dim=-1)
