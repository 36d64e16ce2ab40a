"""Reports with awkward content, as plain dictionaries of report.json."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

NASTY = "<script>alert(1)</script>\"'><img src=https://evil.invalid/x onerror=alert(2)>&amp;"
LONG_URI = "s3://a-rather-long-bucket-name/" + "/".join(f"very_long_folder_name_{i}=2026-10-{i:02d}" for i in range(12))
START = datetime(2026, 10, 3, 22, 0, tzinfo=UTC)


def histogram(low: float, high: float, counts: list[int]) -> dict[str, Any]:
    edges = [low + (high - low) * index / len(counts) for index in range(len(counts) + 1)]
    middle = (low + high) / 2
    return {"p5": low, "p50": middle, "p95": high - (high - low) / 20, "max": high, "edges": edges, "counts": counts}


def unit(index: int, actors: int, failed: int = 0, node: str = "node-1") -> dict[str, Any]:
    start = START + timedelta(seconds=5.0 * (index // actors))
    return {
        "unit_id": f"{index:064x}", "rows": 40, "failed": failed, "prompt_tokens": 40_000,
        "seconds": {"read": 0.2, "score": 4.1, "write": 0.1}, "started_at": start.isoformat(),
        "finished_at": (start + timedelta(seconds=4.4)).isoformat(), "actor_pid": 4000 + index % actors, "node": node,
    }  # fmt: skip


def measure(
    name: str, first: float | None, new: float, fused: float | None, interval: tuple[Any, ...]
) -> dict[str, Any]:
    difference, low, high = interval
    values = {"first_stage": first, "reranked": new, "fused": fused}
    return {"name": name, **values, "difference": difference, "low": low, "high": high}


def plain() -> dict[str, Any]:
    """One unit, nothing failed, no labels, no first stage, no examples."""
    return {
        "run": {
            "run_id": "rerank-0123456789ab", "job": "rerank", "name": "rerank", "status": "committed",
            "started_at": "2026-10-03T22:00:00Z", "finished_at": "2026-10-03T22:00:05Z", "seconds": 5.25,
            "output": "runs/rerank-0123456789ab", "driver": "0b9e", "resumed": False,
        },
        "asked": {
            "inputs": [{"uri": "in/part-0.parquet", "rows": 40, "bytes": 61_440}], "skipped_files": [], "rows": 40,
            "units": 1, "config": {"scoring.order": "reversed", "scorer.actors": 2, "input": ["in"]},
        },
        "result": {"rows": 40, "scored": 40, "failed": 0, "uninformative": 0, "objects": 1, "output_bytes": 20_480},
        "errors": [],
        "throughput": {
            "prompt_tokens": 40_000, "tokens_per_second": 8000.0, "rows_per_second": 8.0,
            "seconds": {"read": 0.2, "score": 4.1, "write": 0.1, "wall": 4.4},
        },
        "units": [unit(0, 1)],
        "distributions": {
            "prompt_tokens": histogram(600, 1400, [2, 8, 16, 10, 4]),
            "candidates": {"p5": 12, "p50": 12, "p95": 12, "max": 12, "edges": [11.5, 12.5], "counts": [40]},
        },
        "movement": None, "quality": None, "examples": [],
        "provenance": {
            "code_version": "0.1.0", "source_sha256": "ab" * 32, "python": "3.11.9",
            "packages": {"torch": "2.13.0", "ray": "2.60.0", "transformers": "5.17.0"},
            "model": {"id": "embedded", "revision": None, "weights_sha256": "cd" * 32,
                      "setup_sha256": "ef" * 32, "layers": 6, "kept_layers": 5},
            "head_set": {"id": "embedded-1", "heads": ["3-1", "4-0"]},
            "prompt": {"name": "embedded", "sha256": "ef" * 32},
            "settings": {"null_query": "N/A", "calibration_weight": 1.0}, "dtype": "float32", "device": "cpu",
            "config_hash": "12" * 32, "input_hash": "34" * 32,
        },
    }  # fmt: skip


def awkward() -> dict[str, Any]:
    """300 units on 12 actors, many error codes, hostile text everywhere, very long URIs, labels, movement."""
    depth = 20
    sample = plain()
    sample["run"] |= {
        "name": "nightly",
        "run_id": "nightly-" + "x" * 56 + "-0123456789ab",
        "output": LONG_URI,
        "resumed": True,
    }
    sample["run"]["seconds"] = 4405.0
    sample["asked"]["inputs"] = [
        {"uri": f"{LONG_URI}/part-{i}.parquet", "rows": 1200, "bytes": 9_000_000} for i in range(10)
    ]
    sample["asked"] |= {
        "rows": 12_000,
        "units": 300,
        "skipped_files": [{"uri": LONG_URI, "reason": f"not Parquet {NASTY}"}],
    }
    sample["asked"]["config"] |= {"scoring.null_query": NASTY, "input": [LONG_URI] * 3}
    sample["result"] = {
        "rows": 12_000,
        "scored": 11_983,
        "failed": 17,
        "uninformative": 3,
        "objects": 300,
        "output_bytes": 3 << 30,
    }
    example = {
        "query_id": NASTY,
        "source": {"uri": LONG_URI, "row": 123_456},
        "message": f"expected text, got {NASTY}\nset it",
    }
    codes = [f"some_rather_long_error_code_{index}" for index in range(15)]
    sample["errors"] = [
        {"code": code, "kind": "transient" if index % 2 else "input", "count": 3 if index == 0 else 1,
         "examples": [example, example | {"query_id": None, "message": "word" * 300}]}
        for index, code in enumerate(codes)
    ]  # fmt: skip
    sample["units"] = [unit(i, 12, failed=i % 25 == 7, node=f"ip-10-0-{i % 3}-17.{NASTY}") for i in range(300)]
    for number, one in enumerate(sample["units"]):
        one |= {"memory_bytes": (3 << 30) + number, "gpu_memory_bytes": (11 << 30) + number}
    sample["memory"] = [
        {"node": f"ip-10-0-{i % 3}-17.{NASTY}", "actor_pid": 4000 + i, "on_gpu": True,
         "predicted_bytes": 18 << 30, "measured_bytes": (18 << 30) + (i << 25)}
        for i in range(40)
    ]  # fmt: skip
    sample["distributions"]["prompt_tokens"] = histogram(
        220, 31_900, [5, 90, 1800, 4200, 3100, 1500, 800, 300, 120, 60, 20, 5]
    )
    sample["distributions"]["candidates"] = histogram(2, 20, [20, 80, 400, 900, 10_600])
    sample["distributions"]["unit_seconds"] = histogram(2.5, 38.0, [3, 40, 120, 90, 30, 12, 5])
    sample["distributions"]["margin"] = histogram(-0.001, 0.42, [900, 4200, 3900, 2100, 700, 150, 33])
    sample["distributions"]["unit_wait"] = histogram(0.2, 41.0, [30, 90, 100, 60, 20])
    sample["throughput"]["seconds"] |= {
        "wait": 31.0,
        "tokenise": 1.0,
        "tokenise_in_score": 0.9,
        "start": 38.5,
        "commit": 2.25,
    }
    sample["throughput"] |= {"busy": 0.934}
    sample["cost"] = {
        "actors": 12, "cpu_hours": 44.1, "gpu_hours": 14.7, "cpu_hour_rate": 0.04, "gpu_hour_rate": 2.5,
        "currency": "EUR", "total": 38.514, "per_1000_queries": 3.2095, "per_million_tokens": 0.0321,
    }  # fmt: skip
    sample["movement"] = {
        "depth": depth,
        "counts": [[900 // (1 + abs(i - j)) for j in range(depth)] for i in range(depth)],
    }
    sample["quality"] = {"qrels": LONG_URI, "judged_queries": 1190, "missing_queries": 12, "measures": [
        measure("nDCG@10", 0.612, 0.781, 0.79, (0.169, 0.151, 0.188)),
        measure("recall@10", 0.81, 0.86, 0.87, (0.05, 0.03, 0.07)),
        measure("recall@5", 0.7, 0.704, None, (0.004, -0.01, 0.02)),
        measure("recall@1", 0.52, 0.498, 0.53, (-0.022, -0.04, -0.003)),
        measure("MRR", None, 0.7, None, (None, None, None)),
    ]}  # fmt: skip
    docs = [{"doc_id": f"os.path.function_{i}", "relevant": [True, False, None][i % 3]} for i in range(14)]
    docs[4] = {"doc_id": NASTY + LONG_URI, "relevant": True}
    asked: dict[str, Any] = {"query": f"How do I split a path? {NASTY}", "first_stage": docs, "reranked": docs[::-1]}
    sample["examples"] = [asked | {"query_id": f"q-{index} {NASTY}"} for index in range(3)]
    return sample


def empty() -> dict[str, Any]:
    """Every row failed: nothing was measured."""
    sample = plain()
    nothing: dict[str, Any] = {"p5": None, "p50": None, "p95": None, "max": None, "edges": [], "counts": []}
    sample["distributions"] = {"prompt_tokens": nothing, "candidates": nothing}
    sample["result"] |= {"scored": 0, "failed": 40}
    sample["errors"] = [{"code": "no_candidates", "kind": "input", "count": 40, "examples": []}]
    sample["units"], sample["throughput"]["seconds"] = [], {"read": 0, "score": 0, "write": 0, "wall": 0}
    return sample


SAMPLES = {"plain": plain, "awkward": awkward, "empty": empty}
