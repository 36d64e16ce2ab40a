"""The engine on one GPU, in the shapes of real models with random weights: no Ray, no network, no tokenizer.

``python -m tests.benchmarks.gpu [--minutes 9]`` measures one case after the other, writes each into
``results/gpu.json`` as it is done, and skips what stands there: a session that is cut off goes on with the next call.
``--smallest`` runs two tiny cases, on a CPU too. Per case: tokens per second, share of the measured matmul rate, share
of the floor (projections at that rate, attention at the best rate that a kernel of torch's reaches on as many tokens),
peak bytes against prediction, the ratio to the reference path, and the largest difference of token scores to the
reference path in float32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModel, LlamaConfig, PreTrainedConfig, PreTrainedModel, Qwen2Config

from qrcore.attention.read import SharedPrompt, Suffix, read_packed
from qrcore.heads import Head, load_head_set
from qrcore.memory import PassMemory
from qrcore.models import cut_config
from qrcore.records import Span
from tests.benchmarks import machine, reference

_ROUNDS: Final = 3
_QUERY_TOKENS: Final = 48
#: Without the one that holds whole matrices of attention.
_KERNELS: Final = (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION)


@dataclass(frozen=True)
class Case:
    """``shape`` and ``heads``: of :data:`SHAPES` and the published sets; ``prompts`` of ``tokens`` each, with
    ``queries`` over the same documents, in one pass; ``chunk_tokens``: through a layer at once."""

    shape: str
    heads: str
    tokens: int
    queries: int = 1
    prompts: int = 1
    chunk_tokens: int = 8192
    with_reference: bool = False

    @property
    def name(self) -> str:
        """What the case is called in the result file."""
        return " ".join(f"{key}={value}" for key, value in asdict(self).items())


def _llama(hidden: int, wide: int, layers: int, heads: int, keys: int, head_dim: int) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=hidden,
        intermediate_size=wide,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=keys,
        head_dim=head_dim,
        vocab_size=128256 if hidden > 64 else 512,
        max_position_embeddings=131072,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    )


#: The numbers of the published configurations.
SHAPES: Final[dict[str, PreTrainedConfig]] = {
    "llama-3.1-8b": _llama(4096, 14336, 32, 32, 8, 128),
    "llama-3.2-1b": _llama(2048, 8192, 16, 32, 8, 64),
    "qwen2.5-7b": Qwen2Config(
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        vocab_size=152064,
        max_position_embeddings=131072,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    ),
    "tiny": _llama(64, 96, 16, 32, 8, 8),
}
_LME: Final = "qrhead-llama-3.1-8b-instruct-lme"
_NQ: Final = "qrhead-llama-3.1-8b-instruct-nq"
_SMALL_NQ: Final = "qrhead-llama-3.2-1b-instruct-nq"
_QWEN_NQ: Final = "qrhead-qwen2.5-7b-instruct-nq"

SMALLEST: Final = (
    Case("tiny", _SMALL_NQ, 300, queries=3, chunk_tokens=128, with_reference=True),
    Case("tiny", _SMALL_NQ, 80, prompts=3, chunk_tokens=128),
)
CASES: Final = (
    *(Case("llama-3.1-8b", _LME, n, with_reference=n <= 65536) for n in (4096, 16384, 65536, 131072)),
    Case("llama-3.1-8b", _LME, 16384, chunk_tokens=2048),
    Case("llama-3.1-8b", _LME, 16384, chunk_tokens=32768),
    Case("llama-3.1-8b", _NQ, 16384, with_reference=True),
    Case("llama-3.1-8b", _LME, 16384, queries=32),
    Case("llama-3.1-8b", _LME, 1024),
    Case("llama-3.1-8b", _LME, 1024, prompts=16),
    *(Case("llama-3.2-1b", _SMALL_NQ, n, with_reference=n <= 65536) for n in (4096, 16384, 65536, 131072)),
    *(Case("qwen2.5-7b", _QWEN_NQ, n, with_reference=n <= 16384) for n in (4096, 16384, 65536)),
)


def measure(case: Case, device: torch.device) -> dict[str, Any]:
    """Everything that is said of one case."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    config, heads = SHAPES[case.shape], tuple(dict.fromkeys(load_head_set(case.heads).head_list))
    model = _model(config, max(head.layer for head in heads) + 1, dtype, device)
    prompts = [_prompt(case, config.vocab_size, number) for number in range(case.prompts)]

    def engine() -> list[list[Tensor]]:
        return read_packed(model, prompts, heads, case.chunk_tokens)

    with torch.inference_mode():
        seconds = _seconds(engine, device)
        peak = _peak(engine, device)
        rate = _matmul_rate(config, dtype, device, min(case.tokens * case.prompts, 16384))
        packed = sum(len(p.prefix_ids) + sum(len(s.ids) for s in p.suffixes) for p in prompts)
        attention_rate = _attention_rate(config, dtype, device, case.tokens)
        linear, attention = _needed_flops(config, heads, case, packed)
        predicted = PassMemory.of(config, heads, dtype, case.chunk_tokens, on_cpu=device.type == "cpu").predict(
            packed, sum(len(p.suffixes) for p in prompts), case.tokens
        )
        return {
            **asdict(case),
            "dtype": str(dtype),
            "seconds": seconds,
            "prompt_tokens_per_s": case.prompts * case.queries * case.tokens / seconds,
            "matmul_tflops": rate / 1e12,
            "attention_tflops": attention_rate / 1e12,
            "share_of_matmul_rate": (linear + attention) / rate / seconds,
            "share_of_floor": (linear / rate + attention / attention_rate) / seconds,
            "peak_bytes": peak,
            "predicted_bytes": predicted.total,
            "largest_difference_to_float32": _difference(case, config, heads, model, device),
            **(_reference(case, config, heads, seconds, dtype, device) if case.with_reference else {}),
        }


