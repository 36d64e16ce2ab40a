"""Re-ranking runs for tests: their settings, an observer that keeps what it is told, and what came out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs.config import RerankConfig
from jobs.rerank import pipeline_settings
from jobs.settings import merge, validate
from pipelines.commit import manifest_rows
from pipelines.job import RunResult
from pipelines.plan import Plan
from pipelines.rerank import RerankSettings, run
from tests.shards import HEADS, MODEL, row, write_shard


class Recorder:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.done_before = -1
        self.footers: list[dict[str, Any]] = []

    def stage(self, message: str) -> None: ...

    def planned(self, plan: Plan, done: frozenset[str]) -> None:
        self.plan, self.done_before = plan, len(done)

    def unit_done(self, footer: dict[str, Any]) -> None:
        self.footers.append(footer)


def settings_for(inputs: str, output: str, **changes: Any) -> RerankSettings:
    base = {
        "input": {"uris": [inputs]},
        "output": {"uri": output},
        "model": {"id": MODEL, "heads": HEADS},
        "units": {"max_rows": 2},
        "actors": {"count": 1},
    }
    return pipeline_settings(validate(RerankConfig, merge(base, changes)))


def finish(settings: RerankSettings) -> tuple[RunResult, Recorder]:
    recorder = Recorder()
    return run(settings, recorder), recorder


def rows_of(result: RunResult) -> list[dict[str, Any]]:
    return list(manifest_rows(result.run_uri))


def side_file(result: RunResult, name: str) -> str:
    path = next(path for path in result.manifest.side_files if path.endswith(name))
    return Path(result.run_uri, path).read_text()


def three_shards(folder: Path) -> str:
    """Three files of four rows each."""
    for shard in range(3):
        write_shard(folder / f"part-{shard}.parquet", [row(f"q{shard}{i}") for i in range(4)])
    return str(folder)
