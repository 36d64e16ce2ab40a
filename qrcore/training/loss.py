"""Loss of a batch: weighted next tokens and the taught heads; with the accuracies that gates look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import LlamaForCausalLM

from qrcore.training.precision import layer_autocast, layer_dtype
from qrcore.training.samples import COPY, INDEX, VERDICT, Batch, Sample, collate, pad_id_of
from qrcore.training.teaching import HeadLesson, TaughtHeads


@dataclass(frozen=True, slots=True)
class Accuracies:
    """Shares of right best guesses, the true tokens before them given; None where nothing of the kind occurred.

    ``copy``: tokens copied from the context; ``index``: the number of the document that answers; ``verdict``: yes or
    no when asked again; ``heads``: queries of which the taught heads look most at the document asked for.
    """

    copy: float | None
    index: float | None
    verdict: float | None
    heads: float | None


@dataclass(frozen=True, slots=True, eq=False)
class BatchOutcome:
    """``loss``: sum of the weighted losses, the taught heads' among them; ``hits`` and ``roles``: for each weighted
    token, whether the model's best guess was right, and what the token stands for; ``head_hits``: the same of each
    query for the taught heads."""

    loss: torch.Tensor
    hits: torch.Tensor
    roles: torch.Tensor
    head_hits: torch.Tensor


def run_batch(model: LlamaForCausalLM, batch: Batch, taught: TaughtHeads | None = None) -> BatchOutcome:
    """One forward pass, its layers in :func:`layer_dtype`; logits are computed for weighted tokens only."""
    batch = batch.to(model.device)
    weights = batch.weights[:, 1:]
    counted = weights > 0
    lesson = HeadLesson(taught, batch) if taught else None
    with layer_autocast(model.device):
        bias = torch.zeros(batch.visible.shape, dtype=layer_dtype(model.device), device=model.device)
        bias.masked_fill_(~batch.visible, float("-inf"))
        hidden = model.model(
            input_ids=batch.ids,
            position_ids=batch.positions,
            attention_mask=bias,
            use_cache=False,
            lesson=lesson,
        ).last_hidden_state
        logits = model.lm_head(hidden[:, :-1][counted]).float()
    targets = batch.ids[:, 1:][counted]
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    hits = logits.detach().argmax(-1) == targets
    loss = (losses * weights[counted]).sum() + (lesson.total() if lesson else 0.0)
    head_hits = torch.cat(lesson.hits) if lesson and lesson.hits else hits[:0]
    return BatchOutcome(loss, hits, batch.roles[:, 1:][counted], head_hits)


def accuracies(outcomes: Sequence[BatchOutcome]) -> Accuracies:
    """The accuracies over several batches."""
    hits = torch.cat([outcome.hits for outcome in outcomes])
    roles = torch.cat([outcome.roles for outcome in outcomes])
    head_hits = torch.cat([outcome.head_hits for outcome in outcomes])
    copy, index, verdict = (_share(hits[roles == role]) for role in (COPY, INDEX, VERDICT))
    return Accuracies(copy, index, verdict, _share(head_hits))


@torch.no_grad()
def measure(model: LlamaForCausalLM, samples: Sequence[Sample], taught: TaughtHeads | None = None) -> Accuracies:
    """The accuracies over `samples`."""
    return accuracies([run_batch(model, collate([sample], pad_id_of(model)), taught) for sample in samples])


def _share(hits: torch.Tensor) -> float | None:
    return float(hits.float().mean()) if len(hits) else None
