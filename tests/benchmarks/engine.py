"""The engine against a fair reference, against stock forward passes, and against the arithmetic that is needed.

``python -m tests.benchmarks.engine`` (or ``make bench``) measures, on the model of :mod:`tests.benchmarks.subject`:
one query at 1k, 2k and 4k tokens; 1 to 64 queries over the same 4k tokens; the share of the floor; and compiling. The
ways are run in turn and ratios are taken round by round. Writes ``results/engine.json``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any, Final

import torch
from torch.nn import functional

from qrcore.attention.compiled import CompiledParts
from qrcore.attention.read import read_packed
from tests.benchmarks import machine, reference, subject
from tests.benchmarks.machine import Paired, paired

_LENGTHS: Final = (1024, 2048, 4096)
_SHARED_TOKENS: Final = 4096
_SHARED_QUERIES: Final = (1, 2, 4, 8, 16, 32, 64)
_ROUNDS: Final = 5


def one_query(tokens: int, rounds: int = _ROUNDS) -> dict[str, Any]:
    """Seconds of the engine, the reference, and stock passes of 12 and of 7 layers, at one length."""
    cut, whole, seven = subject.model(subject.DEPTH), subject.model(), subject.model(subject.DEPTH - 1)
    cut.load_state_dict(whole.state_dict(), strict=False)
    prompt = subject.prompt(tokens)
    times = paired(
        {
            "engine": lambda: read_packed(cut, [prompt], subject.HEADS),
            "reference": lambda: reference.read(whole, prompt, subject.HEADS),
            "stock_forward": reference.stock_forward(whole, prompt),
            "stock_forward_7_layers": reference.stock_forward(seven, prompt),
        },
        rounds,
    )
    return {
        "tokens": tokens,
        "seconds": times.record(),
        "reference_over_engine": times.ratio("reference", "engine"),
        "capped_reference_over_engine": _capped(times),
        "reference_over_stock_forward": times.ratio("reference", "stock_forward"),
        "engine_over_stock_forward_7_layers": times.ratio("engine", "stock_forward_7_layers"),
        "ceiling": _layers_ceiling(),
        "largest_difference": _difference(cut, whole, tokens),
    }


def _capped(times: Paired) -> float:
    """The ratio if the reference took at most 1.15 times a stock forward pass: it should be no worse than that."""
    rows = zip(times.cpu["reference"], times.cpu["stock_forward"], times.cpu["engine"], strict=True)
    return statistics.median(min(theirs, 1.15 * stock) / ours for theirs, stock, ours in rows)


def _difference(cut: Any, whole: Any, tokens: int) -> float:
    """Of token scores between engine and reference: they read the same thing."""
    prompt = subject.prompt(tokens)
    with torch.inference_mode():
        ours, null = read_packed(cut, [prompt], subject.HEADS)[0]
        theirs = reference.read(whole, prompt, subject.HEADS)[0]
    shared = len(prompt.prefix_ids)
    return float((ours[:, :shared] - null[:, :shared] - theirs).abs().max())


def _layers_ceiling() -> float:
    """How many times faster running 7 layers and the keys and queries of the eighth is than running 12."""
    config = subject.config()
    own = (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim * config.hidden_size
    layer = own + config.hidden_size**2 + 3 * config.hidden_size * config.intermediate_size
    return subject.LAYERS * layer / ((subject.DEPTH - 1) * layer + own)


def shared_context(queries: int, rounds: int = 2) -> dict[str, Any]:
    """Queries per CPU second over the same documents, and one query of the reference in the same rounds."""
    cut, whole = subject.model(subject.DEPTH), subject.model()
    many, single = subject.prompt(_SHARED_TOKENS, queries), subject.prompt(_SHARED_TOKENS)
    times = paired(
        {
            "engine": lambda: read_packed(cut, [many], subject.HEADS),
            "reference": lambda: reference.read(whole, single, subject.HEADS),
        },
        rounds,
    )
    return {
        "queries": queries,
        "context_tokens": _SHARED_TOKENS - subject.QUERY_TOKENS,
        "suffix_tokens": {"query": subject.QUERY_TOKENS, "null": subject.NULL_TOKENS},
        "engine_queries_per_cpu_s": queries / times.median("engine"),
        "times_the_reference": queries * times.ratio("reference", "engine"),
    }


def compiled(tokens: int = 2048, rounds: int = _ROUNDS) -> dict[str, Any]:
    """What compiling norms and MLPs (``engine.compile``) is worth, and what it takes."""
    cut, prompt = subject.model(subject.DEPTH), subject.prompt(tokens)
    started = time.perf_counter(), time.process_time()
    parts = CompiledParts(cut)
    compile_s = {"wall_s": time.perf_counter() - started[0], "cpu_s": time.process_time() - started[1]}

    def run_compiled() -> list[torch.Tensor]:
        with parts.in_place():
            return read_packed(cut, [prompt], subject.HEADS)[0]

    runs = {"engine": lambda: read_packed(cut, [prompt], subject.HEADS)[0], "compiled": run_compiled}
    times = paired(runs, rounds)
    with torch.inference_mode():
        pairs = zip(runs["engine"](), runs["compiled"](), strict=True)
        difference = max(float((one - other).abs().max()) for one, other in pairs)
    return {
        "tokens": tokens,
        "compile_s": compile_s,
        "seconds": times.record(),
        "compiled_over_engine": times.ratio("compiled", "engine"),
        "largest_difference": difference,
    }


def floor(tokens: int = 4096, rounds: int = _ROUNDS) -> dict[str, Any]:
    """The arithmetic that is needed at this machine's matmul rate, over the time that the engine takes.

    The rate is measured in the same rounds as the pass, over the matmuls of a layer in their own shapes.
    """
    cut, prompt = subject.model(subject.DEPTH), subject.prompt(tokens)
    packed = len(prompt.prefix_ids) + sum(len(suffix.ids) for suffix in prompt.suffixes)
    matmuls = _layer_matmuls(packed)
    times = paired({"engine": lambda: read_packed(cut, [prompt], subject.HEADS), "matmuls": matmuls}, rounds)
    rate = _linear_flops(packed) / times.median("matmuls")
    needed = _needed_flops(packed, len(prompt.prefix_ids))
    return {
        "tokens": tokens,
        "needed_gflop": needed / 1e9,
        "matmul_gflop_per_cpu_s": rate / 1e9,
        "seconds": times.record(),
        "share_of_floor": needed / _linear_flops(packed) * times.ratio("matmuls", "engine"),
    }


def _shapes() -> list[tuple[int, int]]:
    """Inputs and outputs of a layer's seven projections."""
    config = subject.config()
    wide, hidden = config.intermediate_size, config.hidden_size
    keys = config.num_key_value_heads * config.head_dim
    return [
        (hidden, hidden),
        (hidden, keys),
        (hidden, keys),
        (hidden, hidden),
        (hidden, wide),
        (hidden, wide),
        (wide, hidden),
    ]


