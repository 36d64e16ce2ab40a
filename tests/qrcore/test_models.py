"""What is loaded, and what loading refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import logging as transformers_logging

from qrcore import Document, HeadSet, load_scorer
from qrcore.errors import ModelError, ScoreError
from qrcore.models import (
    cut_config,
    load_model,
    model_shape,
    open_model,
    out_of_memory_as_error,
    resolve_device,
    resolve_dtype,
    scaled_position_limit,
    setup_sha256,
    weights_sha256,
)
from tests.qrcore.families import HEADS, LAYERS, MODELS, FamilyModels, config_of, save_model


@pytest.mark.parametrize("name", MODELS)
def test_the_shape_is_the_configs(name: str, family_models: FamilyModels) -> None:
    shape = open_model(str(family_models.folder(name))).shape
    assert (shape.layers, shape.query_heads, shape.kv_heads, shape.head_dim) == (LAYERS, HEADS, 2, 16)
    assert shape.vocab_size == config_of(name).vocab_size


def test_a_shape_without_head_dim_and_groups() -> None:
    config = config_of("granite")
    config.head_dim = config.num_key_value_heads = None
    shape = model_shape(config)
    assert (shape.kv_heads, shape.head_dim) == (8, 8)


@pytest.mark.parametrize("depth", [0, -1, LAYERS + 1])
def test_a_depth_outside_the_model_is_refused(depth: int) -> None:
    with pytest.raises(ModelError, match=f"expected 1 to {LAYERS} layers for this model, got {depth}"):
        cut_config(config_of("llama"), depth)


def test_the_whole_depth_cuts_nothing() -> None:
    assert cut_config(config_of("gemma2"), LAYERS).to_dict() == config_of("gemma2").to_dict()


def test_layers_above_the_cut_are_not_needed_in_the_weights(family_models: FamilyModels, tmp_path: Path) -> None:
    """A file without the upper layers loads, and reads what the whole model reads."""
    _copy(family_models.folder("llama"), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    lower = {name: value for name, value in weights.items() if not name.startswith(("layers.2.", "layers.3."))}
    assert len(lower) < len(weights)
    save_file(lower, tmp_path / "model.safetensors", metadata={"format": "pt"})
    docs = [Document("1", "A river."), Document("2", "A bee.")]
    heads = "0-3,1-0"
    partial = load_scorer(str(tmp_path), heads=heads).score("why?", docs)
    assert partial == load_scorer(str(family_models.folder("llama")), heads=heads).score("why?", docs)


def test_missing_weights_below_the_cut_are_refused(family_models: FamilyModels, tmp_path: Path) -> None:
    _copy(family_models.folder("llama"), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["layers.0.self_attn.k_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\.0\.self_attn\.k_proj\.weight"):
        load_model(open_model(str(tmp_path)), 1)


def test_weights_of_another_shape_are_refused(family_models: FamilyModels, tmp_path: Path) -> None:
    _copy(family_models.folder("llama"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    config["intermediate_size"] = 48
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelError, match=r"another shape: layers\.0\.mlp\.down_proj\.weight"):
        load_model(open_model(str(tmp_path)), 1)


def test_half_a_file_is_refused(family_models: FamilyModels, tmp_path: Path) -> None:
    _copy(family_models.folder("llama"), tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="Complete the download"):
        load_model(open_model(str(tmp_path)), 1)


def test_sharded_weights_load(family_models: FamilyModels, tmp_path: Path) -> None:
    whole = load_model(open_model(str(family_models.folder("qwen3"))), 2)
    save_model("qwen3", tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    cut = load_model(open_model(str(tmp_path)), 2)
    for (name, one), (_, other) in zip(cut.model.named_parameters(), whole.model.named_parameters(), strict=True):
        assert torch.equal(one, other), name


def test_only_safetensors_are_read(family_models: FamilyModels, tmp_path: Path) -> None:
    _copy(family_models.folder("llama"), tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="safetensors"):
        load_model(open_model(str(tmp_path)), 1)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        open_model(str(tmp_path))


def test_code_from_the_model_is_never_run(family_models: FamilyModels, tmp_path: Path) -> None:
    _copy(family_models.folder("llama"), tmp_path)
    marker = tmp_path / "was_run"
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "custom", "auto_map": {"AutoConfig": "custom.Config", "AutoModel": "custom.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "custom.py").write_text(f"open({str(marker)!r}, 'w')", encoding="utf-8")
    with pytest.raises(ModelError):
        open_model(str(tmp_path))
    assert not marker.exists()


def test_a_missing_tokenizer_is_refused(family_models: FamilyModels, tmp_path: Path) -> None:
    _copy(family_models.folder("llama"), tmp_path)
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match="tokenizer"):
        load_model(open_model(str(tmp_path)), 1)


def test_a_head_set_beside_the_weights_is_the_models_own(family_models: FamilyModels, tmp_path: Path) -> None:
    _copy(family_models.folder("llama"), tmp_path)
    own = HeadSet(name="own", heads=("1-0",), shape=open_model(str(tmp_path)).shape)
    (tmp_path / "headset.json").write_text(own.model_dump_json(), encoding="utf-8")
    assert load_scorer(str(tmp_path)).heads == own
    assert load_scorer(str(tmp_path), heads="own").heads == own
    assert load_scorer(str(tmp_path), heads="0-0").heads.heads == ("0-0",)


@pytest.mark.parametrize(
    ("name", "limit"),
    [("llama", 1024), ("qwen3", 1024), ("phi3", 1024), ("llama-dynamic", 1024), ("gemma3_text", 1024)],
)
def test_the_position_limit(name: str, limit: int) -> None:
    assert scaled_position_limit(config_of(name)) == limit


def test_the_position_limit_grows_with_a_scaled_rope() -> None:
    config = config_of("qwen3")
    config.max_position_embeddings = 64
    assert scaled_position_limit(config) == 64 * 16
    config = config_of("llama")
    config.max_position_embeddings = 256
    assert scaled_position_limit(config) == 256, "Llama 3 states the scaled limit itself"


def test_devices_and_dtypes() -> None:
    cpu, gpu, config = torch.device("cpu"), torch.device("cuda"), config_of("llama")
    assert resolve_device("cpu") == cpu
    config.dtype = torch.bfloat16
    assert resolve_dtype("auto", cpu, config) == torch.float32
    assert resolve_dtype("auto", gpu, config) == torch.bfloat16
    assert resolve_dtype("float16", cpu, config) == torch.float16
    config.dtype = torch.float64
    assert resolve_dtype("auto", gpu, config) == torch.float32
    with pytest.raises(ModelError, match="expected auto, float32"):
        resolve_dtype("int8", cpu, config)
    with pytest.raises(ModelError, match="device"):
        resolve_device("abacus")


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(ModelError, match="found none"):
        resolve_device("cuda")


def test_loading_leaves_the_library_as_talkative_as_before(family_models: FamilyModels) -> None:
    folder = str(family_models.folder("llama"))
    before = (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled())
    try:
        transformers_logging.set_verbosity_warning()
        transformers_logging.enable_progress_bar()
        load_scorer(folder, heads="0-0")
        assert transformers_logging.get_verbosity() == transformers_logging.WARNING
        assert transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()
        load_scorer(folder, heads="0-0")
        assert not transformers_logging.is_progress_bar_enabled()
    finally:
        transformers_logging.set_verbosity(before[0])
        (transformers_logging.enable_progress_bar if before[1] else transformers_logging.disable_progress_bar)()


def test_the_hash_of_weights_covers_names_and_bytes(tmp_path: Path) -> None:
    empty = weights_sha256(str(tmp_path))
    (tmp_path / "a.safetensors").write_bytes(b"one")
    first = weights_sha256(str(tmp_path))
    (tmp_path / "a.safetensors").write_bytes(b"two")
    second = weights_sha256(str(tmp_path))
    (tmp_path / "a.safetensors").rename(tmp_path / "b.safetensors")
    third = weights_sha256(str(tmp_path))
    assert len({first, second, third, empty}) == 4


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_the_hash_of_the_setup_covers_what_decides_scores_beside_weights(name: str, tmp_path: Path) -> None:
    before = setup_sha256(str(tmp_path))
    (tmp_path / name).write_text("{}")
    assert setup_sha256(str(tmp_path)) != before
    with_it = setup_sha256(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert setup_sha256(str(tmp_path)) == with_it


def test_a_hub_model_is_pinned_to_its_commit_and_its_files_are_hashed(
    family_models: FamilyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    _copy(family_models.folder("llama"), snapshot)
    asked: list[tuple[str, str | None, list[str]]] = []

    def download(model: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((model, revision, allow_patterns))
        return str(snapshot)

    monkeypatch.setattr("qrcore.models.snapshot_download", download)
    scorer = load_scorer("org/model", revision="main", heads="0-0")
    assert scorer.identity.revision == "0123abc"
    assert scorer.identity.weights_sha256 == weights_sha256(str(snapshot))
    assert [(model, revision) for model, revision, _ in asked] == [("org/model", "main"), ("org/model", "0123abc")]
    assert not any("safetensors" in pattern for pattern in asked[0][2])


def test_quantized_checkpoints_are_refused_by_name(family_models: FamilyModels, tmp_path: Path) -> None:
    _copy(family_models.folder("llama"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "awq"}}))
    with pytest.raises(ModelError, match="quantized"):
        load_scorer(str(tmp_path), heads="0-0")


def test_running_out_of_memory_is_an_error_of_one_row() -> None:
    for failure in (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ):
        with pytest.raises(ScoreError) as caught, out_of_memory_as_error():
            raise failure
        assert (caught.value.code, caught.value.kind) == ("oom", "transient")


def test_a_broken_gpu_does_not_pass_for_a_large_row() -> None:
    with pytest.raises(RuntimeError, match="illegal memory access"), out_of_memory_as_error():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


def _copy(source: Path, target: Path) -> None:
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())


def test_a_config_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    config = {"model_type": "llama", "hidden_size": "wide", "num_attention_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"config\.json"):
        open_model(str(tmp_path))
