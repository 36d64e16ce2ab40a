"""Contrasting on a real local Ray: the same rows as answer reads, samples for tuning, resuming, verifying."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.answer import pipeline_settings as answer_settings
from jobs.contrast import ContrastConfig, pipeline_settings
from jobs.settings import merge, validate
from pipelines import answer
from pipelines.commit import manifest_rows
from pipelines.contrast import run as contrast
from pipelines.job import RunResult
from pipelines.schemas import INPUT_SCHEMA
from pipelines.side_files import read_side_file
from pipelines.status import run_status
from pipelines.storage import StorageOptions
from pipelines.verify import open_run, verify
from qrcore.errors import ConfigError
from tests.pipelines.reranking import Recorder
from tests.pipelines.test_answer import config_of as answer_config
from tests.shards import row, write_shard

pytestmark = pytest.mark.usefixtures("local_ray")

HEADS = "1-0,1-1,3-0,3-1"
SCHEMA = pa.schema([*INPUT_SCHEMA, pa.field("answers", pa.list_(pa.string())), pa.field("kind", pa.string())])


def _shard(folder: Path) -> Path:
    rows = [{**row(f"q{n}"), "answers": ["salt"], "kind": "fact"} for n in range(5)]
    bad = [row("null", query=None), {**row("none", candidates=[]), "answers": ["x"]}, {**rows[0]}]
    return write_shard(folder / "0.parquet", [*rows, *bad], SCHEMA)


def _run(source: Path, output: Path, **changes: Any) -> tuple[RunResult, Recorder]:
    base = {
        "input": {"uri": str(source)},
        "output": {"uri": str(output)},
        "model": {"id": "embedded-gqa", "heads": HEADS, "max_new_tokens": 8},
        "units": {"max_rows": 3},
        "actors": {"count": 1},
    }
    recorder = Recorder()
    return contrast.run(pipeline_settings(validate(ContrastConfig, merge(base, changes))), recorder), recorder


def test_rows_are_contrasted_sampled_verified_and_found_again(tmp_path: Path) -> None:
    source = _shard(tmp_path / "in")
    changes = {"contrast": {"alpha": 8.0}, "mask": {"controls": 1}, "negatives": {"emit": True, "faithful": "plain"}}
    result, recorder = _run(source, tmp_path / "out", **changes)
    assert (result.manifest.rows, result.manifest.scored, result.manifest.failed) == (8, 5, 3)
    rows = list(manifest_rows(result.run_uri))
    assert [one["query_id"] for one in rows] == [f"q{n}" for n in range(5)] + ["null", "none", "q0"]
    assert [one["error"] and one["error"]["code"] for one in rows[5:]] == [
        "null_query", "no_candidates", "duplicate_query_id",
    ]  # fmt: skip
    assert any(one["tokens_changed"] for one in rows[:5])
    assert all(len(one["controls"]) == 1 and one["kind"] == "fact" for one in rows[:5])
    storage = StorageOptions()
    assert list(verify(open_run(result.run_uri, storage), with_input=True)) == []
    assert run_status(result.run_uri, storage).rows == (8, 8)
    report = read_side_file(result.run_uri, result.manifest.side_files, "report.json", storage)
    assert report["changed"]["tokens"] == sum(one["tokens_changed"] for one in rows[:5])
    assert report["provenance"]["head_set"]["heads"] == HEADS.split(",")
    assert "<svg" in next(Path(result.run_uri).glob("commit/*/report.html")).read_text()
    kept = [one for one in rows[:5] if one["negative"]["left_out"] is None]
    (tuning,) = Path(result.run_uri).glob("commit/*/tuning.parquet")
    assert kept and len(pq.read_table(tuning)) == 2 * len(kept) == 2 * report["tuning"]["pairs"]
    assert recorder.plan is not None and "4 heads masked" in recorder.plan.provenance["told"]
    again, _ = _run(source, tmp_path / "out", **changes)
    assert again.already_committed and again.run_uri == result.run_uri


def test_without_weight_the_answers_are_those_of_answer(tmp_path: Path) -> None:
    source = _shard(tmp_path / "in")
    result, _ = _run(source, tmp_path / "out", contrast={"alpha": 0})
    model = {"id": "embedded-gqa", "max_new_tokens": 8}
    config = answer_config(str(source), tmp_path / "plain", units={"max_rows": 3}, model=model)
    plain = answer.run(answer_settings(config), Recorder())
    columns = ("query_id", "answer", "ended", "prompt_tokens", "new_tokens", "token_f1", "error")
    found = [[one[name] for name in columns] for one in manifest_rows(result.run_uri)]
    assert found == [[one[name] for name in columns] for one in manifest_rows(plain.run_uri)]
    assert all(answer_text for _, answer_text, *_ in found[:5])


def test_what_cannot_work_is_refused_before_work_is_planned(tmp_path: Path) -> None:
    source = _shard(tmp_path / "in")
    with pytest.raises(ConfigError, match="no cap"):
        _run(source, tmp_path / "out", contrast={"alpha": 1, "normalised": True})
    schema = pa.schema([*INPUT_SCHEMA, pa.field("answer", pa.string())])
    taken = write_shard(tmp_path / "own" / "0.parquet", [{**row("a"), "answer": "x"}], schema)
    with pytest.raises(ConfigError, match="answer are columns of a contrasted answer"):
        _run(taken, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))
