"""What durable runs cost: planning and committing 10,000 objects, a million rows, requests, memory of workers.

``python -m tests.benchmarks.durable [NAME …]`` with names ``objects rows requests memory``; each measurement is added
to ``results/durable.jsonl``. Jobs are stubs, so that what is measured is the run and not a model.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import s3fs

from pipelines.cluster import ClusterSettings, ray_session
from pipelines.metrics import unit_metrics
from pipelines.plan import Plan, load_plan
from pipelines.rows import Source, error_table
from pipelines.run import run_job
from pipelines.schemas import INPUT_SCHEMA
from pipelines.storage import Storage
from pipelines.units import unit_uri
from pipelines.work import PROVENANCE_KEY, UNIT_KEY, parquet_bytes
from qrcore.errors import QRBatchError, ScoreError
from tests.faults import Faults, faulty_network
from tests.services import s3_api, s3_credentials
from tests.shards import row, write_shard
from tests.stubs import Quiet, StubJob, run_stub, stub_settings

RESULTS = Path(__file__).parent / "results"
MIB = 2**20


def resident_mib() -> float:
    """Memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def peak_mib() -> float:
    """Most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def objects(folder: Path, number: int) -> dict[str, Any]:
    """Plan ``number`` input files of one row each and commit as many units, on a local S3 server."""
    with s3_api() as server, s3_credentials(server):
        s3 = s3fs.S3FileSystem(skip_instance_cache=True)
        s3.mkdir("durable")
        contents = {}
        for index in range(number):
            path = write_shard(folder / "one.parquet", [row(f"q{index}", query="good")])
            contents[f"durable/in/{index:05}.parquet"] = path.read_bytes()
        s3.pipe(contents)
        del contents
        settings = stub_settings("s3://durable/in", "s3://durable/out")
        with ray_session(ClusterSettings()):
            before, started = resident_mib(), time.perf_counter()
            planned = _stop_after_planning(settings)
            plan_s, plan_peak = time.perf_counter() - started, peak_mib()
            run_uri = f"s3://durable/out/{planned.run_id}"
            plan = load_plan(Storage(run_uri), run_uri)
            if plan is None:
                raise RuntimeError("no plan")
            _put_units(plan, run_uri)
            started = time.perf_counter()
            result = run_stub(settings)
            commit_s = time.perf_counter() - started
    return {
        "files": number,
        "units": len(result.manifest.objects),
        "driver_mib_before": before,
        "plan_s": plan_s,
        "plan_peak_mib": plan_peak,
        "commit_s": commit_s,
        "commit_peak_mib": peak_mib(),
    }


class _PlannedError(Exception):
    """Ends a run when it is planned."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan


class _StopWhenPlanned(Quiet):
    def planned(self, plan: Plan, done: frozenset[str]) -> None:
        raise _PlannedError(plan)


def _stop_after_planning(settings: Any) -> Plan:
    try:
        run_job(StubJob(), settings, _StopWhenPlanned())
    except _PlannedError as stop:
        return stop.plan
    raise RuntimeError("the run went on")


def _put_units(plan: Plan, run_uri: str) -> None:
    """Objects as workers would put them, made here: writing them is not what is measured."""
    s3, schema = s3fs.S3FileSystem(skip_instance_cache=True), plan.output_schema
    for start in range(0, len(plan.units), 500):
        contents = {}
        for unit in plan.units[start : start + 500]:
            table = pa.Table.from_pylist([row("q")], schema=INPUT_SCHEMA)
            error = ScoreError("nothing_relevant", "set aside", stage="score")
            source = Source(plan.files[unit.file].uri, unit.start)
            rows = error_table(table, [error], [source], schema, [])
            metrics = unit_metrics(1, [error], 0, time.time())
            fields = {name: getattr(metrics, name) for name in metrics.__slots__}
            footer = {"unit_id": unit.unit_id, "config_hash": plan.config_hash, "read_s": 0.0, **fields}
            data = parquet_bytes(rows, {UNIT_KEY: json.dumps(footer), PROVENANCE_KEY: "{}"})
            contents[unit_uri(run_uri, unit.unit_id).removeprefix("s3://")] = data
        s3.pipe(contents)


