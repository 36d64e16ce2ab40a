"""Silent traps of gates, what is as before when a pass ends, and what is refused by name."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from transformers import AttentionInterface, AutoConfig, DynamicCache, PreTrainedConfig
from transformers.masking_utils import AttentionMaskInterface

from qrcore.attention.attach import run
from qrcore.attention.cached import run_cached
from qrcore.attention.call import AttentionCall, CachedLayout, PackedLayout
from qrcore.attention.gate import Gate, RowGate, on_row, uniform
from qrcore.attention.streams import Streams
from qrcore.decode import decode_streams
from qrcore.errors import ConfigError, ModelError
from qrcore.families import check_gated
from qrcore.records import Span
from tests.qrcore.families import WINDOW
from tests.qrcore.gated import (
    GATED,
    LENGTHS,
    assert_close,
    gated_model,
    own_logits,
    packed_logits,
    rows_of,
    some_models,
)


def test_causality_is_kept_without_a_mask_tensor() -> None:
    """A registered name without a mask function lets tokens see the future; then later tokens would change these."""
    ids = rows_of("llama")[0]
    (long,) = packed_logits("llama", [ids], [RowGate(Gate("uniform", GATED))])
    (short,) = packed_logits("llama", [ids[:30]], [RowGate(Gate("uniform", GATED))])
    assert_close(long[:30], short)
    streams = Streams(gated_model("llama"), [30], [[[Gate("uniform", GATED)]]])
    assert_close(streams.next_logits(torch.tensor([ids[:30]]))[0], short[-1:])


@some_models
def test_padding_moves_no_position_and_is_never_seen(name: str) -> None:
    short = rows_of(name)[1]
    padded = torch.tensor([[17] * 9 + short])
    found = {}
    for padding in (9, 0):
        layout = CachedLayout((padding,), 12 + padding, 12 + padding)
        cache = DynamicCache(config=gated_model(name).config)
        call = AttentionCall(layout, gates=uniform(GATED))
        found[padding] = run_cached(gated_model(name), padded[:, 9 - padding :], call, cache, logits_to_keep=1).logits[
            0
        ]
    assert_close(found[9], found[0])
    assert_close(found[0], packed_logits(name, [short], [RowGate(Gate("uniform", GATED))])[0][-1:])


def test_positions_are_counted_without_padding() -> None:
    """Rotation tells distances only, so that logits would not show positions that padding has moved."""
    seen: list[list[list[int]]] = []
    model: Any = gated_model("llama")

    def note(_module: object, _inputs: object, settings: dict[str, Any]) -> None:
        seen.append(settings["position_ids"].tolist())

    hook = model.model.rotary_emb.register_forward_pre_hook(note, with_kwargs=True)
    try:
        streams = Streams(model, [2, 5], [[[], []], [[Gate("uniform", GATED)], []]])
        streams.next_logits(torch.tensor([[0, 0, 0, 11, 12], [11, 12, 13, 14, 15]]))
        streams.next_logits(torch.tensor([[13], [16]]))
    finally:
        hook.remove()
    assert seen == [[[0, 0, 0, 0, 1], [0, 1, 2, 3, 4]], [[2], [5]]]


@pytest.mark.parametrize("layout", [CachedLayout((0,), 12, 12), PackedLayout.of_one(12)])
@pytest.mark.parametrize("ends", ["with an error", "well"])
def test_everything_is_as_before_and_other_models_notice_nothing(layout: Any, ends: str) -> None:
    model, other = gated_model("llama"), gated_model("mistral")
    ids, theirs = rows_of("llama")[1], own_logits("mistral", rows_of("mistral")[1])
    before, registered, own = _state(model), _registered(), own_logits("llama", ids)
    seen: list[bool] = []

    def stop(layer: int, inputs: Any) -> None:
        output: Any = other(torch.tensor([rows_of("mistral")[1]]), use_cache=False)
        seen.append(torch.equal(output.logits[0], theirs))
        if ends != "well":
            raise RuntimeError("stop")

    call = AttentionCall(layout, reads={3: stop}, gates=uniform(GATED))
    with nullcontext() if ends == "well" else pytest.raises(RuntimeError, match="stop"):
        if isinstance(layout, CachedLayout):
            run_cached(model, torch.tensor([ids]), call, DynamicCache(config=model.config))
        else:
            run(model, torch.tensor(ids), call)
    assert seen == [True]
    assert _state(model) == before and _registered() == registered
    assert torch.equal(own_logits("mistral", rows_of("mistral")[1]), theirs)
    assert torch.equal(own_logits("llama", ids), own)


def _state(model: Any) -> list[str]:
    return [model.config._attn_implementation, *(n for n, m in model.named_modules() if "forward" in vars(m))]


def _registered() -> tuple[dict[str, Any], dict[str, Any]]:
    return dict(AttentionInterface._global_mapping), dict(AttentionMaskInterface._global_mapping)


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
    model = gated_model("llama")
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
    model = gated_model("llama")
    with pytest.raises(ModelError, match="run_cached"):
        run(model, torch.arange(5), AttentionCall(CachedLayout((0,), 5, 5)))
    with pytest.raises(ModelError, match="cached layout of the tokens"):
        run_cached(model, torch.ones(1, 4, dtype=torch.long), AttentionCall(CachedLayout((0,), 5, 5)), DynamicCache())
    with pytest.raises(ConfigError, match="gates for 3 prompts"):
        decode_streams(model, rows_of("llama"), 2, [[[]]], lambda step, logits: logits[0])
    assert LENGTHS[0] > WINDOW, "rows are longer than the windows of these models"