def _layer_matmuls(tokens: int) -> Any:
    weights = [torch.randn(outputs, inputs) for inputs, outputs in _shapes()]
    states = {inputs: torch.randn(tokens, inputs) for inputs, _ in _shapes()}
    return lambda: [functional.linear(states[weight.shape[1]], weight) for weight in weights]


def _linear_flops(tokens: int) -> float:
    return sum(2.0 * tokens * inputs * outputs for inputs, outputs in _shapes())


def _needed_flops(tokens: int, prefix: int) -> float:
    """Projections of 7 layers, queries and keys of the eighth, and the visible half of attention."""
    config = subject.config()
    keys = config.num_key_value_heads * config.head_dim
    last = 2.0 * tokens * config.hidden_size * keys + 2.0 * (tokens - prefix) * config.hidden_size**2
    attention = 4.0 * config.hidden_size * (prefix**2 / 2 + (tokens - prefix) * prefix)
    read_rows = (tokens - prefix) * tokens * config.head_dim * 2.0 * len(subject.HEADS)
    return (subject.DEPTH - 1) * (_linear_flops(tokens) + attention) + last + read_rows


def main() -> None:
    """Measure part by part and write each into the results as it is done; what is not measured now stays."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    parser.add_argument("--lengths", type=int, nargs="*", default=_LENGTHS)
    parser.add_argument("--floor", type=int, nargs="*", default=(4096,))
    parser.add_argument("--compiled", type=int, nargs="*", default=(2048,))
    parser.add_argument("--queries", type=int, nargs="*", default=_SHARED_QUERIES)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for tokens in given.lengths:
        machine.write_part("engine", f"one query, {tokens} tokens", one_query(tokens, given.rounds))
    for tokens in given.floor:
        machine.write_part("engine", f"floor, {tokens} tokens", floor(tokens, given.rounds))
    for tokens in given.compiled:
        machine.write_part("engine", f"compiled, {tokens} tokens", compiled(tokens, given.rounds))
    for queries in given.queries:
        machine.write_part("engine", f"shared context, {queries} queries", shared_context(queries, given.rounds))


if __name__ == "__main__":
    main()
