"""Predicted against measured peak memory, each case in a process of its own.

``python -m tests.benchmarks.memory`` (or ``make bench``): the peak of a packed pass with random weights, as the growth
of the process's resident memory over what it was before the model was made. Writes ``results/memory.json``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch

from qrcore.attention.read import read_packed
from qrcore.memory import PassMemory
from tests.benchmarks import machine, reference, subject


@dataclass(frozen=True)
class Case:
    """Which pass: ``tokens`` of the longest prompt, ``queries`` over its documents, size of the chunks; ``wide``: by a
    model of the second shape."""

    tokens: int
    queries: int = 1
    chunk_tokens: int = 2048
    reader: str = "engine"
    wide: bool = False


CASES: Final = (
    Case(2048),
    Case(4096),
    Case(8192),
    Case(16384),
    Case(5120, chunk_tokens=5120),
    Case(4096, queries=32),
    Case(2048, wide=True),
    Case(8192, wide=True),
    Case(16384, chunk_tokens=1024, wide=True),
    Case(4096, reader="reference"),
)


def measure(case: Case) -> dict[str, Any]:
    """In this process, which should be a fresh one: predicted and measured bytes."""
    config = subject.config(wide=case.wide)
    memory = PassMemory.of(config, subject.HEADS, torch.float32, case.chunk_tokens)
    prompt = subject.prompt(case.tokens, case.queries)
    _warm_up()
    before = machine.current_rss()
    model = subject.model(subject.DEPTH if case.reader == "engine" else subject.LAYERS, wide=case.wide)
    with torch.inference_mode():
        if case.reader == "engine":
            read_packed(model, [prompt], subject.HEADS, case.chunk_tokens)
        else:
            reference.read(model, prompt, subject.HEADS)
    measured = machine.peak_rss() - before
    packed = len(prompt.prefix_ids) + sum(len(suffix.ids) for suffix in prompt.suffixes)
    predicted = memory.predict(packed, len(prompt.suffixes), case.tokens)
    result: dict[str, Any] = {**asdict(case), "measured_bytes": measured}
    if case.reader == "engine":
        result |= {"predicted": asdict(predicted), "predicted_bytes": predicted.total}
        result["predicted_over_measured"] = predicted.total / measured
    return result


def in_fresh_process(case: Case) -> dict[str, Any]:
    """:func:`measure` in a new interpreter."""
    command = [sys.executable, "-m", "tests.benchmarks.memory", json.dumps(asdict(case))]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def _warm_up() -> None:
    """Libraries take memory of their own when they first compute: threads, kernels, code."""
    with torch.inference_mode():
        read_packed(subject.tiny_model(), [subject.prompt(200)], subject.HEADS[:1], 64)


def main() -> None:
    """One case if it is given, else all in processes of their own."""
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        print(json.dumps(measure(Case(**json.loads(sys.argv[1])))))
        return
    results = [in_fresh_process(case) for case in CASES]
    engine = next(result for result in results if result["tokens"] == CASES[-1].tokens)  # of one query, which is first
    share = engine["measured_bytes"] / results[-1]["measured_bytes"]
    machine.write("memory", {"cases": results, "engine_over_reference": share})


if __name__ == "__main__":
    main()
