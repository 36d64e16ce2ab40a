"""Long and many contexts through prepare and select: ``python -m tests.benchmarks.contexts``.

100,000 short rows show whether the driver's memory follows them; one context of about a million tokens in 20,000 pieces
shows what a worker needs. Ranking is a stub, since no model that ships here reads a million tokens. Prints seconds and
MiB; wall seconds say little on a machine that is shared.
"""

from __future__ import annotations

import json
import os
import random
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs import prepare, select
from jobs.config import RerankConfig
from jobs.rerank import pipeline_settings as rerank_settings
from jobs.settings import validate
from pipelines.actors import unit_metrics
from pipelines.cluster import ClusterSettings, ray_session
from pipelines.commit import manifest_rows
from pipelines.job import RunResult
from pipelines.plan import Plan
from pipelines.rerank import RerankJob
from pipelines.rows import Source, row_from_answer, table_from_rows
from pipelines.run import run_job
from pipelines.units import UnitRows
from pipelines.work import UnitMetrics, UnitWorker
from qrcore.records import RankedDocument, Ranking, ScorerIdentity
from qrcore.splitting import rebuild

WORDS = ("river", "town", "bee", "flower", "market", "bridge", "salt", "stone", "lamp", "wool", "cheese", "map")


class Silent:
    """An observer that says nothing."""

    def stage(self, message: str) -> None: ...

    def planned(self, plan: Any, done: frozenset[str]) -> None: ...

    def unit_done(self, footer: dict[str, Any]) -> None: ...


class StubWorker:
    """Ranks by a hash-like stir of positions."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema

    def answer(self, unit: UnitRows) -> tuple[pa.Table, UnitMetrics]:
        """Every candidate once."""
        rows = []
        for place, row in enumerate(unit.table.select(["query_id", "candidates"]).to_pylist()):
            order = sorted(range(len(row["candidates"])), key=lambda position: position * 7919 % 10007)
            documents = tuple(
                RankedDocument(row["candidates"][position]["doc_id"], rank, 1.0 / rank, position + 1, None)
                for rank, position in enumerate(order, start=1)
            )
            ranking = Ranking(row["query_id"], documents, prompt_tokens=1)
            rows.append(row_from_answer(row["query_id"], ranking, Source(unit.uri, unit.first_row + place)))
        carried = unit.table.select(
            [name for name in unit.table.schema.names if name in ("answers", "date", "kind", "group")]
        )
        return table_from_rows(rows, carried, self._schema), unit_metrics(len(rows), [], 0, time.time())


class StubJob(RerankJob):
    """Re-ranking by the stub, on the rails of the real job."""

    def worker(self, facts: ScorerIdentity, plan: Plan) -> Callable[[], UnitWorker]:
        """See :class:`StubWorker`."""
        return partial(StubWorker, plan.output_schema)


def _resident(pid: int) -> int:
    """Bytes of a process in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def _private(pid: int) -> int:
    """Bytes that a process shares with no other, 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))


def _workers(ancestor: int) -> list[int]:
    """Ray's worker processes below this one."""
    parents: dict[int, tuple[int, str]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name, rest = (folder / "stat").read_text().split("(", 1)[1].rsplit(")", 1)
            parents[int(folder.name)] = (int(rest.split()[1]), name)
        except (OSError, ValueError, IndexError):
            continue
    found = []
    for pid, (_, name) in parents.items():
        above = pid
        while above in parents and above != ancestor:
            above = parents[above][0]
        if above == ancestor and name.startswith("ray::"):
            found.append(pid)
    return found


@contextmanager
def measured(what: str) -> Iterator[None]:
    """Print wall seconds, the driver's growth, and the largest worker's memory, sampled every 50 ms."""
    done = threading.Event()
    before, peaks = _resident(os.getpid()), {"driver": 0, "worker": 0}

    def watch() -> None:
        while not done.wait(0.1):
            peaks["driver"] = max(peaks["driver"], _resident(os.getpid()))
            peaks["worker"] = max([peaks["worker"], *map(_private, _workers(os.getpid()))])

    thread = threading.Thread(target=watch)
    thread.start()
    started = time.perf_counter()
    yield
    seconds = time.perf_counter() - started
    done.set()
    thread.join()
    growth = (peaks["driver"] - before) / 2**20
    print(
        f"{what}: {seconds:.1f} s, driver +{growth:.0f} MiB, largest worker {peaks['worker'] / 2**20:.0f} MiB (unique)",
        flush=True,
    )


def short_rows(folder: Path, count: int) -> None:
    """``count`` rows with three candidates each."""
    path = folder / f"short-{count}.jsonl"
    draw = random.Random(0)
    with path.open("w") as lines:
        for number in range(count):
            candidates = [{"doc_id": f"d{n}", "text": " ".join(draw.choices(WORDS, k=10))} for n in range(3)]
            lines.write(json.dumps({"query_id": f"q{number}", "query": "which?", "candidates": candidates}) + "\n")
    with measured(f"prepare, {count:,} short rows"):
        result = _prepared("shards", path, folder, {"shards": {"bytes": 4 * 2**20}})
    print(f"  {result.manifest.scored:,} rows in {len(result.manifest.objects)} shards")


def long_context(folder: Path) -> None:
    """One context of 20,000 paragraphs of about 50 tokens."""
    draw = random.Random(1)
    text = "\n\n".join(" ".join(draw.choices(WORDS, k=48)) + "." for _ in range(20_000))
    path = folder / "long.jsonl"
    path.write_text(json.dumps({"document_id": "a", "text": text, "query_id": "q", "query": "which river?"}) + "\n")
    with measured("prepare, one context of 20,000 pieces"):
        prepared = _prepared("documents", path, folder, {})
    (row,) = manifest_rows(prepared.run_uri)
    assert rebuild((piece["start"], piece["text"]) for piece in row["candidates"]) == text
    with measured("rank by the stub"):
        ranked = _ranked(prepared.run_uri, folder)
    given = {
        "input": {"uri": ranked.run_uri},
        "output": {"uri": str(folder / "bundles")},
        "policy": {"budget_tokens": 100_000},
        "actors": {"count": 1},
    }
    with measured("select, budget of 100,000 tokens"):
        selected = select.select(validate(select.SelectConfig, given), Silent())
    (bundle,) = manifest_rows(selected.run_uri)
    print(
        f"  {bundle['source_tokens']:,} tokens in {len(row['candidates']):,} pieces, {bundle['context_tokens']:,} kept"
    )


def _prepared(recipe: str, path: Path, folder: Path, changes: dict[str, Any]) -> RunResult:
    given = {"recipe": recipe, "input": {"uris": [str(path)]}, "output": {"uri": str(folder / "prepared")}, **changes}
    return prepare.prepare(validate(prepare.PrepareConfig, given), Silent())


def _ranked(uri: str, folder: Path) -> RunResult:
    given = {"input": {"uris": [uri]}, "output": {"uri": str(folder / "ranked")}, "actors": {"count": 1}}
    settings = rerank_settings(validate(RerankConfig, given))
    return run_job(
        StubJob(replace(settings, scorer=replace(settings.scorer, device="cpu")), None), settings.run, Silent()
    )


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder, ray_session(ClusterSettings()):
        short_rows(Path(folder), 2_000)  # the first run of a process loads libraries
        short_rows(Path(folder), 10_000)
        short_rows(Path(folder), 100_000)
        long_context(Path(folder))
    print(f"driver's peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MiB")


if __name__ == "__main__":
    main()
