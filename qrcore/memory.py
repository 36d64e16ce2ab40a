"""How many bytes weights and a forward pass take, predicted from a model's configuration before anything is loaded.

A layer runs chunk by chunk (:mod:`qrcore.attention.attach`), so that a pass keeps, for every token, one hidden vector,
one layer's keys and values and the rotary tables; what a layer makes in between exists for one chunk only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import AutoModel, PreTrainedConfig

from qrcore.attention.call import CHUNK_TOKENS
from qrcore.attention.read import LOGITS_AT_ONCE
from qrcore.heads import Head
from qrcore.models import cut_config, model_shape

_FLOAT32 = 4
_INT64 = 8
#: Share of a chunk that the C library's heap can't use again for each doubling of the tokens beyond one chunk: measured
#: with glibc at 2 to 16 chunks (tests/benchmarks/memory.py). Allocators of GPUs are not counted with what they keep.
_HEAP_SHARE = 0.4


@dataclass(frozen=True, slots=True)
class PassBytes:
    """Peak bytes by cause: ``weights`` of the kept layers; ``tokens``: what every token of a pass keeps; ``chunk``:
    what a layer makes in between; ``readings``: attention of the chosen heads to all keys, for each suffix; ``heap``:
    what the allocator of a CPU keeps of earlier chunks without a use for it."""

    weights: int
    tokens: int
    chunk: int
    readings: int
    heap: int = 0

    @property
    def total(self) -> int:
        """All of them at once: the peak."""
        return self.weights + self.tokens + self.chunk + self.readings + self.heap


@dataclass(frozen=True, slots=True)
class PassMemory:
    """The memory of passes with one model and one head set, in bytes: of the kept ``weights``, for each ``token`` of a
    pass, for each token of a chunk (``chunk_token``), and for each key of a suffix that is read (``reading_key``).
    ``heap_share``: of a chunk that is lost to the allocator with each doubling of the tokens beyond one chunk."""

    weights: int
    token: int
    chunk_token: int
    reading_key: int
    chunk_tokens: int
    heap_share: float = 0.0

    @classmethod
    def of(
        cls,
        config: PreTrainedConfig,
        heads: Sequence[Head],
        dtype: torch.dtype = torch.float32,
        chunk_tokens: int = CHUNK_TOKENS,
        *,
        on_cpu: bool = True,
    ) -> PassMemory:
        """For the model of ``config`` (all of its layers) cut to the depth of ``heads``, on a CPU or a GPU."""
        depth = max(head.layer for head in heads) + 1
        shape, size = model_shape(config), dtype.itemsize
        head_dim = shape.head_dim or 0
        queries, keys = shape.query_heads * head_dim, shape.kv_heads * head_dim
        kinds = len(set(getattr(config, "layer_types", None) or ())) if config.model_type == "gemma3_text" else 1
        kept = config.hidden_size + 2 * keys + kinds * 2 * head_dim
        mlp = 2 * config.hidden_size + _wide_states(config) * config.intermediate_size
        attention = 2 * config.hidden_size + 4 * queries + 2 * keys
        return cls(
            weights=_parameters(cut_config(config, depth)) * size,
            token=kept * size + 2 * _INT64,
            chunk_token=max(mlp, attention) * size,
            reading_key=len(set(heads)) * _FLOAT32,
            chunk_tokens=chunk_tokens,
            heap_share=_HEAP_SHARE if on_cpu else 0.0,
        )

    def predict(self, tokens: int, suffixes: int = 2, keys: int | None = None) -> PassBytes:
        """The peak of a pass over ``tokens`` packed tokens with ``suffixes`` that are read, each of which sees up to
        ``keys`` keys (None: all tokens)."""
        seen = tokens if keys is None else keys
        logits = 3 * min(LOGITS_AT_ONCE, self.chunk_tokens * seen) * _FLOAT32
        chunk = max(min(tokens, self.chunk_tokens) * self.chunk_token, logits)
        doublings = math.log2(max(1.0, tokens / self.chunk_tokens))
        return PassBytes(
            weights=self.weights,
            tokens=tokens * self.token,
            chunk=chunk,
            readings=(suffixes + 2) * seen * self.reading_key,
            heap=int(self.heap_share * chunk * doublings),
        )

    def largest_pass(self, memory_bytes: int, suffixes: int = 2) -> int:
        """The most tokens of a pass that ``memory_bytes`` allow; 0 if not even the weights fit."""
        low, high = 0, 1
        while self.predict(high, suffixes).total <= memory_bytes:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.predict(middle, suffixes).total <= memory_bytes else (low, middle)
        return low


def _wide_states(config: PreTrainedConfig) -> int:
    """How many states of the MLP's width exist at once: gate, its activation, and the product; both halves of a fused
    projection stay until the end."""
    return 4 if config.model_type == "phi3" else 3


def _parameters(config: PreTrainedConfig) -> int:
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())
