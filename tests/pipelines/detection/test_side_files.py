"""What finding and proving put beside their rows, from units made by hand: reports say how their run went. No Ray."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.detect import pipeline_settings
from jobs.detect_config import DetectConfig
from jobs.settings import validate
from pipelines.commit import CommittedObject, StoredUnit
from pipelines.detect import DetectFacts, DetectionSideFiles, DetectSettings
from pipelines.detection.rows import HEAD_VALUES_SCHEMA, HeadValues, row_from_values
from pipelines.detection.trials import FIRST_STAGE, TRIALS_SCHEMA
from pipelines.plan import Plan, PlannedFile, Unit, encode_schema
from pipelines.prove import ProofSideFiles, ProveSettings
from pipelines.report.parts import CommonParts
from pipelines.rows import Source, error_fields
from pipelines.storage import Storage
from qrcore.errors import ScoreError
from qrcore.heads import ModelShape
from tests.pipelines.detection.samples import findings, origin

SHAPE = ModelShape(layers=2, query_heads=2, kv_heads=2)
STARTED = datetime(2026, 11, 25, 22, 0, tzinfo=UTC)
BAD = ScoreError("no_candidates", "candidates: expected some, got none", stage="validate", query_id="bad")


def settings_of(folder: Path) -> DetectSettings:
    values = {
        "input": {"uris": ["in"]}, "output": {"uri": str(folder)}, "qrels": "q.parquet", "methods": {"top": 2},
        "cost": {"cpu_hour": 0.5},
    }  # fmt: skip
    return pipeline_settings(validate(DetectConfig, values))


def plan_of(job: str, schema: pa.Schema, config: dict[str, Any], rows: int) -> Plan:
    return Plan(
        run_id=f"{job}-0123456789ab", job=job, name=job, config_hash="12", input_hash="34", config=config,
        provenance={"code_version": "0.1.0"}, order="as_given",
        files=(PlannedFile(uri="in.parquet", size=10, etag="e", rows=rows, bytes=9, tokens=3),), skipped_files=(),
        units=(Unit(unit_id="u", file=0, start=0, stop=rows, bytes=1, tokens=1),), schema_ipc=encode_schema(schema),
    )  # fmt: skip


def stored(plan: Plan, table: pa.Table) -> StoredUnit:
    footer = {
        "unit_id": "u", "rows": len(table), "scored": len(table) - 1, "failed": 1, "prompt_tokens": 7_200,
        "read_s": 0.5, "wait_s": 0.25, "score_s": 36.0, "errors": {"no_candidates": 1},
        "memory_bytes": 3 << 30, "gpu_memory_bytes": 0,
        "started_at": "2026-11-25T22:00:04+00:00", "finished_at": "2026-11-25T22:00:40+00:00",
        "actor_pid": 7, "node": "n",
    }  # fmt: skip
    entry = CommittedObject(
        path="data/u.parquet", unit_id="u", size=1, sha256="s", rows=len(table), scored=len(table) - 1, failed=1
    )
    return StoredUnit(plan.units[0], entry, footer, table)


def check_what_every_report_says(folder: Path, job: str, rows: int) -> dict[str, Any]:
    """The report as it was put, after what all jobs have in common was looked at."""
    report: dict[str, Any] = json.loads((folder / "commit" / "d" / "report.json").read_text())
    assert (report["run"]["job"], report["asked"]["rows"]) == (job, rows)
    (group,) = report["errors"]
    assert (group["code"], group["count"], group["examples"][0]["query_id"]) == ("no_candidates", 1, "bad")
    pace = report["pace"]
    assert pace["throughput"]["tokens_per_second"] == 200 and pace["throughput"]["seconds"]["write"] == 1.5
    assert pace["throughput"]["seconds"]["start"] == 4.0 and pace["throughput"]["busy"] == 1.0
    assert (pace["cost"]["cpu_hours"], pace["cost"]["total"]) == (0.01, 0.005)
    assert pace["units"][0]["memory_bytes"] == 3 << 30
    page = (folder / "commit" / "d" / "report.html").read_text()
    for said in (
        "How it ran",
        "per 1,000",
        "no_candidates",
        "largest actor",
        "in.parquet",
        "config_hash" and "Provenance",
    ):
        assert said in page, said
    return report


def test_finding_heads_says_how_the_run_went(tmp_path: Path) -> None:
    settings, generator = settings_of(tmp_path), np.random.default_rng(1)
    rows = []
    for number in range(8):
        values = {name: generator.random(4) for name in ("qrscore", "ndcg", "core")}
        found = HeadValues("dev", 5, 1, 0, values, 900, f"sha-{number}", f"digest-{number}")
        rows.append(row_from_values(f"q{number}", found, Source("in.parquet", number)))
    rows.append(row_from_values("bad", BAD, Source("in.parquet", 8)))
    plan = plan_of("detect", HEAD_VALUES_SCHEMA, settings.run.config, len(rows))
    facts = DetectFacts(origin(SHAPE).facts, SHAPE, "as_given")
    files = DetectionSideFiles(CommonParts(plan, STARTED), settings, facts, {f"q{number}": {} for number in range(8)})
    (unit,) = files.watch([stored(plan, pa.Table.from_pylist(rows, schema=HEAD_VALUES_SCHEMA))])
    paths = files.write(Storage(str(tmp_path)), str(tmp_path), "d", False, {"u": 1.5})
    assert {Path(path).name for path in paths} == {
        "errors.jsonl", "headset.json", "head_scores.parquet", "report.json", "report.html"
    }  # fmt: skip
    report = check_what_every_report_says(tmp_path, "detect", len(rows))
    assert report["examples"]["used"] == 8 and len(report["head_set"]["heads"]) == 2 and unit.entry.failed == 1


def test_proving_heads_says_how_the_run_went(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    proving = ProveSettings(
        settings.run, settings.scorer, {"chosen": ("1-0",)}, "as_given", "test", {}, findings("few")[1]
    )
    empty = dict.fromkeys(TRIALS_SCHEMA.names)
    trials = [
        {"head_set": name, "order": "as_given", "ndcg_10": value, "above_longest": True, "gold_place": 0.5}
        for name, value in (("chosen", 0.9), (FIRST_STAGE, 0.5))
    ]
    rows = [
        {
            **empty,
            "query_id": f"q{number}",
            "trials": trials,
            "prompt_tokens": 900,
            "source": {"uri": "in", "row": number},
        }
        for number in range(8)
    ]
    rows.append({**empty, "query_id": "bad", "source": {"uri": "in", "row": 8}, "error": error_fields(BAD)})
    plan = plan_of("prove", TRIALS_SCHEMA, settings.run.config, len(rows))
    files = ProofSideFiles(CommonParts(plan, STARTED), proving)
    assert len(list(files.watch([stored(plan, pa.Table.from_pylist(rows, schema=TRIALS_SCHEMA))]))) == 1
    files.write(Storage(str(tmp_path)), str(tmp_path), "d", False, {"u": 1.5})
    report = check_what_every_report_says(tmp_path, "prove", len(rows))
    assert report["queries"] == 8 and report["failed"] == {"no_candidates": 1}
