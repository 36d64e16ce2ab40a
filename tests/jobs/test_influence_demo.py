"""What ``qrbatch influence --demo`` asks for and says, without Ray; tests/test_readme.py runs it whole."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from jobs import influence_demo as module
from jobs.cli import app
from jobs.influence import InfluenceConfig
from pipelines import commit
from pipelines.commit import Manifest
from pipelines.influence import demo_documents
from pipelines.run import RunResult


class _Manifest:
    rows, scored, failed = 4, 4, 0
    objects, side_files, skipped_files, warnings = ((),) * 4


def test_the_demo_is_a_run_over_its_own_documents_with_twenty_control_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[InfluenceConfig] = []

    def run(config: InfluenceConfig, _observer: object) -> RunResult:
        asked.append(config)
        manifest: Manifest = _Manifest()  # type: ignore[assignment]
        return RunResult(manifest, "out/influence-demo-1", already_committed=False)

    def row(doc_id: str, influence: float) -> dict[str, Any]:
        return {
            "doc_id": doc_id, "influence": influence, "control_influence": [0.1] * 20, "noise": 2e-7, "error": None,
        }  # fmt: skip

    rows = [row("copied-0000", 0.9), row("plain-0000", 0.1), row("copied-0001", 0.8), row("plain-0001", 0.2)]
    monkeypatch.setattr(module, "influence", run)
    monkeypatch.setattr(commit, "manifest_rows", lambda _uri: iter(rows))
    monkeypatch.setattr(demo_documents, "write_demo_documents", lambda output, pairs: f"{output}/{pairs}.parquet")
    arguments = ["influence", "--demo", "--output", "out", "--model", "embedded-gqa", "--set", "mask.seed=3"]
    shown = CliRunner().invoke(app, arguments, env={"COLUMNS": "160"}, catch_exceptions=False)
    assert shown.exit_code == 0, shown.output
    (config,) = asked
    assert config.input.uris == (f"out/{module.PAIRS}.parquet",) and config.model.id == "embedded-gqa"
    assert (config.mask.controls, config.mask.control_layers, config.mask.seed) == (20, "same_or_later", 3)
    for said in (
        "2 pairs of documents",
        "copied - plain: +0.7000 [+0.6000, +0.8000]",
        "above that of 100% of 20 sets of other heads, by +0.7000",
        "AUC of copied against plain 1.000",
        "changes a loss by 2.0e-07 of it at most",
        "4 rows = 4 scored + 0 failed",
    ):
        assert said in shown.output, shown.output
