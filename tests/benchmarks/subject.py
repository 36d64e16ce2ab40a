"""What is measured: a random Llama of 110 M parameters, 16 of its heads, and prompts of any length."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from transformers import LlamaConfig, LlamaModel, PreTrainedModel

from qrcore.attention.read import SharedPrompt, Suffix
from qrcore.heads import Head
from qrcore.records import Span

LAYERS: Final = 12
VOCABULARY: Final = 8192
#: 16 heads; the deepest layer is the eighth, which is not run to its end: 7 of 12 layers count.
HEADS: Final = tuple(Head(layer, head) for layer in (3, 4, 6, 7) for head in (0, 3, 5, 10))
DEPTH: Final = 8
QUERY_TOKENS: Final = 48
NULL_TOKENS: Final = 40


def config(layers: int = LAYERS, *, wide: bool = False) -> LlamaConfig:
    """The shape, with all or fewer layers; ``wide``: another one, with more heads and a narrower MLP."""
    hidden, intermediate, heads = (1280, 2560, 20) if wide else (768, 3072, 12)
    return LlamaConfig(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=4,
        vocab_size=VOCABULARY,
        max_position_embeddings=65536,
        attn_implementation="sdpa",
    )


def model(layers: int = LAYERS, *, wide: bool = False) -> PreTrainedModel:
    """Random weights."""
    torch.manual_seed(0)
    return LlamaModel(config(layers, wide=wide)).eval()


def tiny_model() -> PreTrainedModel:
    """A model of the same vocabulary and number of heads that costs nothing."""
    small = config(HEADS[0].layer + 1)
    small.hidden_size, small.intermediate_size, small.head_dim = 48, 64, 4
    return LlamaModel(small).eval()


def prompt(tokens: int, queries: int = 1, seed: int = 0) -> SharedPrompt:
    """Documents and ``queries`` (each with :data:`QUERY_TOKENS`) of which one makes ``tokens``, and the null query."""
    draw = np.random.default_rng((seed, tokens))
    prefix = _ids(draw, tokens - QUERY_TOKENS)
    asked = [Suffix(_ids(draw, QUERY_TOKENS), Span(0, QUERY_TOKENS)) for _ in range(queries)]
    return SharedPrompt(prefix, (*asked, Suffix(_ids(draw, NULL_TOKENS), Span(0, NULL_TOKENS))))


def _ids(draw: np.random.Generator, count: int) -> np.ndarray:
    return draw.integers(0, VOCABULARY, count, dtype=np.int32)
