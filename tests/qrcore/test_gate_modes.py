"""What each mode of a gate does, in every family, against hooks, empty weights and full matrices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from qrcore.attention import kernel
from qrcore.attention.attach import run
from qrcore.attention.cached import run_cached
from qrcore.attention.call import AttentionCall, CachedLayout, PackedLayout
from qrcore.attention.gate import Gate, RowGate, layer_gates, on_row, uniform
from qrcore.attention.read import LayerReader
from qrcore.heads import Head
from qrcore.records import Span
from tests.qrcore.families import HEADS
from tests.qrcore.gated import (
    BIAS,
    GATED,
    LATE_BIAS,
    SIZE,
    assert_close,
    every_model,
    gated_model,
    heads_zeroed,
    own_logits,
    packed_logits,
    rows_of,
    slow_logits,
    some_models,
)


@every_model
def test_zero_is_what_hooks_and_what_empty_weights_do(name: str) -> None:
    ids = rows_of(name)[0]
    with heads_zeroed(name, GATED):
        expected = own_logits(name, ids)
    (found,) = packed_logits(name, [ids], [RowGate(Gate("zero", GATED))])
    assert_close(found, expected)
    assert float((expected - own_logits(name, ids)).abs().max()) > 0.01


@some_models
def test_an_output_of_zero_is_a_block_of_zero_in_the_output_projection(name: str) -> None:
    ids = rows_of(name)[0]
    before = own_logits(name, ids)
    with heads_zeroed(name, GATED):
        hooked = own_logits(name, ids)
    model: Any = gated_model(name)
    weights = {layer: model.model.layers[layer].self_attn.o_proj.weight for layer in (2, 3)}
    kept = {layer: weight.clone() for layer, weight in weights.items()}
    try:
        for head in GATED:
            weights[head.layer][:, head.head * SIZE : (head.head + 1) * SIZE] = 0.0
        assert torch.equal(own_logits(name, ids), hooked)
    finally:
        for layer, weight in kept.items():
            weights[layer].copy_(weight)
    assert torch.equal(own_logits(name, ids), before)


@some_models
def test_uniform_and_bias_are_what_full_matrices_give(name: str) -> None:
    ids = rows_of(name)[0]
    for gate in (Gate("uniform", GATED), BIAS, LATE_BIAS):
        placed = on_row(gate)
        (found,) = packed_logits(name, [ids], [placed])
        expected = slow_logits(name, ids, [placed])
        assert_close(found, expected)
        assert float((expected - own_logits(name, ids)).abs().max()) > 0.01


@some_models
def test_the_kernel_of_gpus_and_of_gradients_gates_alike(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the sums of its softmax a kernel gets every key at once: the path of any device but the CPU."""
    ids = rows_of(name)[0]
    for gate in (Gate("uniform", GATED), Gate("zero", GATED), BIAS):
        (usual,) = packed_logits(name, [ids], [on_row(gate)])
        with monkeypatch.context() as patch:
            patch.setattr(kernel, "_gives_logsumexp", lambda query: False)
            (other,) = packed_logits(name, [ids], [on_row(gate)])
        assert_close(other, usual)


def test_uniform_and_zero_are_not_the_same() -> None:
    ids = rows_of("llama")[0]
    found = {mode: packed_logits("llama", [ids], [RowGate(Gate(mode, GATED))])[0] for mode in ("uniform", "zero")}  # type: ignore[arg-type]
    assert float((found["uniform"] - found["zero"]).abs().max()) > 0.01


def test_a_uniform_head_gives_every_visible_token_the_same_weight() -> None:
    """Row i has exactly i + 1 times 1 / (i + 1)."""
    seen: list[Tensor] = []

    def weights(layer: int, inputs: Any) -> None:
        seen.append(inputs.own_weights()[5])

    ids = rows_of("llama")[1]
    layout = PackedLayout.of_one(len(ids))
    run(gated_model("llama"), torch.tensor(ids), AttentionCall(layout, {2: weights}, uniform(GATED), last_layer=2))
    expected = torch.ones(12, 12).tril() / torch.arange(1, 13)[:, None]
    assert torch.equal(seen[0], expected)


def test_a_uniform_head_of_a_padded_row_says_the_mean_of_its_own_values() -> None:
    """What padding holds has no weight, in the prompt and in every step behind it."""
    model: Any = gated_model("llama")
    attention = model.model.layers[2].self_attn
    said: list[Tensor] = []
    values: list[Tensor] = []
    hooks = [
        attention.o_proj.register_forward_pre_hook(lambda _module, inputs: said.append(inputs[0])),
        attention.v_proj.register_forward_hook(lambda _module, _inputs, output: values.append(output)),
    ]
    padding, cache = (5, 0), DynamicCache(config=model.config)
    ids = torch.tensor([[17] * 5 + rows_of("llama")[1][:9], rows_of("llama")[0][:14]])
    try:
        for start, stop in ((0, 12), (12, 13), (13, 14)):
            call = AttentionCall(CachedLayout(padding, stop, stop - start), gates=uniform(GATED))
            run_cached(model, ids[:, start:stop], call, cache)
    finally:
        for hook in hooks:
            hook.remove()
    outputs, held = torch.cat(said, dim=1), torch.cat(values, dim=1)
    for head in (0, 5):
        group = head // (HEADS // model.config.num_key_value_heads)
        for row, first in enumerate(padding):
            own = held[row, first:, group * SIZE : (group + 1) * SIZE]
            means = own.cumsum(dim=0) / torch.arange(1, len(own) + 1)[:, None]
            assert_close(outputs[row, first:, head * SIZE : (head + 1) * SIZE], means)


@some_models
def test_a_bias_can_be_read(name: str) -> None:
    ids = rows_of(name)[0]
    layout = PackedLayout.of_one(60, (10,))
    gate = Gate("bias", BIAS.heads, keys=(Span(3, 9),), delta=4.0, queries=Span(62, 66))
    collected: dict[Head, list[Tensor]] = {}
    heads = tuple(Head(2, head) for head in range(HEADS))
    reader = LayerReader(layout, (Span(0, 10),), heads, collected)
    own: list[Tensor] = []

    def compare(layer: int, inputs: Any) -> None:
        reader(layer, inputs)
        logits = inputs.own_weights()[:, 60:].log()
        logits[[0, 5], 2:6, 3:9] += 4.0
        own.append(torch.softmax(logits, dim=-1).mean(dim=1))

    run(
        gated_model(name),
        torch.tensor(ids),
        AttentionCall(layout, {2: compare}, layer_gates([on_row(gate)]), last_layer=2),
    )
    for head in heads:
        torch.testing.assert_close(collected[head][0], own[0][head.head], rtol=1e-4, atol=1e-6)
