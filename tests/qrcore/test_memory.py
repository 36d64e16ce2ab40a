"""What is predicted of memory; how near it comes is measured in fresh processes."""

from __future__ import annotations

import pytest
import torch

from qrcore.heads import Head
from qrcore.memory import PassMemory
from tests.benchmarks.memory import Case, in_fresh_process
from tests.qrcore.families import MODELS, FamilyModels, config_of


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_those_of_the_kept_layers(name: str, family_models: FamilyModels) -> None:
    model = family_models.scorer(name, "1-3,0-2").model.model
    for dtype in (torch.float32, torch.bfloat16):
        weights = PassMemory.of(config_of(name), [Head(1, 3), Head(0, 2)], dtype).weights
        assert weights == sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize


def test_more_of_anything_takes_more() -> None:
    memory = PassMemory.of(config_of("llama"), [Head(1, 0), Head(1, 1)], chunk_tokens=100)
    base = memory.predict(1000).total
    assert memory.predict(1001).total > base
    assert memory.predict(1000, suffixes=3).total > base
    assert PassMemory.of(config_of("llama"), [Head(2, 0), Head(1, 1)], chunk_tokens=100).predict(1000).total > base
    assert memory.predict(1000, keys=500).total < base


def test_each_doubling_beyond_one_chunk_costs_a_cpu_a_part_of_a_chunk_and_a_gpu_nothing() -> None:
    of = (config_of("llama"), [Head(1, 0)], torch.float32, 100)
    passes = [PassMemory.of(*of).predict(tokens) for tokens in (50, 100, 200, 400)]
    assert [one.heap / one.chunk for one in passes] == pytest.approx([0, 0, 0.4, 0.8], abs=1e-4)
    assert PassMemory.of(*of, on_cpu=False).predict(400).heap == 0


@pytest.mark.parametrize("memory_bytes", [10**6, 10**7, 10**9])
def test_the_largest_pass_fits_and_the_next_does_not(memory_bytes: int) -> None:
    memory = PassMemory.of(config_of("llama"), [Head(1, 0)])
    tokens = memory.largest_pass(memory_bytes)
    assert memory.predict(tokens).total <= memory_bytes < memory.predict(tokens + 1).total


def test_what_does_not_even_hold_the_weights_holds_no_pass() -> None:
    memory = PassMemory.of(config_of("llama"), [Head(1, 0)])
    assert memory.largest_pass(memory.weights) == 0


@pytest.mark.slow
@pytest.mark.parametrize("case", [Case(5120, chunk_tokens=5120), Case(8192)], ids=["one chunk", "four chunks"])
def test_prediction_is_within_ten_percent_of_the_peak(case: Case) -> None:
    result = in_fresh_process(case)
    assert result["predicted_bytes"] > 500e6
    assert result["predicted_over_measured"] == pytest.approx(1, abs=0.1)
