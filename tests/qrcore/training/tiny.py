"""Models and layers that are as small as they can be."""

from __future__ import annotations

import torch
from transformers import LlamaForCausalLM

from qrcore.training.attention import attach_training_attention
from qrcore.training.model import InitialScales, ModelShape, build_model


class Vocabulary:
    """As much of a tokenizer as a model's config needs."""

    bos_token_id, eos_token_id, pad_token_id = 1, 2, 0

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size


class Layer(torch.nn.Module):
    """As much of an attention module as the attention function looks at."""

    def __init__(self, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx


def tiny_model(vocabulary: int = 64, seed: int = 0) -> LlamaForCausalLM:
    """Two layers of four heads, with the attention of training."""
    shape = ModelShape(hidden=32, layers=2, heads=4, kv_heads=4, head_size=8, feed_forward=64)
    model = build_model(shape, Vocabulary(vocabulary), seed, InitialScales(copying=1.0))  # type: ignore[arg-type]
    attach_training_attention(model)
    return model
