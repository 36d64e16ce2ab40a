"""Weights above the cut are not read: of a sharded checkpoint not even their files are opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModel, modeling_utils

from qrcore.models import load_model, open_model
from tests.qrcore import tiny
from tests.qrcore.families import config_of, save_model

LAYERS: Final = 32
KEPT: Final = 18


@pytest.fixture(scope="module")
def deep_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 32 layers in shards of a few layers each."""
    folder = tmp_path_factory.mktemp("deep")
    config = config_of("llama")
    config.num_hidden_layers = LAYERS
    torch.manual_seed(1)
    AutoModel.from_config(config).save_pretrained(folder, max_shard_size="300KB")
    tiny.save_tokenizer(folder, tiny.byte_level(tricky=False), adds_bos=True)
    return folder


class _Reads:
    """Stands for ``safe_open`` and counts what is asked of it."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.bytes = 0

    def __call__(self, file: str, **settings: Any) -> Any:
        self.files.add(Path(file).resolve().name)
        return _CountedFile(safe_open(file, **settings), self)


class _CountedFile:
    def __init__(self, opened: Any, reads: _Reads) -> None:
        self._opened, self._reads = opened, reads

    def __getattr__(self, name: str) -> Any:
        return getattr(self._opened, name)

    def __exit__(self, *error: Any) -> None:
        self._opened.__exit__(*error)

    def get_slice(self, name: str) -> Any:
        return _CountedSlice(self._opened.get_slice(name), self._reads)


class _CountedSlice:
    def __init__(self, opened: Any, reads: _Reads) -> None:
        self._opened, self._reads = opened, reads

    def __getattr__(self, name: str) -> Any:
        return getattr(self._opened, name)

    def __getitem__(self, place: Any) -> torch.Tensor:
        tensor: torch.Tensor = self._opened[place]
        self._reads.bytes += tensor.nbytes
        return tensor


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> _Reads:
    counted = _Reads()
    monkeypatch.setattr(modeling_utils, "safe_open", counted)
    return counted


def test_bytes_read_are_those_of_the_kept_layers(deep_model: Path, reads: _Reads) -> None:
    loaded = load_model(open_model(str(deep_model)), KEPT)
    weights = sum(parameter.nbytes for parameter in loaded.model.parameters())
    assert reads.bytes == weights
    whole = sum(file.stat().st_size for file in deep_model.glob("*.safetensors"))
    assert weights < whole * (KEPT + 1) / LAYERS


def test_shards_above_the_cut_are_never_opened(deep_model: Path, reads: _Reads) -> None:
    load_model(open_model(str(deep_model)), KEPT)
    index = json.loads((deep_model / "model.safetensors.index.json").read_text(encoding="utf-8"))
    above = [f"layers.{layer}." for layer in range(KEPT, LAYERS)]
    needed = {shard for name, shard in index["weight_map"].items() if not any(part in name for part in above)}
    assert reads.files == needed
    assert len(needed) < len(set(index["weight_map"].values())) - 3


def test_a_checkpoint_in_one_file_is_read_in_parts(tmp_path: Path, reads: _Reads) -> None:
    save_model("llama", tmp_path)
    loaded = load_model(open_model(str(tmp_path)), 2)
    assert reads.bytes == sum(parameter.nbytes for parameter in loaded.model.parameters())


def test_the_kept_layers_are_the_ones_of_the_whole_model(deep_model: Path) -> None:
    cut = load_model(open_model(str(deep_model)), KEPT).model
    whole = AutoModel.from_pretrained(deep_model).state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in cut.state_dict().items())
