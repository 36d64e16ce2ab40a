"""What reading all heads of all layers of an example costs against a plain forward pass over the same prompt.

``python -m tests.benchmarks.detection`` (or ``make bench``): the embedded model and a random 12-layer Llama of 110 M
parameters, 2k tokens. The reading is the one of ``qrbatch detect``: documents once, the query and the null query after
them, in one packed pass; the plain pass is the model's own with scaled-dot-product attention, over the prompt of the
query. Both are run in turn and ratios are taken round by round, so that a machine that drifts does not matter. Peak
memory is that of a fresh process with one reading, above what it held with the model loaded. Writes
``tests/benchmarks/results/detection.json``.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import torch
from transformers import LlamaConfig, LlamaModel, PreTrainedModel

from qrcore.attention.read import Suffix, read_attention
from qrcore.heads import Head
from qrcore.models import load_language_model, open_model
from qrcore.records import Span

_ROUNDS: Final = 9
_TOKENS: Final = 2048
#: Instruction, query and mark of the embedded prompt, and the same with "N/A" in the query's place.
_ASKING_TOKENS: Final = 40
_NULL_TOKENS: Final = 24
_MODELS: Final = ("embedded", "llama-110m")
_RESULTS: Final = Path(__file__).parent / "results" / "detection.json"


def _model(name: str) -> PreTrainedModel:
    if name == "embedded":
        return load_language_model(open_model("embedded"), device="cpu").decoder.model
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=768,
        intermediate_size=2560,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=4,
        vocab_size=8192,
        max_position_embeddings=8192,
    )
    config._attn_implementation = "sdpa"
    return LlamaModel(config).eval().requires_grad_(False)


def _ids(model: PreTrainedModel) -> list[int]:
    draw = torch.Generator().manual_seed(1)
    return torch.randint(10, model.config.vocab_size - 10, (_TOKENS,), generator=draw).tolist()


def _reading(model: PreTrainedModel) -> Callable[[], Any]:
    ids = _ids(model)
    prefix, asking = ids[:-_ASKING_TOKENS], tuple(ids[-_ASKING_TOKENS:])
    null = asking[:_NULL_TOKENS]
    suffixes = [Suffix(asking, Span(0, len(asking))), Suffix(null, Span(0, len(null)))]
    config = model.config
    heads = [
        Head(layer, head) for layer in range(config.num_hidden_layers) for head in range(config.num_attention_heads)
    ]
    return lambda: read_attention(model, prefix, suffixes, heads)


def _plain(model: PreTrainedModel) -> Callable[[], Any]:
    ids = torch.tensor([_ids(model)])
    return lambda: model(input_ids=ids, use_cache=False)


def _seconds(run: Callable[[], Any]) -> float:
    started = time.process_time()
    with torch.inference_mode():
        run()
    return time.process_time() - started


def measure(name: str) -> dict[str, Any]:
    """Median CPU seconds and paired ratios of one model."""
    model = _model(name)
    runs = {"all_heads": _reading(model), "plain_forward": _plain(model)}
    times: dict[str, list[float]] = {kind: [] for kind in runs}
    for counted in range(_ROUNDS + 1):
        for kind, run in runs.items():
            seconds = _seconds(run)
            if counted:  # the first round warms up
                times[kind].append(seconds)
    ratios = [a / b for a, b in zip(times["all_heads"], times["plain_forward"], strict=True)]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {
        "model": name,
        "parameters": parameters,
        "tokens": _TOKENS,
        "cpu_seconds": {kind: statistics.median(values) for kind, values in times.items()},
        "reading_over_plain": {
            "median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios),
        },
        "memory": {
            "model_mib": sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20,
            "peak_above_it_mib": {kind: _peak(name, kind) for kind in runs},
        },
    }  # fmt: skip


def _peak(name: str, kind: str) -> float:
    command = [sys.executable, "-m", "tests.benchmarks.detection", "--peak", name, kind]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def _print_peak(name: str, kind: str) -> None:
    model = _model(name)
    run = _reading(model) if kind == "all_heads" else _plain(model)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _seconds(run)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peak", nargs=2, metavar=("MODEL", "RUN"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.peak:
        _print_peak(*given.peak)
        return
    results = [measure(name) for name in _MODELS]
    for result in results:
        print(json.dumps(result))
    record = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processor": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__},
        "rounds": _ROUNDS,
        "results": results,
    }
    _RESULTS.parent.mkdir(exist_ok=True)
    _RESULTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
