"""A driver as a process of its own, for tests that kill one: ``python -m tests.drivers SETTINGS.json``.

It joins the Ray of the test session, so that starting it takes seconds and its death leaves the cluster alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ray

ROOT = Path(__file__).parent.parent


def start_driver(folder: Path, inputs: str, output: str, **changes: Any) -> subprocess.Popen[str]:
    """Start a driver on the stub job; what it prints last is its exit code's reason."""
    changes = {**changes, "cluster": {"address": ray.get_runtime_context().gcs_address}}
    settings = folder / f"driver-{os.urandom(4).hex()}.json"
    settings.write_text(json.dumps({"inputs": inputs, "output": output, "changes": changes}))
    return subprocess.Popen(
        [sys.executable, "-m", "tests.drivers", str(settings)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def main(path: str) -> int:
    from jobs.shell import guarded
    from tests.stubs import Quiet, run_stub, stub_settings

    told = json.loads(Path(path).read_text())
    settings = stub_settings(told["inputs"], told["output"], **told["changes"])

    def run() -> int:
        observer = Quiet(lambda done: print(f"units {done}", flush=True))
        result = run_stub(settings, observer=observer)
        print(f"committed {result.run_uri} by {result.manifest.driver} scored {len(observer.footers)}", flush=True)
        return 0

    return guarded(run, debug=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
