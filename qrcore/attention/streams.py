"""Several streams over the same tokens in one batch: a model as it is, and with heads gated, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from qrcore.attention.cached import run_cached
from qrcore.attention.call import AttentionCall, CachedLayout, Fork
from qrcore.attention.gate import Gate, first_layer, layer_gates, on_row

#: The gates of every row of one stream.
StreamGates = Sequence[Sequence[Gate]]


class Streams:
    """What every stream says next, with one cache for all: prompts first, then one token a step.

    ``prompt_tokens``: the length of each row's prompt; rows are padded on the left to the longest. Layers below the
    first gated one hold and compute every row once. Where all gates leave prompts alone (scope *decode*), so do the
    others, up to the last token of the prompt.
    """

    def __init__(self, model: PreTrainedModel, prompt_tokens: Sequence[int], streams: Sequence[StreamGates]) -> None:
        rows, longest = len(prompt_tokens), max(prompt_tokens)
        gates = [gate for stream in streams for of_row in stream for gate in of_row if gate.heads]
        layer = first_layer(gates)
        self._model = model
        self._padding = tuple(longest - tokens for tokens in prompt_tokens)
        self._fork = None if layer is None or len(streams) == 1 else Fork(layer, len(streams))
        self._streams = len(streams)
        self._gates = layer_gates(
            on_row(gate, number * rows + row, prompt_tokens[row])
            for number, stream in enumerate(streams)
            for row, of_row in enumerate(stream)
            for gate in of_row
        )
        self._decode_only = all(gate.scope == "decode" for gate in gates)
        self._cache = DynamicCache(config=model.config)
        self._length = 0

    def next_logits(self, ids: Tensor) -> Tensor:
        """Logits ``[stream, row, vocabulary]`` (float32) behind ``ids`` (``[row, token]``), which follow those of the
        calls before."""
        if self._length == 0 and self._decode_only and ids.shape[1] > 1:
            self._run(ids[:, :-1], gated=False)
            ids = ids[:, -1:]
        logits = self._run(ids, gated=True)
        by_stream: Tensor = logits.unflatten(0, (-1, len(self._padding)))
        return by_stream.expand(self._streams, -1, -1)

    def _run(self, ids: Tensor, *, gated: bool) -> Tensor:
        self._length += ids.shape[1]
        layout = CachedLayout(self._padding, self._length, ids.shape[1])
        call = AttentionCall(layout, gates=self._gates, fork=self._fork) if gated else AttentionCall(layout)
        output: Any = run_cached(self._model, ids, call, self._cache, logits_to_keep=1)
        logits: Tensor = output.logits[:, -1].to(torch.float32)
        return logits
