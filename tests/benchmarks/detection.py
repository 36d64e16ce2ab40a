"""What reading all heads of all layers of an example costs against a plain forward pass over the same prompt.

``python -m tests.benchmarks.detection`` (or ``make bench``): the embedded model and a random 12-layer Llama of 110 M
parameters, 2k tokens. The reading is the one of ``qrbatch detect``: documents once, the query and the null query after
them, in one packed pass; the plain pass is the model's own with scaled-dot-product attention, over the prompt of the
query. A third run lets the three methods judge what was read, as an actor does for every example. They are run in turn
and ratios are taken round by round, so that a machine that drifts does not matter. Peak memory is that of a fresh
process with one pass, above what it held with the model loaded (Linux only). Writes
``tests/benchmarks/results/detection.json``.
"""

from __future__ import annotations

import argparse
import json
import platform
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
from qrcore.contracts.scorer import Reading
from qrcore.heads import Head
from qrcore.loading import load_method
from qrcore.models import load_language_model, open_model
from qrcore.records import Span

_ROUNDS: Final = 9
_TOKENS: Final = 2048
#: Instruction, query and mark of the embedded prompt, and the same with "N/A" in the query's place.
_ASKING_TOKENS: Final = 40
_NULL_TOKENS: Final = 24
_DOCUMENT_TOKENS: Final = 100
_MODELS: Final = ("embedded", "llama-110m")
_RESULTS: Final = Path(__file__).parent / "results" / "detection.json"


def _model(name: str) -> PreTrainedModel:
    if name == "embedded":
        return load_language_model(open_model("embedded"), device="cpu").decoder.model
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=768,
        intermediate_size=3072,
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
    return lambda: read_attention(model, prefix, suffixes, _heads(model))


def _heads(model: PreTrainedModel) -> list[Head]:
    layers, heads = model.config.num_hidden_layers, model.config.num_attention_heads
    return [Head(layer, head) for layer in range(layers) for head in range(heads)]


def _judging(model: PreTrainedModel) -> Callable[[], Any]:
    """The reading, and every method's value of every head: documents of a hundred tokens, the third one relevant."""
    read, ids, heads = _reading(model), _ids(model), tuple(_heads(model))
    end = len(ids) - _ASKING_TOKENS
    spans = tuple(Span(start, start + _DOCUMENT_TOKENS) for start in range(8, end - _DOCUMENT_TOKENS, _DOCUMENT_TOKENS))
    relevance = [int(place == 2) for place in range(len(spans))]
    methods = [load_method(name).build() for name in ("qrscore", "ndcg", "core")]

    def judge() -> list[Any]:
        asked, null = (attention[:, :end] for attention in read())
        order = tuple(range(len(spans)))
        reading = Reading(heads, asked, null, tuple(ids[:end]), spans, order, len(ids))
        return [method.head_values(reading, relevance) for method in methods]

    return judge


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
    runs = {kind: make(model) for kind, make in _RUNS.items()}
    times: dict[str, list[float]] = {kind: [] for kind in runs}
    for counted in range(_ROUNDS + 1):
        for kind, run in runs.items():
            seconds = _seconds(run)
            if counted:  # the first round warms up
                times[kind].append(seconds)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {
        "model": name,
        "parameters": parameters,
        "tokens": _TOKENS,
        "cpu_seconds": {kind: statistics.median(values) for kind, values in times.items()},
        "over_plain_forward": {kind: _ratios(times[kind], times["plain_forward"]) for kind in runs},
        "memory": {
            "model_mib": sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20,
            "peak_above_it_mib": {kind: _peak(name, kind) for kind in runs},
        },
    }  # fmt: skip


def _ratios(times: list[float], plain: list[float]) -> dict[str, float]:
    ratios = [a / b for a, b in zip(times, plain, strict=True)]
    return {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}


def _peak(name: str, kind: str) -> float:
    command = [sys.executable, "-m", "tests.benchmarks.detection", "--peak", name, kind]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def _print_peak(name: str, kind: str) -> None:
    run = _RUNS[kind](_model(name))
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the peak of loading
    before = _status("VmRSS")
    _seconds(run)
    print((_status("VmHWM") - before) / 1024)


def _status(name: str) -> int:
    """A line of this process's memory, in KiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


_RUNS: Final[dict[str, Callable[[PreTrainedModel], Callable[[], Any]]]] = {
    "all_heads": _reading,
    "all_heads_and_methods": _judging,
    "plain_forward": _plain,
}


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
