"""AttentionInfluence: losses against the model's own, pieces, exact zeros, controls, and what copies show."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from typing import Any, Final

import pytest
import torch
from torch.nn import functional
from transformers import LlamaConfig

from qrcore.attention.gate import Gate
from qrcore.attention.losses import head_logits, token_losses, tokens_at_once
from qrcore.causal import draw_same_layer
from qrcore.contracts.influence import DocumentInfluence, repetition_rate
from qrcore.counting import TextTokenizer
from qrcore.errors import ConfigError, ScoreError
from qrcore.heads import Head, ModelShape
from qrcore.loading import load_method
from qrcore.methods.attention_influence import AttentionInfluence, InfluenceSettings
from qrcore.models import LanguageModel, load_language_model, open_model
from tests.qrcore.families import MODELS
from tests.qrcore.gated import GATED, gated_model, own_logits, rows_of
from tests.qrcore.training.texts import texts

HEADS: Final = (Head(1, 0), Head(1, 3), Head(2, 2))
SETTINGS: Final = InfluenceSettings(HEADS, controls=2, chunk_tokens=40)


@cache
def _embedded() -> LanguageModel:
    return load_language_model(open_model("embedded"), device="cpu", dtype="float32")


def _documents() -> list[list[int]]:
    draw = random.Random(4)
    return [[draw.randrange(10, 4000) for _ in range(length)] for length in (75, 9, 40, 130)]


def _scored(settings: InfluenceSettings, documents: list[list[int]]) -> list[DocumentInfluence]:
    found = AttentionInfluence(settings).score(_embedded(), documents)
    assert all(isinstance(one, DocumentInfluence) for one in found), found
    return found  # type: ignore[return-value]


# Losses


@pytest.mark.parametrize("name", sorted(MODELS))
def test_losses_are_those_of_the_models_own_logits(name: str) -> None:
    rows = rows_of(name)
    (found,) = token_losses(gated_model(name), rows, logits_at_once=3000)
    for ids, losses in zip(rows, found, strict=True):
        expected = functional.cross_entropy(own_logits(name, ids)[:-1], torch.tensor(ids[1:]), reduction="none")
        torch.testing.assert_close(losses, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["gemma2", "granite", "gemma3_text"])
def test_logits_have_the_familys_own_scale_and_cap(name: str) -> None:
    output: Any = gated_model(name).base_model(torch.tensor([rows_of(name)[1]]), use_cache=False)
    torch.testing.assert_close(
        head_logits(gated_model(name), output.last_hidden_state[0]), own_logits(name, rows_of(name)[1])
    )


def test_copies_are_what_they_are_alone() -> None:
    rows = rows_of("llama")
    gates = [(), (Gate("uniform", GATED),), (Gate("zero", (Head(3, 1),)),)]
    together = token_losses(gated_model("llama"), rows, gates)
    for of_copy, found in zip(gates, together, strict=True):
        (alone,) = token_losses(gated_model("llama"), rows, [of_copy])
        for one, other in zip(found, alone, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("gates", [[()], [(), (Gate("uniform", GATED),)]])
def test_never_more_than_a_chunk_of_logits_at_once(gates: list[tuple[Gate, ...]]) -> None:
    """Counted where logits are born, whatever path leads there: the model's own head."""
    model: Any = gated_model("llama")
    sizes: list[int] = []
    hook = model.lm_head.register_forward_hook(lambda _module, _inputs, logits: sizes.append(logits.numel()))
    vocabulary = model.config.vocab_size
    try:
        token_losses(model, rows_of("llama"), gates, logits_at_once=7 * vocabulary)
    finally:
        hook.remove()
    assert max(sizes) == 7 * vocabulary
    assert sum(sizes) == len(gates) * sum(len(row) - 1 for row in rows_of("llama")) * vocabulary


def test_chunks_suit_the_device_and_are_not_too_few_tokens_of_a_large_vocabulary() -> None:
    model = gated_model("llama")
    assert tokens_at_once(model) == 2**20 // model.config.vocab_size > 256
    assert tokens_at_once(model, 7 * model.config.vocab_size + 1) == 7 and tokens_at_once(model, 1) == 1

    class Large:
        config = LlamaConfig(vocab_size=128_000)
        device = torch.device("cpu")

    assert tokens_at_once(Large()) == 256  # type: ignore[arg-type]
    Large.device = torch.device("cuda")
    assert tokens_at_once(Large()) == 64 * 2**20 // 128_000  # type: ignore[arg-type]


