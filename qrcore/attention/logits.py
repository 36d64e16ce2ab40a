"""What a language model says next, through the packed pass run to its end: gates and reads can be had on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from qrcore.attention.attach import run
from qrcore.attention.call import AttentionCall, LayerGate, LayerRead, PackedLayout


def next_token_logits(
    model: PreTrainedModel,
    ids: Sequence[int],
    rows: int,
    gates: Mapping[int, LayerGate] | None = None,
    reads: Mapping[int, LayerRead] | None = None,
) -> Tensor:
    """Logits ``[row, vocabulary]`` (float32) of the token after each of the last ``rows`` tokens of ``ids``.

    ``model``: a causal language model with its head; ``gates`` and ``reads`` by layer.
    """
    call = AttentionCall(PackedLayout.of_one(len(ids)), reads or {}, gates or {})
    token_ids = torch.tensor(list(ids)).to(model.device)
    logits: Tensor = run(model, token_ids, call, logits_to_keep=rows).logits
    return logits[0].float()
