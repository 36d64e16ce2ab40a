"""Loading refuses what cannot be read exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from qrcore import load_scorer
from qrcore.attention import attach, read
from qrcore.errors import ModelError
from qrcore.families import _REASONS, SUPPORTED, check_supported
from qrcore.heads import Head
from qrcore.models import open_model
from qrcore.selfcheck import check_reading
from tests.qrcore.families import MODELS, FamilyModels, config_of
from tests.qrcore.test_mutations import (
    _everything_visible,
    _next_kv_head_in_reading,
    _no_causal_mask_in_output,
    _positions_never_restart,
    _suffixes_see_each_other,
    _tiled_kv_heads_in_output,
)

TAMPERED = {
    "visible in reading": _everything_visible(read),
    "visible in output": _no_causal_mask_in_output,
    "key-value head in reading": _next_kv_head_in_reading,
    "key-value head in output": _tiled_kv_heads_in_output,
    "positions": _positions_never_restart,
    "suffixes": _suffixes_see_each_other,
}


@pytest.mark.parametrize("name", MODELS)
def test_untouched_models_pass(name: str, family_models: FamilyModels) -> None:
    scorer = family_models.scorer(name)
    check_reading(scorer.model, scorer.heads.head_list)


@pytest.mark.parametrize("name", MODELS)
def test_untouched_models_pass_in_half_precision(name: str, family_models: FamilyModels) -> None:
    # Peaked heads amplify the rounding of bfloat16: only a comparison on the same queries and keys can be strict.
    load_scorer(str(family_models.folder(name)), heads="all", dtype="bfloat16")


@pytest.mark.parametrize("tampering", TAMPERED)
def test_a_reading_that_differs_is_refused(
    tampering: str, family_models: FamilyModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(family_models.folder("llama"))
    TAMPERED[tampering](monkeypatch)
    with pytest.raises(ModelError, match="cannot be read exactly"):
        load_scorer(folder, heads="3-0,3-5")


def test_a_model_whose_own_scale_is_not_passed_on_is_refused(
    family_models: FamilyModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = attach._attention_function

    def slightly_off(*args: Any, **settings: Any) -> tuple[Tensor, None]:
        return function(*args, **{**settings, "scaling": settings["scaling"] * 1.01})

    monkeypatch.setattr(attach, "_attention_function", slightly_off)
    with pytest.raises(ModelError, match="got a difference of"):
        load_scorer(str(family_models.folder("granite")), heads="0-0")


def test_weights_that_give_no_numbers_are_refused(family_models: FamilyModels, tmp_path: Path) -> None:
    _copy(family_models.folder("llama"), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["layers.0.self_attn.q_proj.weight"][0, 0] = float("nan")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="got a difference of inf"):
        load_scorer(str(tmp_path), heads="0-0")


def test_the_check_leaves_the_model_as_it_was(family_models: FamilyModels) -> None:
    model = family_models.scorer("llama").model
    before = (model.model.config._attn_implementation, set(dict(model.model.named_buffers())))
    check_reading(model, [Head(0, 0)])
    assert (model.model.config._attn_implementation, set(dict(model.model.named_buffers()))) == before
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("family", _REASONS)
def test_known_misfits_are_refused_by_name_with_the_reason(family: str, tmp_path: Path) -> None:
    config: Any = config_of("llama")
    config.model_type = family
    with pytest.raises(ModelError) as caught:
        check_supported(config)
    assert f"{family!r} is not supported: {_REASONS[family]}" in str(caught.value)


@pytest.mark.parametrize("family", ["gpt2", "gpt_oss", "bloom", "opt", "mamba", "gemma3", "cohere"])
def test_families_outside_the_tested_list_are_refused_before_any_weights(family: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}), encoding="utf-8")
    with pytest.raises(ModelError, match=f"family '{family}' is not supported.*granite, llama"):
        open_model(str(tmp_path))


def test_encoders_made_of_decoders_are_refused() -> None:
    config = config_of("gemma3_text")
    check_supported(config)
    config.use_bidirectional_attention = True
    with pytest.raises(ModelError, match="use_bidirectional_attention"):
        check_supported(config)


def test_no_family_is_both_supported_and_refused() -> None:
    assert not SUPPORTED & set(_REASONS)


def _copy(source: Path, target: Path) -> None:
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())


def test_a_scale_that_is_slightly_off_is_refused_in_half_precision_too(
    family_models: FamilyModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = read.attention_logits
    monkeypatch.setattr(read, "attention_logits", lambda q, k, scaling, softcap: logits(q, k, scaling * 1.02, softcap))
    with pytest.raises(ModelError, match="got a difference of"):
        load_scorer(str(family_models.folder("qwen2")), heads="0-0", dtype="bfloat16")


def test_large_key_biases_are_no_reason_to_refuse(family_models: FamilyModels, tmp_path: Path) -> None:
    _copy(family_models.folder("qwen2"), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for name, weight in weights.items():
        if name.endswith("k_proj.bias"):
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) * 20)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for dtype in ("float32", "bfloat16"):
        load_scorer(str(tmp_path), heads="all", dtype=dtype)
