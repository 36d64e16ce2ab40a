"""The script for a GPU runs, resumes, and what it calls exact is."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.benchmarks import gpu


def test_the_smallest_cases_run_on_a_cpu_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["gpu", "--smallest", "--output", str(output)])
    gpu.main()
    results = json.loads(output.read_text(encoding="utf-8"))
    assert set(results) == {case.name for case in gpu.SMALLEST}
    assert all(result["largest_difference_to_float32"] < 1e-6 for result in results.values())
    assert all(result["prompt_tokens_per_s"] > 0 for result in results.values())
    assert all(result[share] > 0 for share in ("share_of_floor", "share_of_matmul_rate") for result in results.values())
    monkeypatch.setattr(gpu, "measure", lambda *arguments: pytest.fail("measured again"))
    gpu.main()


def test_without_a_gpu_the_large_cases_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu"])
    with pytest.raises(SystemExit):
        gpu.main()


def test_every_case_has_a_shape_and_heads_that_fit_it() -> None:
    for case in (*gpu.CASES, *gpu.SMALLEST):
        config = gpu.SHAPES[case.shape]
        heads = gpu.load_head_set(case.heads).head_list
        assert max(head.layer for head in heads) < config.num_hidden_layers
        assert max(head.head for head in heads) < config.num_attention_heads
    assert len({case.name for case in gpu.CASES}) == len(gpu.CASES)