def _model(config: PreTrainedConfig, layers: int, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """Random weights."""
    torch.manual_seed(0)
    cut = cut_config(config, layers)
    cut._attn_implementation = "sdpa"
    with device:
        model: PreTrainedModel = AutoModel.from_config(cut, dtype=dtype)
    return model.eval().requires_grad_(False)


def _prompt(case: Case, vocabulary: int, number: int) -> SharedPrompt:
    draw = np.random.default_rng((number, case.tokens))
    rows = Span(0, _QUERY_TOKENS)
    suffixes = [
        Suffix(draw.integers(0, vocabulary, _QUERY_TOKENS, dtype=np.int32), rows) for _ in range(case.queries + 1)
    ]
    return SharedPrompt(draw.integers(0, vocabulary, case.tokens - _QUERY_TOKENS, dtype=np.int32), tuple(suffixes))


def _seconds(run: Callable[[], Any], device: torch.device) -> float:
    times = []
    for _ in range(_ROUNDS + 1):
        _wait(device)
        started = time.perf_counter()
        run()
        _wait(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak(run: Callable[[], Any], device: torch.device) -> int | None:
    """Bytes of the allocator's peak, weights included; None on a CPU, where memory.py measures."""
    if device.type != "cuda":
        run()
        return None
    torch.cuda.reset_peak_memory_stats(device)
    run()
    return torch.cuda.max_memory_allocated(device)


def _matmul_rate(config: PreTrainedConfig, dtype: torch.dtype, device: torch.device, tokens: int) -> float:
    """FLOP/s of the MLP's own matmuls on this device."""
    states = torch.randn(tokens, config.hidden_size, dtype=dtype, device=device)
    up = torch.randn(config.intermediate_size, config.hidden_size, dtype=dtype, device=device)
    down = torch.randn(config.hidden_size, config.intermediate_size, dtype=dtype, device=device)
    seconds = _seconds(lambda: (states @ up.T) @ down.T, device)
    return 4.0 * tokens * config.hidden_size * config.intermediate_size / seconds


def _attention_rate(config: PreTrainedConfig, dtype: torch.dtype, device: torch.device, tokens: int) -> float:
    """FLOP/s of the visible half of causal attention over ``tokens``, by the fastest kernel that can do it."""
    heads, head_dim = config.num_attention_heads, _head_dim(config)
    query = torch.randn(1, heads, tokens, head_dim, dtype=dtype, device=device)
    keys = torch.randn(1, config.num_key_value_heads, tokens, head_dim, dtype=dtype, device=device)
    states = (query, *(keys.repeat_interleave(heads // config.num_key_value_heads, dim=1) for _ in range(2)))
    seconds = []
    for kernel in _KERNELS:
        with sdpa_kernel(kernel), suppress(RuntimeError):  # not for this device or dtype
            seconds.append(_seconds(lambda: scaled_dot_product_attention(*states, is_causal=True), device))
    return 2.0 * heads * head_dim * tokens**2 / min(seconds)


def _head_dim(config: PreTrainedConfig) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _needed_flops(config: PreTrainedConfig, heads: Sequence[Head], case: Case, packed: int) -> tuple[float, float]:
    """Of projections (below the deepest layer, and its keys), and of the visible half of attention."""
    head_dim = _head_dim(config)
    queries, keys = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    layer = config.hidden_size * (2 * queries + 2 * keys + 3 * config.intermediate_size)
    prefix = case.tokens - _QUERY_TOKENS
    suffix_rows = (case.queries + 1) * _QUERY_TOKENS
    attention = case.prompts * 4.0 * queries * (prefix**2 / 2 + suffix_rows * prefix)
    below = max(head.layer for head in heads)
    return 2.0 * packed * (below * layer + config.hidden_size * keys), below * attention


def _difference(
    case: Case, config: PreTrainedConfig, heads: tuple[Head, ...], model: PreTrainedModel, device: torch.device
) -> float | None:
    """Of token scores summed over heads, to the reference path over the same weights in float32; None where that is
    too large to hold."""
    if case.tokens > 16384:
        return None
    exact = _model(config, len(model.layers), torch.float32, device)
    exact.load_state_dict(model.state_dict())
    prompt = _prompt(case, config.vocab_size, 0)
    ours = read_packed(model, [prompt], heads, case.chunk_tokens)[0]
    scores = (ours[0] - ours[-1])[:, : len(prompt.prefix_ids)].sum(dim=0)
    return float((scores - reference.read(exact, prompt, heads)[0].sum(dim=0)).abs().max())


def _reference(
    case: Case,
    config: PreTrainedConfig,
    heads: tuple[Head, ...],
    seconds: float,
    dtype: torch.dtype,
    device: torch.device,
) -> dict[str, float]:
    whole = _model(config, config.num_hidden_layers, dtype, device)
    prompt = _prompt(Case(case.shape, case.heads, case.tokens), config.vocab_size, 0)
    one = _seconds(lambda: reference.read(whole, prompt, heads), device)
    return {"reference_s": one, "times_the_reference": case.prompts * case.queries * one / seconds}


def main() -> None:
    """Measure what is not measured yet, as far as the minutes allow."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--smallest", action="store_true", help="two tiny cases, on a CPU too")
    parser.add_argument("--output", type=Path, default=machine.RESULTS / "gpu.json")
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not given.smallest:
        parser.error("no GPU that torch can use; --smallest runs on a CPU")
    stop = time.monotonic() + 60 * given.minutes
    results = json.loads(given.output.read_text(encoding="utf-8")) if given.output.is_file() else {}
    for case in SMALLEST if given.smallest else CASES:
        if case.name not in results and time.monotonic() < stop:
            with _out_of_memory_is_a_result(results, case.name):
                results[case.name] = {**measure(case, device), "where": machine.where(device)}
            given.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            print(case.name, json.dumps(results[case.name]), flush=True)


@contextmanager
def _out_of_memory_is_a_result(results: dict[str, Any], name: str) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        results[name] = {"out_of_memory": str(error).split("\n")[0]}
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
