"""Gates while generating: cached steps, padded batches, scopes and streams, against whole rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from qrcore.attention.gate import Gate, GateScope, RowGate, on_row
from qrcore.attention.streams import Streams
from qrcore.decode import decode_greedy, decode_streams
from qrcore.heads import Head
from qrcore.records import Span
from tests.qrcore.families import MODELS
from tests.qrcore.gated import (
    BIAS,
    GATED,
    assert_close,
    every_model,
    gated_model,
    own_logits,
    packed_logits,
    rows_of,
    some_models,
)


def _streamed(name: str, gates: list[list[Gate]], steps: int = 6) -> list[list[Tensor]]:
    """Logits of each step by stream and row, every row going on with tokens of its own."""
    rows = rows_of(name)
    longest = max(map(len, rows)) - steps
    prompts = [row[: len(row) - steps] for row in rows]
    streams = Streams(
        gated_model(name), [len(prompt) for prompt in prompts], [[of_stream] * len(rows) for of_stream in gates]
    )
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    found = [streams.next_logits(ids)]
    for step in range(steps):
        found.append(streams.next_logits(torch.tensor([[row[len(row) - steps + step]] for row in rows])))
    return [
        [torch.stack([at[stream, row] for at in found]) for row in range(len(rows))] for stream in range(len(gates))
    ]


#: Positions of the others depend on the longest row: decode runs their prompts one by one.
batched_models = pytest.mark.parametrize("name", sorted(set(MODELS) - {"llama-dynamic", "phi3"}))


@batched_models
@pytest.mark.parametrize("scopes", [("all", "all"), ("decode", "decode"), ("all", "decode")])
def test_cached_steps_are_one_pass_over_the_whole_row(name: str, scopes: tuple[GateScope, GateScope]) -> None:
    """The pass over whole rows is told by hand which queries are gated: from the last token of the prompt on."""
    first, second = scopes
    gates = [Gate("uniform", GATED, first), Gate("bias", (Head(1, 4),), second, keys=(Span(2, 5),), delta=3.0)]
    streams = [[], gates, [Gate("zero", GATED, second)]]
    found = _streamed(name, streams)
    for row, ids in enumerate(rows_of(name)):
        prompt = len(ids) - 6
        for stream, of_stream in enumerate(streams):
            by_hand = [
                RowGate(replace(gate, scope="all"), None, Span(0 if gate.scope == "all" else prompt - 1, len(ids)))
                for gate in of_stream
            ]
            (whole,) = packed_logits(name, [ids], by_hand)
            assert_close(found[stream][row], whole[prompt - 1 :])
        assert_close(found[0][row], own_logits(name, ids)[prompt - 1 :])


def test_scopes_give_different_logits() -> None:
    found = {scope: _streamed("llama", [[Gate("uniform", GATED, scope)]])[0][0] for scope in ("all", "decode")}  # type: ignore[arg-type]
    assert float((found["all"] - found["decode"]).abs().max()) > 1e-3


def test_a_prompt_that_no_gate_touches_is_run_once() -> None:
    tokens: list[tuple[int, int]] = []
    layer: Any = gated_model("llama").model.layers[3]  # type: ignore[union-attr,index]
    hook = layer.mlp.register_forward_hook(lambda module, inputs, output: tokens.append(tuple(output.shape[:2])))
    try:
        _streamed("llama", [[], [Gate("uniform", GATED, "decode")]], steps=2)
    finally:
        hook.remove()
    assert tokens == [(3, 67), (6, 1), (6, 1), (6, 1)]


@some_models
def test_generation_with_gates_is_step_by_step_over_whole_rows(name: str) -> None:
    prompts = rows_of(name)
    gates = [[Gate("uniform", GATED)], [], [Gate("zero", GATED), BIAS]]
    found = decode_greedy(gated_model(name), prompts, 5, gates=gates)
    for prompt, of_row, one in zip(prompts, gates, found, strict=True):
        ids = list(prompt)
        for _ in range(5):
            (logits,) = packed_logits(name, [ids], [on_row(gate, None, len(prompt)) for gate in of_row])
            ids.append(int(logits[-1].argmax()))
        assert list(one.ids) == ids[len(prompt) :]


@every_model
def test_streams_without_gates_decode_what_plain_greedy_does(name: str) -> None:
    prompts = rows_of(name)
    streams: list[list[list[Gate]]] = [[[]] * 3, [[]] * 3]

    def hook(step: int, logits: Tensor) -> Tensor:
        assert logits.shape[0] == 2 and torch.equal(logits[0], logits[1])
        return logits[1]

    assert decode_streams(gated_model(name), prompts, 6, streams, hook) == decode_greedy(gated_model(name), prompts, 6)
