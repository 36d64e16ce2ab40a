"""Gates on rows of a batch: each row its own, copies that share what lies below a fork, and the bits below it."""

from __future__ import annotations

import torch
from torch import Tensor

from qrcore.attention.attach import run
from qrcore.attention.call import AttentionCall, Fork, PackedLayout
from qrcore.attention.gate import Gate, RowGate, first_layer, uniform
from qrcore.heads import Head
from qrcore.records import Span
from tests.qrcore.gated import (
    BIAS,
    GATED,
    LENGTHS,
    assert_close,
    gated_model,
    own_logits,
    packed_logits,
    rows_of,
    some_models,
)


@some_models
def test_rows_have_their_own_gates_and_copies_share_what_lies_below(name: str) -> None:
    rows = rows_of(name)
    zero = Gate("zero", (Head(1, 1), Head(3, 7)))
    fork = Fork(1, 3)
    gates = [
        RowGate(Gate("uniform", GATED), 1 * 3 + 0),
        RowGate(zero, 1 * 3 + 1),
        RowGate(zero, 2 * 3 + 2),
        RowGate(BIAS, 5),
    ]
    found = packed_logits(name, rows, gates, fork)
    assert len(found) == 9
    for row, ids in enumerate(rows):
        for copy in range(3):
            of_row = [RowGate(one.gate) for one in gates if one.row == copy * 3 + row]
            (alone,) = packed_logits(name, [ids], of_row)
            assert_close(found[copy * 3 + row], alone)
    assert_close(found[0], own_logits(name, rows[0]))


def test_layers_below_the_fork_run_once_and_those_above_once_for_every_copy() -> None:
    model, rows = gated_model("llama"), rows_of("llama")
    seen: dict[int, int] = {}
    hooks = []
    for number, layer in enumerate(model.model.layers):  # type: ignore[union-attr,arg-type]

        def count(_module: object, inputs: tuple[Tensor, ...], output: Tensor, number: int = number) -> None:
            seen[number] = seen.get(number, 0) + output.shape[0] * output.shape[1]

        hooks.append(layer.mlp.register_forward_hook(count))
    packed_logits("llama", rows, [RowGate(Gate("uniform", GATED), 3)], Fork(2, 2))
    for hook in hooks:
        hook.remove()
    tokens = sum(LENGTHS)
    assert seen == {0: tokens, 1: tokens, 2: 2 * tokens, 3: 2 * tokens}


def test_layers_below_the_first_gated_one_are_the_same_to_the_bit() -> None:
    ids = torch.tensor(rows_of("llama")[0])
    states: dict[str, dict[int, Tensor]] = {"plain": {}, "gated": {}}
    for name, gates in (("plain", {}), ("gated", uniform(GATED))):
        keep = {
            layer: lambda layer, inputs, name=name: states[name].update({layer: inputs.query.clone()})
            for layer in range(4)
        }
        before = {layer: reader for layer, reader in keep.items() if layer != 2}
        run(gated_model("llama"), ids, AttentionCall(PackedLayout.of_one(70), before, gates))  # type: ignore[arg-type]
    assert all(torch.equal(states["plain"][layer], states["gated"][layer]) for layer in (0, 1))
    assert not torch.equal(states["plain"][3], states["gated"][3])
    assert first_layer([Gate("zero", GATED), Gate("uniform", (Head(3, 1),))]) == 2
    assert first_layer([Gate("zero", ())]) is None


def test_gates_without_heads_change_nothing_to_the_bit() -> None:
    ids = rows_of("llama")[0]
    (plain,) = packed_logits("llama", [ids], [])
    (gated,) = packed_logits(
        "llama", [ids], [RowGate(Gate("uniform", ())), RowGate(Gate("bias", GATED, keys=(Span(0, 4),)))]
    )
    assert torch.equal(plain, gated)
