"""Weighted next-token loss of a batch, with the accuracies that gates look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import LlamaForCausalLM

from qrcore.training.samples import COPY, INDEX, Batch, Sample, collate, pad_id_of


@dataclass(frozen=True, slots=True, eq=False)
class BatchOutcome:
    """``loss``: sum of the weighted losses; ``hits`` and ``roles``: for each weighted token, whether the model's best
    guess was right, and what the token stands for."""

    loss: torch.Tensor
    hits: torch.Tensor
    roles: torch.Tensor


def run_batch(model: LlamaForCausalLM, batch: Batch) -> BatchOutcome:
    """One forward pass in bfloat16 autocast; logits are computed for weighted tokens only."""
    device = model.device
    weights = batch.weights[:, 1:].to(device)
    counted = weights > 0
    targets = batch.ids[:, 1:].to(device)[counted]
    with torch.autocast(device.type, dtype=torch.bfloat16):
        bias = torch.zeros(batch.visible.shape, dtype=torch.bfloat16, device=device)
        bias.masked_fill_(~batch.visible.to(device), float("-inf"))
        hidden = model.model(
            input_ids=batch.ids.to(device),
            position_ids=batch.positions.to(device),
            attention_mask=bias,
            use_cache=False,
        ).last_hidden_state
        logits = model.lm_head(hidden[:, :-1][counted]).float()
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    hits = logits.detach().argmax(-1) == targets
    return BatchOutcome((losses * weights[counted]).sum(), hits, batch.roles[:, 1:].to(device)[counted])


def accuracies(outcomes: Sequence[BatchOutcome]) -> tuple[float | None, float | None]:
    """Copy and index accuracy over several batches; None where no such token occurred."""
    hits = torch.cat([outcome.hits for outcome in outcomes])
    roles = torch.cat([outcome.roles for outcome in outcomes])
    return _share(hits, roles == COPY), _share(hits, roles == INDEX)


@torch.no_grad()
def measure(model: LlamaForCausalLM, samples: Sequence[Sample]) -> tuple[float | None, float | None]:
    """Copy and index accuracy (best guess, the true tokens before it given) over `samples`."""
    return accuracies([run_batch(model, collate([sample], pad_id_of(model))) for sample in samples])


def _share(hits: torch.Tensor, chosen: torch.Tensor) -> float | None:
    return float(hits[chosen].float().mean()) if bool(chosen.any()) else None