def test_every_size_of_chunk_gives_the_same_losses() -> None:
    model, rows = gated_model("llama"), rows_of("llama")
    whole, *cut = (token_losses(model, rows, logits_at_once=n * model.config.vocab_size) for n in (999, 1, 7))
    for other in cut:
        for one, same in zip(whole[0], other[0], strict=True):
            torch.testing.assert_close(one, same, rtol=1e-5, atol=1e-5)


# Scores


def test_a_document_alone_by_hand() -> None:
    ids = _documents()[1]
    (found,) = _scored(replace(SETTINGS, controls=0), [ids])
    (base,), (masked,) = token_losses(_embedded().model, [[1, *ids]], [(), (Gate("uniform", HEADS),)])
    assert (found.n_tokens, found.n_scored, found.chunks) == (9, 9, 1)
    assert found.loss_base == pytest.approx(float(base.mean()), rel=1e-6)
    assert found.loss_masked == pytest.approx(float(masked.mean()), rel=1e-6)
    assert found.influence == pytest.approx(found.loss_masked / found.loss_base - 1)
    assert found.influence != 0


def test_the_sums_of_pieces_make_the_whole() -> None:
    ids = _documents()[3]
    (found,) = _scored(SETTINGS, [ids])
    assert (found.chunks, found.n_scored, found.n_tokens) == (4, 130, 130)
    cuts = [ids[130 * k // 4 : 130 * (k + 1) // 4] for k in range(4)]
    parts = _scored(SETTINGS, cuts)
    for name in ("loss_base", "loss_masked"):
        total = sum(getattr(part, name) * part.n_scored for part in parts)
        assert getattr(found, name) * 130 == pytest.approx(total, rel=1e-6)


def test_no_heads_have_no_influence_at_all() -> None:
    for one in _scored(replace(SETTINGS, heads=()), _documents()):
        assert one.influence == 0.0 and one.loss_masked == one.loss_base and one.controls == ()


def test_neighbours_and_passes_do_not_matter() -> None:
    documents = _documents()
    together = _scored(SETTINGS, documents)
    alone = [one for ids in reversed(documents) for one in _scored(SETTINGS, [ids])][::-1]
    small = _scored(replace(SETTINGS, pass_tokens=1, copies_at_once=1), documents)
    for one, other, third in zip(together, alone, small, strict=True):
        for found in (other, third):
            assert found.loss_masked == pytest.approx(one.loss_masked, rel=1e-5)
            assert found.controls == pytest.approx(one.controls, abs=1e-5)


def test_noise_is_far_below_any_influence() -> None:
    for one in _scored(SETTINGS, _documents()):
        assert one.noise is not None and one.noise < 1e-5 < abs(one.influence)
    assert _scored(replace(SETTINGS, noise_floor=False), _documents())[0].noise is None


def test_controls_are_the_influence_of_other_sets() -> None:
    method = AttentionInfluence(SETTINGS)
    sets = method.control_sets(_embedded())
    assert len(sets) == 2 and not set(sets[0]) & set(HEADS)
    found = _scored(SETTINGS, _documents())
    for number, heads in enumerate(sets):
        own = _scored(replace(SETTINGS, heads=heads, controls=0), _documents())
        assert [one.controls[number] for one in found] == pytest.approx([one.influence for one in own], abs=1e-5)


def test_copying_documents_need_the_copying_heads_more_than_others_do() -> None:
    """Documents that repeat themselves lose more without the heads that copy, beyond what controls lose."""
    tokenizer = TextTokenizer.load("embedded")
    halves = [tokenizer.encode(text)[:80] for text in texts(16)]
    copied, plain = (
        [half * 2 for half in halves[:8]],
        [one + two for one, two in zip(halves[:8], halves[8:], strict=True)],
    )
    heads = open_model("embedded").copying_heads
    assert heads is not None
    found = _scored(InfluenceSettings(heads.head_list, controls=4, noise_floor=False), [*copied, *plain])
    gap = [sum(one.influence for one in half) / 8 for half in (found[:8], found[8:])]
    assert min(one.influence for one in found[:8]) > max(one.influence for one in found[8:])
    others = [
        sum(one.controls[place] for one in found[:8]) / 8 - sum(one.controls[place] for one in found[8:]) / 8
        for place in range(4)
    ]
    assert gap[0] - gap[1] > max(others)


def test_repetition_is_counted_in_runs_of_tokens() -> None:
    assert repetition_rate([1, 2, 3, 4, 5, 6]) == 0.0
    assert repetition_rate([1, 2, 3, 4] * 2) == pytest.approx(1 / 5)
    assert repetition_rate([7] * 10) == pytest.approx(6 / 7)
    assert repetition_rate([1, 2, 3]) == 0.0
    copied = _scored(SETTINGS, [_documents()[0] * 2])[0]
    assert copied.repetition == pytest.approx(72 / 147)


# Control sets


def test_controls_come_from_the_same_layers_as_far_as_there_are_others() -> None:
    shape = ModelShape(layers=4, query_heads=6, kv_heads=3)
    for heads in draw_same_layer(HEADS, shape, 8, seed=1):
        assert [head.layer for head in heads] == [1, 1, 2] and not set(heads) & set(HEADS)
    assert draw_same_layer(HEADS, shape, 8, seed=1) == draw_same_layer(HEADS, shape, 8, seed=1)
    assert len(set(draw_same_layer(HEADS, shape, 8, seed=2))) == 8
    whole = tuple(Head(1, head) for head in range(6))
    assert all({head.layer for head in heads} <= {2, 3} for heads in draw_same_layer(whole, shape, 5, seed=0))
    last = tuple(Head(3, head) for head in range(6))
    assert draw_same_layer(last, shape, 5, seed=0) == []
    assert len(draw_same_layer(last[:5], shape, 5, seed=0)) == 0
    assert len(draw_same_layer(last[:3], shape, 5, seed=0)) == 1, "there is one other set only"


def test_controls_may_come_from_later_layers_too() -> None:
    method = AttentionInfluence(replace(SETTINGS, controls=30, control_layers="same_or_later"))
    sets = method.control_sets(_embedded())
    assert len(set(sets)) == 30 and all(len(set(heads)) == len(HEADS) for heads in sets)
    assert not set(HEADS) & {head for heads in sets for head in heads}
    layers = {head.layer for heads in sets for head in heads}
    assert min(layers) == 1 and max(layers) == open_model("embedded").shape.layers - 1
    assert method.settings["control_layers"] == "same_or_later"
    assert any(sorted(head.layer for head in heads) != [1, 1, 2] for heads in sets)


# What cannot be scored


def test_documents_that_cannot_be_scored_say_why_and_the_others_are() -> None:
    good = _documents()[1]
    found = AttentionInfluence(replace(SETTINGS, max_tokens=20)).score(_embedded(), [[], good, [5] * 21])
    assert [getattr(one, "code", None) for one in found] == ["empty_document", None, "context_too_long"]
    assert isinstance(found[1], DocumentInfluence)


def test_numbers_that_are_none_become_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = _embedded().model.lm_head.weight  # type: ignore[union-attr]
    kept = weight[7].clone()  # type: ignore[index]
    weight[7] = float("nan")  # type: ignore[index]
    try:
        (found,) = AttentionInfluence(SETTINGS).score(_embedded(), [_documents()[1]])
    finally:
        weight[7] = kept  # type: ignore[index]
    assert isinstance(found, ScoreError) and found.code == "non_finite" and found.kind == "transient"


@pytest.mark.parametrize(
    "settings",
    [
        {"mask_mode": "bias"},
        {"control_layers": "any"},
        {"controls": -1},
        {"chunk_tokens": 2},
        {"pass_tokens": 0},
        {"copies_at_once": 0},
    ],
)
def test_settings_that_nothing_can_be_scored_with(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        InfluenceSettings(HEADS, **settings)


def test_settings_stand_with_results() -> None:
    method = load_method("attention_influence").build(HEADS, controls=2, chunk_tokens=40)
    told = method.settings
    assert told["mask_mode"] == "uniform" and told["mask_scope"] == "all" and told["heads"] == ["1-0", "1-3", "2-2"]
    assert told["controls"] == 2 and told["chunk_tokens"] == 40
