"""What answer puts beside its rows, of a unit made by hand: the report, and how the run went."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa

from pipelines.answer_files import AnswerFiles, AnswerFileSettings
from pipelines.answers.rows import answer_schema
from pipelines.storage import Storage
from tests.pipelines.answers.samples import VARIANTS, cafe_rows, plan_of
from tests.pipelines.answers.test_report import QRELS
from tests.pipelines.unit_samples import STARTED, stored


def test_answer_says_how_the_run_went(tmp_path: Path) -> None:
    config = {"actors.count": 1, "actors.cpus": 1.0, "actors.gpus": 0.0, "cost.cpu_hour": 0.5}
    plan = plan_of(VARIANTS).model_copy(update={"config": config})
    files = AnswerFiles(plan, AnswerFileSettings(STARTED, "qrels.tsv", QRELS, examples=False))
    unit = stored(plan, pa.Table.from_pylist(cafe_rows(12), schema=answer_schema(())))
    assert list(files.watch([unit])) == [unit]
    paths = files.write(Storage(str(tmp_path)), str(tmp_path), "d", False, {"u": 1.5})
    assert {Path(path).name for path in paths} == {"errors.jsonl", "report.json", "report.html"}
    assert files.warnings == ("a warning",)
    report = json.loads((tmp_path / "commit" / "d" / "report.json").read_text())
    assert report["pace"]["throughput"]["seconds"]["write"] == 1.5
    assert report["pace"]["cost"]["total"] == 0.005
    assert (report["qrels"], report["examples"]) == ("qrels.tsv", [])
    page = (tmp_path / "commit" / "d" / "report.html").read_text()
    assert "How it ran" in page and "per 1,000 answers" in page
    assert "no_candidates" in (tmp_path / "commit" / "d" / "errors.jsonl").read_text()
