"""What reading a few heads costs against a stock forward pass and against reading all heads.

``python -m tests.benchmarks.scoring`` (or ``make bench``): a random 12-layer Llama of 33 M parameters, 16 heads in
layers 3 to 7, prompts of 1k, 2k and 4k tokens. The three are run in turn, A B C A B C …, and ratios are taken round by
round, so that a machine that drifts does not matter. Writes ``tests/benchmarks/results/scoring.json``.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import torch
from transformers import LlamaConfig, LlamaModel, PreTrainedModel

from qrcore.attention.read import Suffix, read_attention
from qrcore.heads import Head
from qrcore.records import Span

_ROUNDS: Final = 7
_SUFFIX_TOKENS: Final = 48
_HEADS: Final = [Head(layer, head) for layer in (3, 4, 6, 7) for head in (0, 2, 5, 7)]
_RESULTS: Final = Path(__file__).parent / "results" / "scoring.json"


def _model(layers: int) -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=12,
        num_attention_heads=8,
        num_key_value_heads=4,
        vocab_size=8192,
        max_position_embeddings=8192,
    )
    model = LlamaModel(config).eval()
    model.layers = model.layers[:layers]
    model.config.num_hidden_layers = layers
    return model


def _seconds(run: Callable[[], Any]) -> float:
    started = time.process_time()
    with torch.inference_mode():
        run()
    return time.process_time() - started


def measure(tokens: int) -> dict[str, Any]:
    """Median CPU seconds and paired ratios at one prompt length."""
    full, cut = _model(12), _model(8)
    draw = torch.Generator().manual_seed(tokens)
    ids = torch.randint(0, 8192, (tokens,), generator=draw).tolist()
    prefix, asking = ids[:-_SUFFIX_TOKENS], tuple(ids[-_SUFFIX_TOKENS:])
    suffixes = [Suffix(asking, Span(0, len(asking))), Suffix(asking[:-8], Span(0, len(asking) - 8))]
    every_head = [Head(layer, head) for layer in range(12) for head in range(8)]
    runs: dict[str, Callable[[], Any]] = {
        "chosen_heads": lambda: read_attention(cut, prefix, suffixes, _HEADS),
        "all_heads": lambda: read_attention(full, prefix, suffixes, every_head),
        "stock_forward": lambda: full(input_ids=torch.tensor([ids]), use_cache=False),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for counted in range(_ROUNDS + 1):
        for name, run in runs.items():
            seconds = _seconds(run)
            if counted:  # the first round warms up
                times[name].append(seconds)
    ratios = {
        name: statistics.median(a / b for a, b in zip(times["chosen_heads"], times[name], strict=True))
        for name in ("all_heads", "stock_forward")
    }
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {"tokens": tokens, "cpu_seconds": medians, "chosen_heads_over": ratios}


def main() -> None:
    """Measure, print and write."""
    results = [measure(tokens) for tokens in (1024, 2048, 4096)]
    for result in results:
        print(json.dumps(result))
    record = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processor": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__},
        "rounds": _ROUNDS,
        "results": results,
    }
    _RESULTS.parent.mkdir(exist_ok=True)
    _RESULTS.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