def rows(folder: Path, number: int) -> dict[str, Any]:
    """A run over ``number`` tiny rows; the driver's memory while units are done."""
    each = 10_000
    listed = [{"doc_id": "a", "text": "river"}, {"doc_id": "b", "text": "salt"}]
    table = pa.Table.from_pylist([row("x", query="good", candidates=listed)] * each, schema=INPUT_SCHEMA)
    (folder / "in").mkdir()
    for index in range(number // each):
        ids = pa.array([f"q{index}-{i}" for i in range(each)])
        pq.write_table(table.set_column(0, "query_id", ids), folder / "in" / f"{index:04}.parquet", row_group_size=1000)
    memory: list[float] = []
    settings = stub_settings(
        str(folder / "in"), str(folder / "out"), units={"max_rows": 1000}, actors={"count": 2, "cpus": 0.5}
    )
    with ray_session(ClusterSettings()):
        started = time.perf_counter()
        result = run_stub(settings, observer=Quiet(lambda _done: memory.append(resident_mib())))
        seconds = time.perf_counter() - started
    tenth = max(1, len(memory) // 10)
    return {
        "rows": result.manifest.rows,
        "units": len(memory),
        "seconds": seconds,
        "driver_mib_by_tenths": [round(max(memory[i : i + tenth])) for i in range(0, len(memory), tenth)],
        "driver_peak_mib": peak_mib(),
    }


def requests(folder: Path, number: int) -> dict[str, Any]:
    """Requests to the store of a run over ``number`` rows, in units of 64."""
    faults = Faults()
    with s3_api() as server, s3_credentials(server):
        s3 = s3fs.S3FileSystem(skip_instance_cache=True)
        s3.mkdir("durable")
        path = write_shard(folder / "1.parquet", [row(f"q{i}", query="good") for i in range(number)])
        s3.put_file(str(path), "durable/in/1.parquet")
        with faulty_network(server, faults) as endpoint, ray_session(ClusterSettings()):
            storage = {"endpoint_url": endpoint, "path_style": True}
            settings = stub_settings(
                "s3://durable/in", "s3://durable/out", units={"max_rows": 64}, storage=storage, actors={"cpus": 0.5}
            )
            result = run_stub(settings)
    units = len(result.manifest.objects)
    by_method = {method: faults.total(method) for method in ("GET", "HEAD", "PUT", "POST", "DELETE")}
    return {
        "rows": number,
        "units": units,
        **by_method,
        "requests_per_1000_rows": sum(by_method.values()) * 1000 / number,
        "puts_beside_two_a_unit": by_method["PUT"] - 2 * units,
    }


def memory(folder: Path, number: int) -> dict[str, Any]:
    """A file of some KB that decodes to ``number`` MB: the largest resident memory of any worker."""
    text = "word " * 200_000  # 1 MB
    table = pa.Table.from_pylist(
        [row(f"q{i}", query="good", candidates=[{"doc_id": "d", "text": text}]) for i in range(number)],
        schema=INPUT_SCHEMA,
    )
    (folder / "in").mkdir()
    path = folder / "in" / "1.parquet"
    pq.write_table(table, path, compression="zstd", row_group_size=number)
    del table
    watcher = _WorkerWatcher()
    with ray_session(ClusterSettings()):
        watcher.start()
        result = run_stub(stub_settings(str(folder / "in"), str(folder / "out"), units={"max_rows": 1000}))
        watcher.stop()
    unit_mib = 64.0
    return {
        "file_kb": path.stat().st_size / 1000,
        "decoded_mb": number,
        "units": len(result.manifest.objects),
        "rows": result.manifest.rows,
        "largest_worker_mib": watcher.largest,
        "idle_worker_mib": watcher.smallest,
        "multiple_of_unit_max_bytes": (watcher.largest - watcher.smallest) / unit_mib,
    }


class _WorkerWatcher:
    """Watches the private memory of Ray's workers below this process."""

    def __init__(self) -> None:
        self.largest, self.smallest = 0.0, float("inf")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            for process in Path("/proc").iterdir():
                if process.name.isdigit() and (found := _worker_mib(process)):
                    self.largest, self.smallest = max(self.largest, found), min(self.smallest, found)


def _worker_mib(process: Path) -> float | None:
    try:
        if not (process / "cmdline").read_bytes().startswith(b"ray::"):
            return None
        if not _is_mine(int(process.name)):
            return None
        lines = (process / "status").read_text().splitlines()
    except OSError:
        return None
    sizes = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("RssAnon")}
    return int(sizes["RssAnon"]) / 1024 if sizes else None  # Ray's shared object store is not the worker's own


def _is_mine(pid: int) -> bool:
    while pid > 1:
        if pid == os.getpid():
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False


MEASUREMENTS: dict[str, tuple[Callable[[Path, int], dict[str, Any]], int]] = {
    "requests": (requests, 2000),
    "memory": (memory, 240),
    "rows": (rows, 1_000_000),
    "objects": (objects, 10_000),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for, all by default."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=list(MEASUREMENTS))
    parser.add_argument("--number", type=int)
    parser.add_argument("--output", type=Path, default=RESULTS)
    told = parser.parse_args(arguments)
    for name in told.names:
        measure, number = MEASUREMENTS[name]
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = {"measured": name, **measure(Path(folder), told.number or number)}
            except QRBatchError as error:
                print(f"{name}: {error}")
                return 1
        print(json.dumps(found), flush=True)
        told.output.mkdir(parents=True, exist_ok=True)
        with (told.output / "durable.jsonl").open("a") as lines:
            lines.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
