"""Every supported family against full eager attention matrices, and each of its features switched off in our code."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedConfig

from qrcore import models
from qrcore.attention import attach, kernel, read, rotary
from qrcore.attention.call import AttentionInputs, PackedLayout
from qrcore.families import SUPPORTED
from qrcore.heads import Head
from qrcore.methods.qrhead import QRHeadScorer
from tests.qrcore.families import DOCUMENTS, HEADS, LAYERS, MODELS, WINDOW, FamilyModels, config_of, queries_of
from tests.qrcore.reference import slow_scores, slow_scores_per_head

TOLERANCE: Final = 1e-5
#: A token nearer than this to a cut-off may fall on either side of it by rounding.
NEAR_CUT: Final = 1e-6

every_model = pytest.mark.parametrize("name", MODELS)


def test_every_supported_family_has_a_model() -> None:
    assert {model_type for model_type, _ in MODELS.values()} == SUPPORTED


@every_model
def test_the_settings_bite(name: str, family_models: FamilyModels) -> None:
    reading = family_models.slow_reading(name)
    config = family_models.scorer(name).model.source.config
    assert reading.prompt_tokens > max(2 * WINDOW, getattr(config, "original_max_position_embeddings", 128))
    assert reading.peak > 0.3  # over some 200 tokens, the flat weight would be 0.005
    assert config.head_dim != config.hidden_size // HEADS or name == "phi3"


@every_model
def test_reading_equals_full_matrices(name: str, family_models: FamilyModels) -> None:
    assert _deviation(name, family_models, family_models.scorer(name)) <= TOLERANCE


@every_model
def test_scores_per_head_equal_plain_loops(name: str, family_models: FamilyModels) -> None:
    scores = family_models.scorer(name).score_heads(queries_of(name)[0], DOCUMENTS)
    expected, margins = slow_scores_per_head(family_models.slow_reading(name))
    clear = margins > NEAR_CUT
    assert clear.float().mean() > 0.97
    torch.testing.assert_close(scores[clear].double(), expected[clear], rtol=0, atol=TOLERANCE)


@every_model
def test_scores_of_a_cut_model_equal_plain_loops(name: str, family_models: FamilyModels) -> None:
    scorer = family_models.scorer(name, "1-3,2-0,2-5,0-7,1-3")
    assert scorer.model.depth == 3
    heads = [(1, 3), (2, 0), (2, 5), (0, 7), (1, 3)]
    expected, margins = slow_scores(family_models.slow_reading(name), heads)
    assert min(margins) > NEAR_CUT
    assert scorer.score(queries_of(name)[0], DOCUMENTS) == pytest.approx(expected, rel=0, abs=TOLERANCE)


@every_model
@pytest.mark.parametrize("depth", range(1, LAYERS))
def test_cut_reads_what_the_whole_model_reads(name: str, depth: int, family_models: FamilyModels) -> None:
    whole = family_models.scorer(name).read(queries_of(name)[0], DOCUMENTS)
    heads = [Head(depth - 1, head) for head in range(HEADS)]
    cut = family_models.scorer(name, ",".join(map(str, heads)))
    reading = cut.read(queries_of(name)[0], DOCUMENTS)
    places = [whole.heads.index(head) for head in reading.heads]
    torch.testing.assert_close(reading.query_attention, whole.query_attention[places], rtol=0, atol=1e-7)
    torch.testing.assert_close(reading.null_attention, whole.null_attention[places], rtol=0, atol=1e-7)
    layers = {int(n[1]) for n in (re.search(r"layers\.(\d+)\.", p) for p, _ in cut.model.model.named_parameters()) if n}
    assert layers == set(range(depth))


@every_model
@pytest.mark.parametrize("depth", range(1, LAYERS))
def test_cut_config_shortens_what_belongs_to_layers(name: str, depth: int) -> None:
    config = config_of(name)
    cut = models.cut_config(config, depth)
    assert cut.num_hidden_layers == depth
    for field in ("layer_types", "no_rope_layers"):
        if getattr(config, field, None) is not None:
            assert getattr(cut, field) == getattr(config, field)[:depth]
    assert cut.eos_token_id == [1, 2, 3, 4]
    assert cut.rope_parameters == config.rope_parameters
    assert config.to_dict() == config_of(name).to_dict()


Patch = Callable[[pytest.MonkeyPatch], None]


def _without(setting: str) -> Patch:
    return _with_settings(lambda settings: {key: value for key, value in settings.items() if key != setting})


def _with_settings(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Patch:
    function = attach._attention_function

    def changed(*args: Any, **settings: Any) -> tuple[Tensor, None]:
        return function(*args, **change(settings))

    return lambda patch: patch.setattr(attach, "_attention_function", changed)


def _reading_without(setting: str) -> Patch:
    """Only the reading forgets ``setting``; the attention output that goes on to the next layer keeps it."""

    changes: dict[str, Any] = {setting: None}

    def reads_changed(patch: pytest.MonkeyPatch) -> None:
        attention_sum = read._attention_sum

        def changed(query: Tensor, key: Tensor, inputs: AttentionInputs, *place_and_bias: Any) -> Tensor:
            return attention_sum(query, key, replace(inputs, **changes), *place_and_bias)

        patch.setattr(read, "_attention_sum", changed)

    return reads_changed


def _wider_window(settings: dict[str, Any]) -> dict[str, Any]:
    window = settings.get("sliding_window")
    return settings if window is None else {**settings, "sliding_window": window + 1}


def _scale_by_hidden_size(settings: dict[str, Any]) -> dict[str, Any]:
    return {**settings, "scaling": 8**-0.5}


def _tiled_kv_heads_in_output(patch: pytest.MonkeyPatch) -> None:
    by_group = kernel._by_group

    def tiled(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        times = (query.shape[0] // key.shape[0], 1, 1)
        return by_group(query, key.repeat(times), value.repeat(times))

    patch.setattr(kernel, "_by_group", tiled)


def _next_kv_head_in_reading(patch: pytest.MonkeyPatch) -> None:
    read_group = read.LayerReader._read_group

    def shifted(self: Any, inputs: AttentionInputs, kv_head: int, *others: Any) -> Tensor:
        return read_group(self, inputs, (kv_head + 1) % inputs.key.shape[0], *others)

    patch.setattr(read.LayerReader, "_read_group", shifted)


def _packed_positions(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PackedLayout, "position_ids", lambda self, device: torch.arange(self.length, device=device)[None])


def _suffixes_see_each_other(patch: pytest.MonkeyPatch) -> None:
    def causal(inputs: AttentionInputs, layout: PackedLayout) -> Tensor:
        return kernel.packed_attention(inputs, PackedLayout.of_one(layout.length))

    patch.setattr(attach, "packed_attention", causal)


def _stale_rotary_state(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rotary, "_restore_rotary", lambda module, state: None)


def _config_with(change: Callable[[PreTrainedConfig], None]) -> Patch:
    cut_config = models.cut_config

    def changed(config: PreTrainedConfig, depth: int) -> PreTrainedConfig:
        cut = cut_config(config, depth)
        change(cut)
        return cut

    return lambda patch: patch.setattr(models, "cut_config", changed)


def _plain_rope(config: PreTrainedConfig) -> None:
    kinds = config.rope_parameters
    nested = [kinds[kind] for kind in set(getattr(config, "layer_types", None) or ()) if kind in kinds] or [kinds]
    for parameters in nested:
        theta = parameters["rope_theta"]
        partial = parameters.get("partial_rotary_factor", 1.0)
        parameters.clear()
        parameters.update(rope_type="default", rope_theta=theta, partial_rotary_factor=partial)


def _set(**settings: Any) -> Callable[[PreTrainedConfig], None]:
    def change(config: PreTrainedConfig) -> None:
        for name, value in settings.items():
            setattr(config, name, value)

    return change


_ALL: Final = tuple(MODELS)
_SLIDING: Final = ("qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "phi3", "smollm3")

#: What is switched off -> how, and the models that have it.
PASS_MUTATIONS: Final[dict[str, tuple[Patch, tuple[str, ...]]]] = {
    "sliding_window": (_without("sliding_window"), _SLIDING),
    "sliding_window_in_reading": (_reading_without("window"), _SLIDING),
    "window_is_one_wider": (_with_settings(_wider_window), _SLIDING),
    "softcap": (_without("softcap"), ("gemma2",)),
    "softcap_in_reading": (_reading_without("softcap"), ("gemma2",)),
    "own_scale": (_without("scaling"), ("gemma2", "gemma3_text", "granite")),
    "head_dim": (_with_settings(_scale_by_hidden_size), tuple(name for name in MODELS if name != "phi3")),
    "kv_group_in_output": (_tiled_kv_heads_in_output, _ALL),
    "kv_group_in_reading": (_next_kv_head_in_reading, _ALL),
    "positions_restart": (_packed_positions, _ALL),
    "suffixes_apart": (_suffixes_see_each_other, _ALL),
    "rotary_state_restored": (_stale_rotary_state, ("llama-dynamic",)),
}
CONFIG_MUTATIONS: Final[dict[str, tuple[Patch, tuple[str, ...]]]] = {
    "rope_scaling": (_config_with(_plain_rope), ("llama", "llama-dynamic", "qwen3", "gemma3_text", "phi3")),
    "nope_layers": (_config_with(_set(no_rope_layers=[1] * LAYERS)), ("smollm3",)),
    "multipliers": (_config_with(_set(residual_multiplier=1.0)), ("granite",)),
    "layer_types": (
        _config_with(_set(layer_types=["full_attention", "sliding_attention"] * 2)),
        ("qwen2", "qwen3", "gemma2", "gemma3_text", "smollm3"),
    ),
}


def _cells(mutations: dict[str, tuple[Patch, tuple[str, ...]]]) -> list[Any]:
    return [pytest.param(n, f, id=f"{n}-{f}") for f, (_, having) in mutations.items() for n in having]


@pytest.mark.parametrize(("name", "feature"), _cells(PASS_MUTATIONS))
def test_feature_mutation(
    name: str, feature: str, family_models: FamilyModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = family_models.scorer(name) if feature != "rotary_state_restored" else family_models.fresh_scorer(name)
    PASS_MUTATIONS[feature][0](monkeypatch)
    assert _deviation(name, family_models, scorer) > 100 * TOLERANCE


@pytest.mark.parametrize(("name", "feature"), _cells(CONFIG_MUTATIONS))
def test_feature_mutation_of_the_loaded_config(
    name: str, feature: str, family_models: FamilyModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = family_models.folder(name)
    CONFIG_MUTATIONS[feature][0](monkeypatch)
    assert folder.is_dir()
    assert _deviation(name, family_models, family_models.fresh_scorer(name)) > 100 * TOLERANCE


@pytest.mark.parametrize("name", ["llama-dynamic", "phi3"])
def test_a_long_prompt_leaves_no_trace(name: str, family_models: FamilyModels) -> None:
    scorer = family_models.fresh_scorer(name)
    model = scorer.model.model
    before = {key: value.clone() for key, value in model.named_buffers(remove_duplicate=False)}
    rotary: Any = model.rotary_emb
    plain = {k: v for k, v in vars(rotary).items() if not k.startswith("_")}
    _read_a_long_prompt(name, scorer)
    after = dict(model.named_buffers(remove_duplicate=False))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert {k for k in vars(rotary) if not k.startswith("_")} == set(plain)
    assert rotary.max_seq_len_cached == plain["max_seq_len_cached"]


def _deviation(name: str, family_models: FamilyModels, scorer: QRHeadScorer) -> float:
    """The largest difference of any averaged attention weight; a longer prompt is scored first."""
    expected = family_models.slow_reading(name)
    _read_a_long_prompt(name, scorer)
    reading = scorer.read(queries_of(name)[0], DOCUMENTS)
    assert [tuple(span) for span in reading.document_spans] == expected.spans
    pairs = ((reading.query_attention, expected.query), (reading.null_attention, expected.null))
    return max(float((ours.reshape(theirs.shape).double() - theirs).abs().max()) for ours, theirs in pairs)


def _read_a_long_prompt(name: str, scorer: QRHeadScorer) -> None:
    copies = [type(d)(f"{d.doc_id}-{i}", d.text, d.title) for i in range(3) for d in DOCUMENTS]
    scorer.read(queries_of(name)[0], copies)
