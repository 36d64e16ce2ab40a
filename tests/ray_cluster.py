"""A Ray cluster of its own with a dashboard and a token, on ports of its own, ended by its own process ids."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TOKEN = "a-token-of-this-test-cluster-only-0123456789"
_PORTS = (
    "port",
    "dashboard-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
    "ray-client-server-port",
)


@dataclass(frozen=True, slots=True)
class RayCluster:
    """Where its dashboard and its metrics are, and the environment that lets a client in."""

    address: str
    metrics: str
    environment: dict[str, str]


@contextlib.contextmanager
def ray_cluster(cpus: int = 4) -> Iterator[RayCluster]:
    """One node that stays in the foreground of a process group, so that everything it starts can be found again."""
    ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
    folder = tempfile.mkdtemp(prefix="qr")  # short: Ray puts sockets below it
    bin_folder = str(Path(sys.executable).parent)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parent.parent),
        "OMP_NUM_THREADS": "1",
        "RAY_metrics_report_interval_ms": "500",
    }
    command = [
        *(f"{bin_folder}/ray", "start", "--head", "--block", "--include-dashboard=true", "--disable-usage-stats"),
        *(f"--{name}={port}" for name, port in ports.items()),
        *(f"--num-cpus={cpus}", "--num-gpus=0", f"--temp-dir={folder}", "--object-store-memory=200000000"),
        *("--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"),
    ]
    log = Path(folder, "ray-start.txt")
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    address = f"http://127.0.0.1:{ports['dashboard-port']}"
    try:
        _wait_for(f"{address}/api/version", process, log)
        yield RayCluster(address, f"http://127.0.0.1:{ports['metrics-export-port']}/metrics", environment)
    finally:
        _end(process)
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(request, timeout=2).close()
            return
        except OSError:
            time.sleep(0.3)
    raise RuntimeError(f"no Ray dashboard at {url}:\n{log.read_text(errors='replace')[-3000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    started = [process.pid, *descendants(process.pid)]
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=5)
    for pid in started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait(timeout=10)


def descendants(pid: int) -> list[int]:
    """Every process that a process started, directly or not, and that still lives."""
    found = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            children = (task / "children").read_text().split()
            found += [one for child in children for one in (int(child), *descendants(int(child)))]
    return found
