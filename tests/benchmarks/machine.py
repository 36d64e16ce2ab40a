"""Measuring on a shared machine: paired rounds, medians, CPU seconds, and a record of where it was."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import torch
import transformers

RESULTS: Final = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Paired:
    """CPU and wall seconds of several ways to do the same, round by round in one process."""

    cpu: dict[str, list[float]]
    wall: dict[str, list[float]]

    def median(self, name: str) -> float:
        """Median CPU seconds."""
        return statistics.median(self.cpu[name])

    def ratio(self, name: str, other: str) -> float:
        """Median over rounds of ``name``'s CPU seconds over ``other``'s."""
        return statistics.median(a / b for a, b in zip(self.cpu[name], self.cpu[other], strict=True))

    def record(self) -> dict[str, dict[str, float]]:
        """Medians, for a result file."""
        return {name: {"cpu_s": self.median(name), "wall_s": statistics.median(self.wall[name])} for name in self.cpu}


def paired(runs: Mapping[str, Callable[[], Any]], rounds: int) -> Paired:
    """Run all in turn, A B C A B C …: a machine that drifts drifts for all. One more round first, uncounted, where
    there is more than one."""
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    wall: dict[str, list[float]] = {name: [] for name in runs}
    with torch.inference_mode():
        for number in range(rounds + 1) if rounds > 1 else (1,):
            for name, run in runs.items():
                wall_before, cpu_before = time.perf_counter(), time.process_time()
                run()
                if number:
                    cpu[name].append(time.process_time() - cpu_before)
                    wall[name].append(time.perf_counter() - wall_before)
    return Paired(cpu, wall)


def peak_rss() -> int:
    """The most bytes this process has had in memory."""
    # Not ru_maxrss: after fork and exec it still holds the size of the process that started this one.
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def current_rss() -> int:
    """Bytes this process has in memory now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def write(name: str, results: Any) -> None:
    """Write ``results/<name>.json`` with machine, versions and commit, and print it."""
    record = {"measured_at": datetime.now(UTC).isoformat(timespec="seconds"), **where(), "results": results}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: results}))


def write_part(name: str, part: str, result: Any) -> None:
    """Put one part into ``results/<name>.json``, with machine, versions and commit of its own."""
    file = RESULTS / f"{name}.json"
    parts = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    parts[part] = {**result, "measured_at": datetime.now(UTC).isoformat(timespec="seconds"), **where()}
    file.write_text(json.dumps(parts, indent=1) + "\n", encoding="utf-8")
    print(part, json.dumps(result), flush=True)


def where(device: torch.device | None = None) -> dict[str, Any]:
    """Machine, versions and commit."""
    card = torch.cuda.get_device_name(device) if device is not None and device.type == "cuda" else None
    return {
        "machine": {
            "processor": _processor(),
            "card": card,
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "load_average": os.getloadavg(),
        },
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "commit": _commit(),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str | None:
    try:
        command = ["git", "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=RESULTS.parent).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # a copy without history
        return None
