"""What select puts beside its bundles, of a unit made by hand: chat lines, and how the run went."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa

from pipelines.bundle_files import BundleFiles, BundleFileSettings
from pipelines.commit import StoredUnit
from pipelines.selecting import bundle_schema
from pipelines.storage import Storage
from tests.pipelines.detection.test_side_files import STARTED, stored
from tests.pipelines.test_bundle_report import PLAN, ROWS


def test_select_says_how_the_run_went(tmp_path: Path) -> None:
    config = {"actors.count": 1, "actors.cpus": 1.0, "actors.gpus": 0.0, "cost.cpu_hour": 0.5}
    plan = PLAN.model_copy(update={"config": config, "provenance": {**PLAN.provenance, "ranked": None}})
    files = BundleFiles(plan, BundleFileSettings(STARTED))
    unit: StoredUnit = stored(plan, pa.Table.from_pylist(ROWS, schema=bundle_schema(())))
    assert list(files.watch([unit])) == [unit]
    paths = files.write(Storage(str(tmp_path)), str(tmp_path), "d", False, {"u": 1.5})
    assert {Path(path).name for path in paths} == {"chat.jsonl", "errors.jsonl", "report.json", "report.html"}
    report = json.loads((tmp_path / "commit" / "d" / "report.json").read_text())
    assert report["schema_version"] == "1.1" and report["result"]["scored"] == 5
    assert report["pace"]["throughput"]["seconds"]["write"] == 1.5
    assert report["pace"]["cost"]["total"] == 0.005
    page = (tmp_path / "commit" / "d" / "report.html").read_text()
    assert "How it ran" in page and "per 1,000 bundles" in page
    assert len((tmp_path / "commit" / "d" / "chat.jsonl").read_text().splitlines()) == 5
