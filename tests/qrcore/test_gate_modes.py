"""Gates on rows: what each mode and scope does in every family, forks, caches, padding; and the silent traps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

import pytest
import torch
from torch import Tensor
from transformers import (
    AttentionInterface,
    AutoConfig,
    AutoModelForCausalLM,
    DynamicCache,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.masking_utils import AttentionMaskInterface

from qrcore.attention.attach import run
from qrcore.attention.cached import run_cached
from qrcore.attention.call import AttentionCall, CachedLayout, Fork, PackedLayout, Segment
from qrcore.attention.gate import Gate, RowGate, first_layer, layer_gates, on_row, uniform
from qrcore.attention.read import LayerReader
from qrcore.attention.streams import Streams
from qrcore.decode import decode_greedy, decode_streams
from qrcore.errors import ConfigError, ModelError
from qrcore.families import check_gated
from qrcore.heads import Head
from qrcore.records import Span
from tests.qrcore.families import HEADS, LAYERS, MODELS, WINDOW, _draw_weights, config_of

LENGTHS: Final = (70, 12, 45)
GATED: Final = (Head(2, 0), Head(2, 5), Head(3, 2))
SIZE: Final = 16

every_model = pytest.mark.parametrize("name", sorted(MODELS))
some_models = pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text"])


@cache
def _model(name: str) -> PreTrainedModel:
    torch.manual_seed(3)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config_of(name), attn_implementation="eager")
    _draw_weights(model)
    return model.float().eval().requires_grad_(False)


def _rows(name: str) -> list[list[int]]:
    draw = torch.Generator().manual_seed(5)
    vocabulary = _model(name).config.vocab_size
    return [torch.randint(10, vocabulary, (length,), generator=draw).tolist() for length in LENGTHS]


def _own(name: str, ids: list[int]) -> Tensor:
    output: Any = _model(name)(torch.tensor([ids]), use_cache=False)
    logits: Tensor = output.logits[0]
    return logits


def _close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def _packed(name: str, rows: list[list[int]], gates: list[RowGate], fork: Fork | None = None) -> list[Tensor]:
    """Logits of every token of every row and copy."""
    layout = PackedLayout(tuple(Segment(len(row)) for row in rows))
    call = AttentionCall(layout, gates=layer_gates(gates), fork=fork, chunk_tokens=60)
    logits: Tensor = run(_model(name), torch.tensor([token for row in rows for token in row]), call).logits[0]
    copies = fork.copies if fork else 1
    return list(logits.split([len(row) for row in rows] * copies))


# The slow way: the family's own code with hooks and full matrices


@contextmanager
def _heads_zeroed(name: str, heads: tuple[Head, ...], first: int = 0) -> Iterator[None]:
    """What a head hands to the output projection is 0 from the token ``first`` on."""
    hooks = []
    for head in heads:
        attention: Any = _model(name).model.layers[head.layer].self_attn  # type: ignore[union-attr,index]

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

    model = _model(name)
    AttentionInterface.register("by_hand", changed)
    from transformers.masking_utils import eager_mask

    AttentionMaskInterface.register("by_hand", eager_mask)
    model.config._attn_implementation = "by_hand"
    try:
        yield
    finally:
        model.config._attn_implementation = "eager"
        AttentionInterface._global_mapping.pop("by_hand")
        AttentionMaskInterface._global_mapping.pop("by_hand")


def _slowly(name: str, ids: list[int], gates: list[RowGate]) -> Tensor:
    by_layer = {
        layer: [one for one in gates if any(h.layer == layer for h in one.gate.heads)] for layer in range(LAYERS)
    }
    with _eager_changed(name, by_layer):
        return _own(name, ids)


BIAS: Final = Gate("bias", (Head(1, 3), *GATED), keys=(Span(3, 9), Span(20, 22)), delta=2.3, queries=Span(30, 40))


# Modes


@every_model
def test_zero_is_what_hooks_and_what_empty_weights_do(name: str) -> None:
    ids = _rows(name)[0]
    with _heads_zeroed(name, GATED):
        expected = _own(name, ids)
    (found,) = _packed(name, [ids], [RowGate(Gate("zero", GATED))])
    _close(found, expected)
    assert float((expected - _own(name, ids)).abs().max()) > 0.01


def test_an_output_of_zero_is_a_block_of_zero_in_the_output_projection() -> None:
    model, ids = _model("llama"), _rows("llama")[0]
    before = _own("llama", ids)
    with _heads_zeroed("llama", GATED):
        hooked = _own("llama", ids)
    weights = {layer: model.model.layers[layer].self_attn.o_proj.weight for layer in (2, 3)}  # type: ignore[union-attr,index]
    kept = {layer: weight.clone() for layer, weight in weights.items()}  # type: ignore[operator,union-attr]
    try:
        for head in GATED:
            weights[head.layer][:, head.head * SIZE : (head.head + 1) * SIZE] = 0.0  # type: ignore[index]
        assert torch.equal(_own("llama", ids), hooked)
    finally:
        for layer, weight in kept.items():
            weights[layer].copy_(weight)  # type: ignore[union-attr,operator]
    assert torch.equal(_own("llama", ids), before)


@some_models
def test_uniform_and_bias_are_what_full_matrices_give(name: str) -> None:
    ids = _rows(name)[0]
    for gate in (Gate("uniform", GATED), BIAS):
        placed = on_row(gate)
        (found,) = _packed(name, [ids], [placed])
        expected = _slowly(name, ids, [placed])
        _close(found, expected)
        assert float((expected - _own(name, ids)).abs().max()) > 0.01


def test_uniform_and_zero_are_not_the_same() -> None:
    ids = _rows("llama")[0]
    found = {mode: _packed("llama", [ids], [RowGate(Gate(mode, GATED))])[0] for mode in ("uniform", "zero")}  # type: ignore[arg-type]
    assert float((found["uniform"] - found["zero"]).abs().max()) > 0.01


def test_a_uniform_head_gives_every_visible_token_the_same_weight() -> None:
    """Row i has exactly i + 1 times 1 / (i + 1), also where a row of the batch is padded."""
    seen: list[Tensor] = []

    def weights(layer: int, inputs: Any) -> None:
        seen.append(inputs.own_weights()[5])

    ids = _rows("llama")[1]
    layout = PackedLayout.of_one(len(ids))
    run(_model("llama"), torch.tensor(ids), AttentionCall(layout, {2: weights}, uniform(GATED), last_layer=2))
    expected = torch.ones(12, 12).tril() / torch.arange(1, 13)[:, None]
    assert torch.equal(seen[0], expected)


@some_models
def test_a_bias_can_be_read(name: str) -> None:
    ids = _rows(name)[0]
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

    run(_model(name), torch.tensor(ids), AttentionCall(layout, {2: compare}, layer_gates([on_row(gate)]), last_layer=2))
    for head in heads:
        torch.testing.assert_close(collected[head][0], own[0][head.head], rtol=1e-4, atol=1e-6)


# Rows and forks


@some_models
def test_rows_have_their_own_gates_and_copies_share_what_lies_below(name: str) -> None:
    rows = _rows(name)
    zero = Gate("zero", (Head(1, 1), Head(3, 7)))
    fork = Fork(1, 3)
    gates = [
        RowGate(Gate("uniform", GATED), 1 * 3 + 0),
        RowGate(zero, 1 * 3 + 1),
        RowGate(zero, 2 * 3 + 2),
        RowGate(BIAS, 5),
    ]
    found = _packed(name, rows, gates, fork)
    assert len(found) == 9
    for row, ids in enumerate(rows):
        for copy in range(3):
            of_row = [RowGate(one.gate) for one in gates if one.row == copy * 3 + row]
            (alone,) = _packed(name, [ids], of_row)
            _close(found[copy * 3 + row], alone)
    _close(found[0], _own(name, rows[0]))


def test_layers_below_the_fork_run_once_and_those_above_once_for_every_copy() -> None:
    model, rows = _model("llama"), _rows("llama")
    seen: dict[int, int] = {}
    hooks = []
    for number, layer in enumerate(model.model.layers):  # type: ignore[union-attr,arg-type]

        def count(_module: object, inputs: tuple[Tensor, ...], output: Tensor, number: int = number) -> None:
            seen[number] = seen.get(number, 0) + output.shape[0] * output.shape[1]

        hooks.append(layer.mlp.register_forward_hook(count))
    _packed("llama", rows, [RowGate(Gate("uniform", GATED), 3)], Fork(2, 2))
    for hook in hooks:
        hook.remove()
    tokens = sum(LENGTHS)
    assert seen == {0: tokens, 1: tokens, 2: 2 * tokens, 3: 2 * tokens}


def test_layers_below_the_first_gated_one_are_the_same_to_the_bit() -> None:
    ids = torch.tensor(_rows("llama")[0])
    states: dict[str, dict[int, Tensor]] = {"plain": {}, "gated": {}}
    for name, gates in (("plain", {}), ("gated", uniform(GATED))):
        keep = {
            layer: lambda layer, inputs, name=name: states[name].update({layer: inputs.query.clone()})
            for layer in range(4)
        }
        before = {layer: reader for layer, reader in keep.items() if layer != 2}
        run(_model("llama"), ids, AttentionCall(PackedLayout.of_one(70), before, gates))  # type: ignore[arg-type]
    assert all(torch.equal(states["plain"][layer], states["gated"][layer]) for layer in (0, 1))
    assert not torch.equal(states["plain"][3], states["gated"][3])
    assert first_layer([Gate("zero", GATED), Gate("uniform", (Head(3, 1),))]) == 2
    assert first_layer([Gate("zero", ())]) is None


def test_gates_without_heads_change_nothing_to_the_bit() -> None:
    ids = _rows("llama")[0]
    (plain,) = _packed("llama", [ids], [])
    (gated,) = _packed("llama", [ids], [RowGate(Gate("uniform", ())), RowGate(Gate("bias", GATED, keys=(Span(0, 4),)))])
    assert torch.equal(plain, gated)


# Caches and padding


def _streamed(name: str, gates: list[list[Gate]], steps: int = 6) -> list[list[Tensor]]:
    """Logits of each step by stream and row, every row going on with tokens of its own."""
    rows = _rows(name)
    longest = max(map(len, rows)) - steps
    prompts = [row[: len(row) - steps] for row in rows]
    streams = Streams(
        _model(name), [len(prompt) for prompt in prompts], [[of_stream] * len(rows) for of_stream in gates]
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
@pytest.mark.parametrize("scope", ["all", "decode"])
def test_cached_steps_are_one_pass_over_the_whole_row(name: str, scope: Any) -> None:
    gates = [Gate("uniform", GATED, scope), Gate("bias", (Head(1, 4),), scope, keys=(Span(2, 5),), delta=3.0)]
    found = _streamed(name, [[], gates, [Gate("zero", GATED, scope)]])
    for row, ids in enumerate(_rows(name)):
        prompt = len(ids) - 6
        for stream, of_stream in enumerate(([], gates, [Gate("zero", GATED, scope)])):
            (whole,) = _packed(name, [ids], [on_row(gate, None, prompt) for gate in of_stream])
            _close(found[stream][row], whole[prompt - 1 :])
        _close(found[0][row], _own(name, ids)[prompt - 1 :])


def test_scopes_give_different_logits() -> None:
    found = {scope: _streamed("llama", [[Gate("uniform", GATED, scope)]])[0][0] for scope in ("all", "decode")}  # type: ignore[arg-type]
    assert float((found["all"] - found["decode"]).abs().max()) > 1e-3


def test_a_prompt_that_no_gate_touches_is_run_once() -> None:
    tokens: list[tuple[int, int]] = []
    layer: Any = _model("llama").model.layers[3]  # type: ignore[union-attr,index]
    hook = layer.mlp.register_forward_hook(lambda module, inputs, output: tokens.append(tuple(output.shape[:2])))
    try:
        _streamed("llama", [[], [Gate("uniform", GATED, "decode")]], steps=2)
    finally:
        hook.remove()
    assert tokens == [(3, 67), (6, 1), (6, 1), (6, 1)]


@some_models
def test_generation_with_gates_is_step_by_step_over_whole_rows(name: str) -> None:
    prompts = _rows(name)
    gates = [[Gate("uniform", GATED)], [], [Gate("zero", GATED), BIAS]]
    found = decode_greedy(_model(name), prompts, 5, gates=gates)
    for prompt, of_row, one in zip(prompts, gates, found, strict=True):
        ids = list(prompt)
        for _ in range(5):
            (logits,) = _packed(name, [ids], [on_row(gate, None, len(prompt)) for gate in of_row])
            ids.append(int(logits[-1].argmax()))
        assert list(one.ids) == ids[len(prompt) :]


@every_model
def test_streams_without_gates_decode_what_plain_greedy_does(name: str) -> None:
    prompts = _rows(name)
    streams: list[list[list[Gate]]] = [[[]] * 3, [[]] * 3]

    def hook(step: int, logits: Tensor) -> Tensor:
        assert logits.shape[0] == 2 and torch.equal(logits[0], logits[1])
        return logits[1]

    assert decode_streams(_model(name), prompts, 6, streams, hook) == decode_greedy(_model(name), prompts, 6)


# Silent traps


def test_causality_is_kept_without_a_mask_tensor() -> None:
    """A registered name without a mask function lets tokens see the future; then later tokens would change these."""
    ids = _rows("llama")[0]
    (long,) = _packed("llama", [ids], [RowGate(Gate("uniform", GATED))])
    (short,) = _packed("llama", [ids[:30]], [RowGate(Gate("uniform", GATED))])
    _close(long[:30], short)
    streams = Streams(_model("llama"), [30], [[[Gate("uniform", GATED)]]])
    _close(streams.next_logits(torch.tensor([ids[:30]]))[0], short[-1:])


@some_models
def test_padding_moves_no_position_and_is_never_seen(name: str) -> None:
    short = _rows(name)[1]
    padded = torch.tensor([[17] * 9 + short])
    found = {}
    for padding in (9, 0):
        layout = CachedLayout((padding,), 12 + padding, 12 + padding)
        cache = DynamicCache(config=_model(name).config)
        call = AttentionCall(layout, gates=uniform(GATED))
        found[padding] = run_cached(_model(name), padded[:, 9 - padding :], call, cache, logits_to_keep=1).logits[0]
    _close(found[9], found[0])
    _close(found[0], _packed(name, [short], [RowGate(Gate("uniform", GATED))])[0][-1:])


def test_everything_is_as_before_also_after_an_error() -> None:
    model = _model("llama")
    other = _model("mistral")
    names = lambda: (dict(AttentionInterface._global_mapping), dict(AttentionMaskInterface._global_mapping))  # noqa: E731
    state = lambda: [model.config._attn_implementation, *(n for n, m in model.named_modules() if "forward" in vars(m))]  # noqa: E731
    before, registered, theirs = state(), names(), _own("mistral", _rows("mistral")[1])
    with pytest.raises(RuntimeError, match="stop"):

        def stop(layer: int, inputs: Any) -> None:
            assert torch.equal(other(torch.tensor([_rows("mistral")[1]])).logits[0], theirs)
            raise RuntimeError("stop")

        layout = CachedLayout((0,), 12, 12)
        call = AttentionCall(layout, reads={3: stop}, gates=uniform(GATED))
        run_cached(model, torch.tensor([_rows("llama")[1]]), call, DynamicCache(config=model.config))
    assert state() == before and names() == registered
    assert torch.equal(_own("mistral", _rows("mistral")[1]), theirs)


# What is refused


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("gpt_oss", "sinks"),
        ("qwen3_next", "output gates"),
        ("bloom", "ALiBi"),
        ("mpt", "ALiBi"),
        ("falcon", "ALiBi"),
        ("olmo_hybrid", "linear attention"),
        ("mamba", "without attention"),
        ("gpt2", "not been tested"),
    ],
)
def test_families_that_break_the_equality_are_refused_by_name(family: str, reason: str) -> None:
    with pytest.raises(ModelError, match=f"{family}.*{reason}"):
        check_gated(AutoConfig.for_model(family))


def test_a_pass_with_gates_is_refused_where_they_would_not_hold() -> None:
    model = _model("llama")
    kind = PreTrainedConfig.__dict__.get("model_type")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model.config), "model_type", "gpt_oss")
        run(model, torch.arange(5, 15), AttentionCall(PackedLayout.of_one(10)))
        with pytest.raises(ModelError, match="sinks"):
            run(model, torch.arange(5, 15), AttentionCall(PackedLayout.of_one(10), gates=uniform(GATED)))
    assert kind is None or model.config.model_type == "llama"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mode": "sideways"}, "uniform, zero or bias"),
        ({"mode": "zero", "scope": "prefill"}, "all or decode"),
        ({"mode": "bias", "delta": float("nan")}, "finite"),
        ({"mode": "zero", "delta": 1.0}, "no keys and no delta"),
        ({"mode": "uniform", "keys": (Span(0, 2),)}, "no keys and no delta"),
    ],
)
def test_gates_that_make_no_sense_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Gate(heads=GATED, **settings)


def test_the_scope_decode_needs_to_know_the_prompt() -> None:
    with pytest.raises(ConfigError, match="length of the row's prompt"):
        on_row(Gate("zero", GATED, "decode"))
    assert on_row(Gate("zero", GATED, "decode"), 1, 10).queries.start == 9
    assert Gate("zero", GATED, "decode").record == {
        "mask_mode": "zero",
        "mask_scope": "decode",
        "heads": ["2-0", "2-5", "3-2"],
    }


def test_layouts_are_for_their_own_passes() -> None:
    model = _model("llama")
    with pytest.raises(ModelError, match="run_cached"):
        run(model, torch.arange(5), AttentionCall(CachedLayout((0,), 5, 5)))
    with pytest.raises(ModelError, match="cached layout of the tokens"):
        run_cached(model, torch.ones(1, 4, dtype=torch.long), AttentionCall(CachedLayout((0,), 5, 5)), DynamicCache())
    with pytest.raises(ConfigError, match="gates for 3 prompts"):
        decode_streams(model, _rows("llama"), 2, [[[]]], lambda step, logits: logits[0])
    assert LENGTHS[0] > WINDOW, "rows are longer than the windows of these models"
