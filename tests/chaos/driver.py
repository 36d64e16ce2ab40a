"""One driver as a process of its own: ``python -m tests.chaos.driver SPEC.json``."""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.shell import guarded
from tests.chaos.points import arm, kills, pass_points
from tests.stubs import Quiet, StubJob, stub_settings


def main(path: str) -> int:
    """Run what ``SPEC.json`` tells; the exit code is the command line's."""
    spec: dict[str, Any] = json.loads(Path(path).read_text())
    return guarded(lambda: _run(spec), debug=True)


def _run(spec: dict[str, Any]) -> int:
    from pipelines.run import run_job

    settings, job = (_real if spec["real"] else _stub)(spec)
    folder, point, wanted = spec["points"], spec["point"], spec["kills"]
    Path(folder, "driver.pid").write_text(str(os.getpid()))

    def at_unit(_done: int) -> None:
        # One kill a unit: each is to meet another moment, not the same row again.
        if point and spec["again"] and kills(folder, point) < wanted:
            arm(folder, point)
            if point == "actor constructor":
                arm(folder, "mid-score")  # a constructor runs again only when its actor died

    with ExitStack() as stack:
        pointed = pass_points(job, folder, spec["broken"], stack)
        result = run_job(pointed, settings, Quiet(at_unit))
    print(f"committed {result.run_uri} by {result.manifest.driver}", flush=True)
    return 0


def _stub(spec: dict[str, Any]) -> tuple[Any, Any]:
    return stub_settings(spec["inputs"], spec["output"], **spec["changes"]), StubJob()


def _real(spec: dict[str, Any]) -> tuple[Any, Any]:
    from jobs.config import RerankConfig
    from jobs.rerank import pipeline_settings
    from jobs.settings import merge, validate
    from pipelines.rerank import RerankJob
    from pipelines.scorers import on_requested_device
    from tests.shards import HEADS, MODEL

    base = {
        "input": {"uris": [spec["inputs"]]},
        "output": {"uri": spec["output"]},
        "model": {"id": MODEL, "heads": HEADS},
        "actors": {"count": 1, "cpus": 0.5},
        "engine": {"pack_tokens": 0},  # a row that is tried again alone must come out equal to the last bit
    }
    settings = pipeline_settings(validate(RerankConfig, merge(base, spec["changes"])))
    scorer = on_requested_device(settings.scorer, settings.run.pool)
    return settings.run, RerankJob(replace(settings, scorer=scorer), None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
