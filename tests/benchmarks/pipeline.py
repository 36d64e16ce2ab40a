"""What Ray costs: a real run against the bare engine, and scale-out with workers that sleep.

``python -m tests.benchmarks.pipeline [run scale tail]`` (or ``make bench``); each part is written into
``results/pipeline.json``.

- ``run``: ``qrbatch rerank`` with one actor, and the engine's loop in one process on the same rows: rows per second.
- ``scale``: 1 to 16 workers that sleep 2 s a unit and hold no model: what share of their time they sleep, from the
  moment when the last of them has its first unit.
- ``tail``: units of very different lengths on 4 such workers: when the last one ends, against what no order could beat.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import torch

from jobs.config import RerankConfig
from jobs.rerank import pipeline_settings
from jobs.settings import validate
from pipelines.cluster import ClusterSettings, ray_session
from pipelines.report.pace import wall_seconds
from pipelines.rerank import run as rerank
from qrcore import Ranking, RankRequest, load_scorer
from tests.benchmarks.machine import write_part
from tests.benchmarks.packing import lists
from tests.shards import write_shard
from tests.stubs import Quiet, run_stub, stub_settings

#: Work of about 40 s, over which what starts a run weighs little.
_LISTS: Final = 1280
_UNIT_ROWS: Final = 64
_WORKERS: Final = (1, 2, 4, 8, 16)
_UNITS_A_WORKER: Final = 12
_UNIT_S: Final = 2.0
#: Small enough for 16 workers beside reading on two CPUs: who sleeps needs none.
_SLEEPER_CPUS: Final = 0.05
_TEXT_BYTES_A_SECOND: Final = 4_000


def whole_run(folder: Path, count: int = _LISTS, rounds: int = 3) -> dict[str, Any]:
    """The bare loop and the real run in turn, on the same lists."""
    requests = lists(count)
    shard = write_shard(folder / "in" / "lists.parquet", [_row(request) for request in requests])
    scorer = load_scorer("embedded", order="as_given")
    bare, scoring, idle, whole = [], [], [], []
    for number in range(rounds):
        bare.append(_seconds(lambda: _check(list(scorer.rank_many(requests)))))
        observer = Quiet()
        started = time.perf_counter()
        _run(shard, folder / f"out-{number}", observer)
        whole.append(time.perf_counter() - started)
        scoring.append(_span_s(observer.footers))
        idle.append(1.0 - sum(one["score_s"] for one in observer.footers) / wall_seconds(observer.footers))
    return {
        "lists": count,
        "bare_s": statistics.median(bare),
        "first_unit_to_last_s": statistics.median(scoring),
        "whole_run_s": statistics.median(whole),
        "throughput_of_bare": statistics.median(a / b for a, b in zip(bare, scoring, strict=True)),
        "throughput_of_bare_with_start_and_commit": statistics.median(a / b for a, b in zip(bare, whole, strict=True)),
        "fixed_s": statistics.median(b - a for a, b in zip(scoring, whole, strict=True)),
        "scorer_idle_share": statistics.median(idle),
    }


def _run(shard: Path, output: Path, observer: Quiet) -> None:
    values = {
        "input": {"uris": [str(shard)]},
        "output": {"uri": str(output)},
        "scoring": {"order": "as_given"},
        "units": {"max_rows": _UNIT_ROWS},
        "actors": {"count": 1},
    }
    rerank(pipeline_settings(validate(RerankConfig, values)), observer)


def _row(request: RankRequest) -> dict[str, Any]:
    candidates = [{"doc_id": one.doc_id, "text": one.text} for one in request.documents]
    return {"query_id": request.query_id, "query": request.query, "candidates": candidates}


def _check(answers: Sequence[Any]) -> None:
    if not all(isinstance(answer, Ranking) for answer in answers):
        raise RuntimeError("expected a ranking for every list")


def _seconds(run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def scale(folder: Path, workers: Sequence[int] = _WORKERS) -> dict[str, Any]:
    """Share of the time that all workers together sleep, once the last one has begun."""
    found = {}
    for number in workers:
        observer = _sleep(folder, f"scale-{number}", [_UNIT_S] * (number * _UNITS_A_WORKER), number)
        begun = max(min(_start(one) for one in mine) for mine in _by_worker(observer.footers).values())
        end = max(_end(one) for one in observer.footers)
        asleep = sum(max(0.0, _end(one) - max(_start(one), begun)) for one in observer.footers)
        found[str(number)] = {
            "workers_seen": len(_by_worker(observer.footers)),
            "of_linear": asleep / (number * (end - begun)),
            "span_s": end - begun,
        }
    return {"unit_s": _UNIT_S, "units_a_worker": _UNITS_A_WORKER, "workers": found}


def tail(folder: Path, workers: int = 4, units: int = 48) -> dict[str, Any]:
    """Heavy-tailed lengths: the whole time against the lower bound of any schedule."""
    draw = random.Random(0)
    lengths = [min(20.0, 0.5 * draw.paretovariate(1.2)) for _ in range(units)]
    footers = _sleep(folder, "tail", lengths, workers).footers
    begun = max(min(_start(one) for one in mine) for mine in _by_worker(footers).values())
    left = [max(0.0, _end(one) - max(_start(one), begun)) for one in footers]
    bound = max(sum(left) / workers, *left)
    makespan = max(_end(one) for one in footers) - begun
    return {"workers": workers, "units": units, "longest_s": max(lengths), "makespan_over_bound": makespan / bound}


def _sleep(folder: Path, name: str, seconds: Sequence[float], workers: int) -> Quiet:
    """A run of units of one row each that sleep so long; their texts are as long as their sleep, for the plan."""
    rows = [
        {
            "query_id": f"q{number}",
            "query": f"sleep:{one}",
            "candidates": [{"doc_id": "d", "text": "x" * int(one * _TEXT_BYTES_A_SECOND)}],
        }
        for number, one in enumerate(seconds)
    ]
    shard = write_shard(folder / name / "in.parquet", rows)
    actors = {"count": workers, "cpus": _SLEEPER_CPUS}
    settings = stub_settings(str(shard), str(folder / name / "out"), units={"max_rows": 1}, actors=actors)
    observer = Quiet()
    run_stub(settings, observer=observer)
    return observer


def _by_worker(footers: Sequence[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    for footer in footers:
        found.setdefault(footer["actor_pid"], []).append(footer)
    return found


def _span_s(footers: Sequence[dict[str, Any]]) -> float:
    return max(map(_end, footers)) - min(map(_start, footers))


def _start(footer: dict[str, Any]) -> float:
    return datetime.fromisoformat(footer["started_at"]).timestamp()


def _end(footer: dict[str, Any]) -> float:
    return datetime.fromisoformat(footer["finished_at"]).timestamp()


PARTS: Final[dict[str, Callable[[Path], dict[str, Any]]]] = {"run": whole_run, "scale": scale, "tail": tail}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], default=[])
    torch.set_num_threads(1)
    for part in parser.parse_args().parts or PARTS:
        with tempfile.TemporaryDirectory() as folder, ray_session(ClusterSettings()):
            write_part("pipeline", part, PARTS[part](Path(folder)))


if __name__ == "__main__":
    main()
