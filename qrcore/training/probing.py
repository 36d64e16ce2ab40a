"""What a trained model says next, as a whole or with some of its heads masked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from qrcore.heads import Head, ModelShape
from qrcore.models import resolve_device
from qrcore.training.attention import attach_training_attention
from qrcore.training.precision import layer_autocast, layer_dtype
from qrcore.training.samples import pad_id_of


def load_language_model(folder: str, device: str = "cpu") -> LlamaForCausalLM:
    """All layers and the language-model head of the model in ``folder``, in float32, for reading only.

    ``device``: ``auto``, or as torch writes it. Raises ModelError for one that there is not.
    """
    target = resolve_device(device)
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
    model.requires_grad_(False)
    torch.nn.Module.to(model, target)
    model.eval()
    return model


def load_probed_model(folder: str, device: str = "cpu") -> LlamaForCausalLM:
    """The same with the attention that knows gates, for :func:`next_token_log_probabilities`."""
    model = load_language_model(folder, device)
    attach_training_attention(model)
    return model


def masking_gate(shape: ModelShape, heads: Iterable[Head]) -> Tensor:
    """A gate ``[layer, query head]``: 0 for ``heads``, which then attend alike to every token they see; 1 elsewhere."""
    gate = torch.ones(shape.layers, shape.query_heads)
    for head in heads:
        gate[head.layer, head.head] = 0.0
    return gate


@torch.inference_mode()
def next_token_log_probabilities(model: LlamaForCausalLM, ids: Sequence[int], gate: Tensor | None = None) -> Tensor:
    """Log-probabilities ``[vocabulary]`` (float32, on the CPU) of the token after ``ids``.

    ``model`` comes from :func:`load_probed_model`; ``gate`` ``[layer, query head]`` multiplies the queries. The layers
    run in the precision of training (:func:`~qrcore.training.precision.layer_dtype`).
    """
    device = model.device
    with layer_autocast(device):
        hidden = model.model(
            input_ids=torch.tensor([list(ids)], device=device),
            attention_mask=_causal_bias(len(ids), device),
            use_cache=False,
            gate=None if gate is None else gate.to(device),
        ).last_hidden_state
    # In float32 always: logits of bfloat16 are so coarse that two tokens often share the best.
    logits = model.lm_head(hidden[0, -1].float())
    return torch.log_softmax(logits.float(), dim=-1).cpu()


def greedy_continuation(
    model: LlamaForCausalLM, ids: Sequence[int], max_new_tokens: int, end_id: int
) -> tuple[int, ...]:
    """The likeliest token after ``ids``, again and again, up to ``end_id`` (left out) or ``max_new_tokens``.

    ``model`` comes from :func:`load_language_model`.
    """
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=end_id, pad_token_id=pad_id_of(model)
    )
    given = torch.tensor([list(ids)], device=model.device)
    generator: Any = model  # transformers types its method for a class that no model is
    with torch.inference_mode():
        whole = generator.generate(given, attention_mask=torch.ones_like(given), generation_config=settings)
    return tuple(token for token in whole[0, len(ids) :].tolist() if token != end_id)


def _causal_bias(length: int, device: torch.device) -> Tensor:
    later = torch.ones(length, length, dtype=torch.bool, device=device).triu(1)
    bias = torch.zeros(1, 1, length, length, dtype=layer_dtype(device), device=device)
    return bias.masked_fill_(later, float("-inf"))
