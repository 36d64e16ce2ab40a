"""Uniform gates and next-token logits, in every family, against its own code and against weights set to zero."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from qrcore.attention.attach import run
from qrcore.attention.call import AttentionCall, AttentionInputs, PackedLayout
from qrcore.attention.gate import uniform
from qrcore.attention.logits import next_token_logits
from qrcore.attention.read import LayerReader
from qrcore.heads import Head
from qrcore.records import Span
from tests.qrcore.families import HEADS, LAYERS, MODELS, WINDOW, _draw_weights, config_of

LENGTH = 150
GATED = (Head(1, 0), Head(1, 5), Head(3, 2))

every_model = pytest.mark.parametrize("name", MODELS)


@cache
def _model(name: str) -> PreTrainedModel:
    torch.manual_seed(3)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config_of(name), attn_implementation="eager")
    _draw_weights(model)
    return model.float().eval().requires_grad_(False)


def _ids(name: str) -> list[int]:
    draw = torch.Generator().manual_seed(5)
    return torch.randint(10, _model(name).config.vocab_size, (LENGTH,), generator=draw).tolist()


def _own_logits(model: PreTrainedModel, ids: list[int]) -> Tensor:
    output: Any = model(torch.tensor([ids]), use_cache=False)
    logits: Tensor = output.logits[0]
    return logits


@every_model
def test_logits_are_those_of_the_model_itself(name: str) -> None:
    model, ids = _model(name), _ids(name)
    own = _own_logits(model, ids)
    found = next_token_logits(model, ids, rows=30)
    assert found.shape == (30, model.config.vocab_size)
    torch.testing.assert_close(found, own[-30:], rtol=1e-4, atol=1e-4 * float(own.abs().max()))
    torch.testing.assert_close(_own_logits(model, ids), own, rtol=0, atol=0)


@every_model
def test_gated_heads_attend_alike_to_all_they_see_and_the_others_as_before(name: str) -> None:
    plain, gated = (_weights(name, gates) for gates in ((), GATED))
    for head in GATED:
        window = _window(name, head.layer)
        seen = LENGTH if window is None else min(window, LENGTH)
        row = gated[head]
        torch.testing.assert_close(row[-seen:], torch.full((seen,), 1 / seen), rtol=0, atol=1e-6)
        assert float(row[:-seen].sum()) == 0.0
    for head in range(HEADS):
        beside = Head(1, head)
        if beside not in GATED:
            torch.testing.assert_close(gated[beside], plain[beside], rtol=0, atol=1e-6)
    above = [Head(2, head) for head in range(HEADS)]
    assert max(float((gated[head] - plain[head]).abs().max()) for head in above) > 1e-3
    before = [Head(0, head) for head in range(HEADS)]
    assert all(torch.equal(gated[head], plain[head]) for head in before)


def _weights(name: str, gated: tuple[Head, ...]) -> dict[Head, Tensor]:
    """Attention of the last token by head, read in the very pass that is gated."""
    layout = PackedLayout.of_one(LENGTH - 1, (1,))
    collected: dict[Head, list[Tensor]] = {}
    readers = {
        layer: LayerReader(layout, (Span(0, 1),), tuple(Head(layer, head) for head in range(HEADS)), collected)
        for layer in range(LAYERS)
    }
    call = AttentionCall(layout, dict(readers), uniform(gated), last_layer=LAYERS - 1)
    assert run(_model(name), torch.tensor(_ids(name)), call) is None
    return {head: found[0] for head, found in collected.items()}


def _window(name: str, layer: int) -> int | None:
    kinds = getattr(_model(name).config, "layer_types", None)
    if getattr(_model(name).config, "sliding_window", None) is None:
        return None
    return WINDOW if kinds is None or kinds[layer] == "sliding_attention" else None


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "granite"])
def test_a_gate_does_what_weights_of_zero_would_do(name: str) -> None:
    model, ids = _model(name), _ids(name)
    expected = _with_zero_queries(model, ids, GATED)
    found = next_token_logits(model, ids, LENGTH, uniform(GATED))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert float((expected - _own_logits(model, ids)).abs().max()) > 0.01


def _with_zero_queries(model: PreTrainedModel, ids: list[int], heads: tuple[Head, ...]) -> Tensor:
    hooks = []
    for head in heads:
        attention: Any = model.model.layers[head.layer].self_attn  # type: ignore[union-attr,index]

        def zero(_module: object, _inputs: object, output: Tensor, head: Head = head, size: int = 16) -> Tensor:
            output = output.clone()
            output[..., head.head * size : (head.head + 1) * size] = 0.0
            return output

        hooks.append(attention.q_proj.register_forward_hook(zero))
    try:
        return _own_logits(model, ids)
    finally:
        for hook in hooks:
            hook.remove()


def test_what_the_layer_computed_is_left_alone() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    class Gate:
        def before(self, layer: int, inputs: AttentionInputs) -> AttentionInputs:
            before = inputs.query.clone()
            gated = uniform([Head(1, 2)])[1].before(layer, inputs)
            seen.append((before, gated.query))
            assert torch.equal(inputs.query, before)
            return gated

        def after(self, layer: int, inputs: AttentionInputs, output: Tensor) -> Tensor:
            return output

    next_token_logits(_model("llama"), _ids("llama"), 1, {1: Gate()})
    ((before, after),) = seen
    assert after[2].abs().sum() == 0 and before[2].abs().sum() > 0
    assert torch.equal(after[[0, 1, 3]], before[[0, 1, 3]])
