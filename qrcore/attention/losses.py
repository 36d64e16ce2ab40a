"""Cross-entropy of every token of a batch, as the model is and with heads gated, without all logits at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from qrcore.attention.attach import run
from qrcore.attention.call import AttentionCall, Fork, PackedLayout, Segment
from qrcore.attention.gate import Gate, first_layer, layer_gates, on_row

#: Logits held at once (float32): 4 MiB on a CPU, where larger blocks come from the system anew each time, and more
#: elsewhere, where large products are fast.
_ON_CPU: Final = 2**20
_ELSEWHERE: Final = 64 * 2**20
#: Of a large vocabulary these are too few tokens: every chunk reads the whole head's weights.
_FEWEST_TOKENS: Final = 256


def token_losses(
    model: PreTrainedModel,
    rows: Sequence[Sequence[int]],
    copies: Sequence[Sequence[Gate]] = ((),),
    logits_at_once: int | None = None,
) -> list[list[Tensor]]:
    """Losses of the tokens of each row behind its first one, ``[token - 1]`` float32 in nats, by copy and row.

    ``model``: a causal language model with its head; ``rows``: token ids, packed into one pass; ``copies``: the gates
    of each copy of all rows (scope *all*); ``logits_at_once``: how many are held at most, None for what suits the
    device. Layers below the first gated one are computed once for all copies. Rows do
    not influence one another but for rounding.
    """
    layer = first_layer(gate for gates in copies for gate in gates)
    runs = 1 if layer is None else len(copies)
    gates = layer_gates(
        on_row(gate, number * len(rows) + row)
        for number, of_copy in enumerate(copies[:runs])
        for gate in of_copy
        for row in range(len(rows))
    )
    layout = PackedLayout(tuple(Segment(len(row)) for row in rows))
    ids = torch.tensor([token for row in rows for token in row]).to(model.device)
    fork = Fork(layer, runs) if layer is not None and runs > 1 else None
    decoder: Any = model.base_model
    hidden = run(decoder, ids, AttentionCall(layout, gates=gates, fork=fork)).last_hidden_state[0]
    # The last token of a row has none behind it.
    telling = torch.cat([torch.arange(span.start, span.stop - 1) for span in layout.spans]).to(model.device)
    tokens = tokens_at_once(model, logits_at_once)
    of_copies = [_losses(model, one, telling, ids[telling + 1], tokens) for one in hidden.split(layout.length)]
    lengths = [len(row) - 1 for row in rows]
    found = [list(losses.split(lengths)) for losses in of_copies]
    # Without any gated head all copies are the same pass, to the bit.
    return found if runs == len(copies) else [found[0]] * len(copies)


def head_logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """What the language-model head makes of final hidden states ``[token, dim]``: ``[token, vocabulary]`` float32."""
    anything: Any = model
    logits: Tensor = anything.lm_head(hidden).float()
    scaling = getattr(model.config, "logits_scaling", None)
    softcap = getattr(model.config, "final_logit_softcapping", None)
    logits = logits if scaling is None else logits / scaling
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def tokens_at_once(model: PreTrainedModel, logits_at_once: int | None = None) -> int:
    """Of how many tokens the logits are held at once."""
    vocabulary = int(model.config.vocab_size)
    if logits_at_once is not None:
        return max(1, logits_at_once // vocabulary)
    return max(_FEWEST_TOKENS, (_ON_CPU if model.device.type == "cpu" else _ELSEWHERE) // vocabulary)


def _losses(model: PreTrainedModel, hidden: Tensor, telling: Tensor, targets: Tensor, tokens: int) -> Tensor:
    parts = [
        functional.cross_entropy(head_logits(model, hidden[here]), expected, reduction="none")
        for here, expected in zip(telling.split(tokens), targets.split(tokens), strict=True)
    ]
    return torch.cat(parts)
