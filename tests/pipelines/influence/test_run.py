"""Scoring documents on a real local Ray: rows, ranks, error rows, resuming, verifying."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs.influence import InfluenceConfig, pipeline_settings
from jobs.settings import merge, validate
from pipelines.commit import manifest_rows
from pipelines.contracts import DOCUMENT_SCHEMA
from pipelines.influence import run as influence
from pipelines.job import RunResult
from pipelines.storage import StorageOptions
from pipelines.verify import open_run, verify
from qrcore.errors import InputError
from tests.pipelines.reranking import Recorder
from tests.shards import write_shard

pytestmark = pytest.mark.usefixtures("local_ray")

TEXT = "A river carries water from the mountains to the sea and the bees collect nectar. "


def _rows() -> list[dict[str, Any]]:
    plain = [
        {"doc_id": f"d{number}", "domain": ("web", "code")[number % 2], "text": f"{TEXT[number:]} number {number}"}
        for number in range(8)
    ]
    return [*plain, {"doc_id": "bad", "domain": "web", "text": " "}, {"doc_id": "d0", "domain": "web", "text": "again"}]


def _run(folder: Path, output: Path, **changes: Any) -> tuple[RunResult, Recorder]:
    base = {
        "input": {"uris": [str(folder)]},
        "output": {"uri": str(output)},
        "model": {"heads": "1-0,1-2"},
        "mask": {"controls": 2},
        "selection": {"fraction": 0.5},
        "units": {"max_rows": 4},
        "actors": {"count": 1},
    }
    recorder = Recorder()
    return influence.run(pipeline_settings(validate(InfluenceConfig, merge(base, changes))), recorder), recorder


def test_documents_are_scored_ranked_and_resumed(tmp_path: Path) -> None:
    write_shard(tmp_path / "in" / "0.parquet", _rows(), DOCUMENT_SCHEMA)
    result, recorder = _run(tmp_path / "in", tmp_path / "out")
    assert (result.manifest.rows, result.manifest.scored, result.manifest.failed) == (10, 8, 2)
    rows = list(manifest_rows(result.run_uri))
    assert [row["doc_id"] for row in rows] == [row["doc_id"] for row in _rows()]
    assert [row["error"] and row["error"]["code"] for row in rows[8:]] == ["empty_document", "duplicate_doc_id"]
    assert all(len(row["control_influence"]) == 2 and row["noise"] < 1e-4 for row in rows[:8])
    paths = [path for path in result.manifest.side_files if "/ranked/" in path]
    ranked = [row for path in paths for row in pq.read_table(Path(result.run_uri) / path).to_pylist()]
    for domain in ("web", "code"):
        own = sorted((row for row in ranked if row["domain"] == domain), key=lambda row: row["rank"])
        by_score = sorted(
            (row for row in rows[:8] if row["domain"] == domain), key=lambda row: (-row["influence"], row["doc_id"])
        )
        assert [row["doc_id"] for row in own] == [row["doc_id"] for row in by_score]
        assert [row["selected"] for row in own] == [True, True, False, False]
    (path,) = Path(result.run_uri).glob("commit/*/report.json")
    report = json.loads(path.read_text())
    assert [domain["domain"] for domain in report["domains"]] == ["code", "web"]
    assert report["failed"] == {"duplicate_doc_id": 1, "empty_document": 1}
    assert report["provenance"]["settings"]["mask_mode"] == "uniform"
    assert "<svg" in path.with_name("report.html").read_text()
    assert list(verify(open_run(result.run_uri, StorageOptions()), with_input=True)) == []
    assert recorder.plan is not None and recorder.plan.contract == "documents"
    again, _ = _run(tmp_path / "in", tmp_path / "out")
    assert again.already_committed and again.run_uri == result.run_uri


def test_files_of_queries_are_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "in" / "0.parquet", [])
    with pytest.raises(InputError, match="doc_id"):
        _run(tmp_path / "in", tmp_path / "out")
