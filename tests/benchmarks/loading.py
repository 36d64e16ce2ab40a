"""Bytes and seconds of loading the first layers of a sharded checkpoint.

``python -m tests.benchmarks.loading`` (or ``make bench``): a random Llama of 32 layers (320 M parameters) in shards, of
which 8, 18 and all 32 layers are loaded with an empty file cache. Bytes are those that the kernel holds of the files
afterwards, read-ahead included. Writes ``results/loading.json``.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import torch
from transformers import AutoModel, LlamaConfig

from qrcore.models import load_model, open_model
from tests.benchmarks import machine
from tests.qrcore import tiny

_LAYERS: Final = 32
_DEPTHS: Final = (8, 18, 32)
_ROUNDS: Final = 3


def save_checkpoint(folder: Path, hidden: int = 768) -> None:
    """The model in shards of about two layers, with a tokenizer."""
    tokenizer = tiny.byte_level(tricky=False)
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=_LAYERS,
        num_attention_heads=12,
        num_key_value_heads=4,
        vocab_size=tokenizer.get_vocab_size(),
    )
    AutoModel.from_config(config).save_pretrained(folder, max_shard_size=140 * hidden**2)
    tiny.save_tokenizer(folder, tokenizer, adds_bos=True)


def measure(folder: Path, depth: int) -> dict[str, float]:
    """Median seconds of loading ``depth`` layers to the last weight, and what of the files was read for it."""
    shards = sorted(folder.glob("*.safetensors"))
    seconds, read = [], 0
    for _ in range(_ROUNDS):
        for shard in shards:
            _forget(shard)
        started = time.perf_counter()
        loaded = load_model(open_model(str(folder)), depth)
        for parameter in loaded.model.parameters():
            parameter.sum()  # weights are mapped into memory, and read when they are used
        seconds.append(time.perf_counter() - started)
        read = sum(_cached_bytes(shard) for shard in shards)
        weights = sum(parameter.nbytes for parameter in loaded.model.parameters())
    return {"layers": depth, "seconds": sorted(seconds)[_ROUNDS // 2], "bytes_read": read, "weight_bytes": weights}


def _forget(file: Path) -> None:
    """Drop a file from the kernel's cache."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _cached_bytes(file: Path) -> int:
    """How much of a file the kernel's cache holds."""
    libc = ctypes.CDLL(None, use_errno=True)
    size = file.stat().st_size
    pages = -(-size // mmap.PAGESIZE)
    present = (ctypes.c_ubyte * pages)()
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), size, flags=mmap.MAP_PRIVATE) as mapped:
        first = (ctypes.c_char * size).from_buffer(mapped)
        if libc.mincore(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(size), present):
            raise OSError(ctypes.get_errno(), "mincore")
        del first
    return sum(page & 1 for page in present) * mmap.PAGESIZE


def main() -> None:
    """Make the checkpoint, measure, print and write."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        save_checkpoint(Path(folder))
        whole = sum(shard.stat().st_size for shard in Path(folder).glob("*.safetensors"))
        results: list[dict[str, Any]] = [measure(Path(folder), depth) for depth in _DEPTHS]
    machine.write("loading", {"checkpoint_bytes": whole, "loads": results})


if __name__ == "__main__":
    main()
