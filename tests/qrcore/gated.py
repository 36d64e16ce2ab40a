"""Tiny models with gated heads: packed passes of ours, and the slow way beside them, with hooks and full matrices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface, AutoModelForCausalLM, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from qrcore.attention.attach import run
from qrcore.attention.call import AttentionCall, Fork, PackedLayout, Segment
from qrcore.attention.gate import Gate, RowGate, layer_gates
from qrcore.heads import Head
from qrcore.records import Span
from tests.qrcore.families import LAYERS, MODELS, _draw_weights, config_of

LENGTHS: Final = (70, 12, 45)
GATED: Final = (Head(2, 0), Head(2, 5), Head(3, 2))
SIZE: Final = 16

every_model = pytest.mark.parametrize("name", sorted(MODELS))
some_models = pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text"])


@cache
def gated_model(name: str) -> PreTrainedModel:
    torch.manual_seed(3)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config_of(name), attn_implementation="eager")
    _draw_weights(model)
    return model.float().eval().requires_grad_(False)


def rows_of(name: str) -> list[list[int]]:
    draw = torch.Generator().manual_seed(5)
    vocabulary = gated_model(name).config.vocab_size
    return [torch.randint(10, vocabulary, (length,), generator=draw).tolist() for length in LENGTHS]


def own_logits(name: str, ids: list[int]) -> Tensor:
    output: Any = gated_model(name)(torch.tensor([ids]), use_cache=False)
    logits: Tensor = output.logits[0]
    return logits


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def packed_logits(name: str, rows: list[list[int]], gates: list[RowGate], fork: Fork | None = None) -> list[Tensor]:
    """Logits of every token of every row and copy."""
    layout = PackedLayout(tuple(Segment(len(row)) for row in rows))
    # Chunks that begin behind the windows of these models, too.
    call = AttentionCall(layout, gates=layer_gates(gates), fork=fork, chunk_tokens=25)
    logits: Tensor = run(gated_model(name), torch.tensor([token for row in rows for token in row]), call).logits[0]
    copies = fork.copies if fork else 1
    return list(logits.split([len(row) for row in rows] * copies))


# The slow way: the family's own code with hooks and full matrices


@contextmanager
def heads_zeroed(name: str, heads: tuple[Head, ...], first: int = 0) -> Iterator[None]:
    """What a head hands to the output projection is 0 from the token ``first`` on."""
    hooks = []
    for head in heads:
        attention: Any = gated_model(name).model.layers[head.layer].self_attn  # type: ignore[union-attr,index]

        def zero(_module: object, inputs: tuple[Tensor], head: Head = head) -> tuple[Tensor]:
            states = inputs[0].clone()
            states[:, first:, head.head * SIZE : (head.head + 1) * SIZE] = 0.0
            return (states,)

        hooks.append(attention.o_proj.register_forward_pre_hook(zero))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _eager_changed(name: str, gates: dict[int, list[RowGate]]) -> Iterator[None]:
    """The family's own attention over full matrices, with ``gates`` by layer put in by hand."""

    def changed(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float, **others: Any
    ) -> tuple[Tensor, None]:
        query = query.clone()
        bias = torch.zeros(1, query.shape[1], query.shape[2], key.shape[2])
        for one in gates.get(module.layer_idx, ()):
            heads = [head.head for head in one.gate.heads if head.layer == module.layer_idx]
            rows = slice(one.queries.start, min(one.queries.stop, query.shape[2]))
            if one.gate.mode == "uniform":
                query[:, heads, rows] = 0.0
            for span in one.gate.keys:
                bias[:, heads, rows, span.start : span.stop] += one.gate.delta
        group = query.shape[1] // key.shape[1]
        logits = query @ key.repeat_interleave(group, 1).transpose(2, 3) * scaling
        softcap = others.get("softcap")
        logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
        weights = torch.softmax(logits + mask[..., : key.shape[2]] + bias, dim=-1)
        return (weights @ value.repeat_interleave(group, 1)).transpose(1, 2), None

    model = gated_model(name)
    AttentionInterface.register("by_hand", changed)
    AttentionMaskInterface.register("by_hand", eager_mask)
    model.config._attn_implementation = "by_hand"
    try:
        yield
    finally:
        model.config._attn_implementation = "eager"
        AttentionInterface._global_mapping.pop("by_hand")
        AttentionMaskInterface._global_mapping.pop("by_hand")


def slow_logits(name: str, ids: list[int], gates: list[RowGate]) -> Tensor:
    by_layer = {
        layer: [one for one in gates if any(h.layer == layer for h in one.gate.heads)] for layer in range(LAYERS)
    }
    with _eager_changed(name, by_layer):
        return own_logits(name, ids)


BIAS: Final = Gate("bias", (Head(1, 3), *GATED), keys=(Span(3, 9), Span(20, 22)), delta=2.3, queries=Span(30, 40))
#: Its rows see, in layers with a window, only a part of its keys, and not the first key.
LATE_BIAS: Final = Gate("bias", BIAS.heads, keys=(Span(10, 24), Span(30, 34)), delta=-1.7, queries=Span(60, 68))
