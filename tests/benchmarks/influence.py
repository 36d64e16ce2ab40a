"""What a document's base and masked loss together cost against one plain pass with the same loss.

``python -m tests.benchmarks.influence`` (or ``make bench``): the embedded model with grouped heads (6 layers) and a
random 12-layer Llama of 110 M parameters, 2k tokens. The plain pass is the model's own decoder with
scaled-dot-product attention; both end in the same chunked cross-entropy. Heads of the first gated layer on are masked:
at half depth, and from the first layer on, where nothing is shared. Runs take turns and ratios are taken round by
round, in CPU seconds of one thread, so that a machine that drifts does not matter. Writes
``tests/benchmarks/results/influence.json``.
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
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from qrcore.attention.gate import Gate
from qrcore.attention.losses import head_logits, token_losses, tokens_at_once
from qrcore.heads import Head
from qrcore.models import load_language_model, open_model

#: Short passes need more of them: a machine that others use disturbs each in its own way.
_ROUNDS: Final = {"embedded-gqa": 25, "llama-110m": 7}
_TOKENS: Final = 2048
#: What base and masked may cost together when the first gated layer is at half depth.
LIMIT: Final = 1.6
_RESULTS: Final = Path(__file__).parent / "results" / "influence.json"


def _model(name: str) -> PreTrainedModel:
    if name != "llama-110m":
        return load_language_model(open_model(name), device="cpu").model
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
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def _ids(model: PreTrainedModel) -> list[int]:
    draw = torch.Generator().manual_seed(1)
    return torch.randint(10, model.config.vocab_size - 10, (_TOKENS,), generator=draw).tolist()


def _both(model: PreTrainedModel, layer: int) -> Callable[[], Any]:
    """Base and masked in one pass; one head in six is masked from ``layer`` on, two at least in that layer."""
    heads = tuple(
        Head(number, head)
        for number in range(layer, model.config.num_hidden_layers)
        for head in range(0, model.config.num_attention_heads, 6)
    )
    ids = _ids(model)
    return lambda: token_losses(model, [ids], [(), (Gate("uniform", heads),)])


def _plain(model: PreTrainedModel) -> Callable[[], Any]:
    ids = torch.tensor([_ids(model)])
    decoder: Any = model.base_model
    rows = tokens_at_once(model)

    def run() -> list[torch.Tensor]:
        hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state[0, :-1]
        pairs = zip(hidden.split(rows), ids[0, 1:].split(rows), strict=True)
        return [functional.cross_entropy(head_logits(model, one), wanted, reduction="none") for one, wanted in pairs]

    return run


def _seconds(run: Callable[[], Any]) -> float:
    started = time.process_time()
    with torch.inference_mode():
        run()
    return time.process_time() - started


def measure(name: str) -> dict[str, Any]:
    """Median CPU seconds and paired ratios of one model."""
    model = _model(name)
    model.set_attn_implementation("sdpa")
    layers = model.config.num_hidden_layers
    runs = {
        "plain": _plain(model),
        "masked_from_half_depth": _both(model, layers // 2),
        "masked_from_the_first_layer": _both(model, 0),
    }
    times: dict[str, list[float]] = {kind: [] for kind in runs}
    for counted in range(_ROUNDS[name] + 1):
        for kind, run in runs.items():
            seconds = _seconds(run)
            if counted:  # the first round warms up
                times[kind].append(seconds)
    ratios = {kind: [a / b for a, b in zip(times[kind], times["plain"], strict=True)] for kind in runs}
    return {
        "model": name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "layers": layers,
        "tokens": _TOKENS,
        "cpu_seconds": {kind: statistics.median(values) for kind, values in times.items()},
        "over_plain": {
            kind: {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
            for kind, values in ratios.items()
        },
        "limit_at_half_depth": LIMIT,
        "within_limit": statistics.median(ratios["masked_from_half_depth"]) <= LIMIT,
    }


def main() -> None:
    """Measure, print and write."""
    torch.set_num_threads(1)
    results = [measure(name) for name in _ROUNDS]
    for result in results:
        print(json.dumps(result))
    record = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processor": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__},
        "rounds": _ROUNDS,
        "results": results,
    }
    _RESULTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
