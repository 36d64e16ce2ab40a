"""``qrbatch detect --method copy`` over needle trials, with the causal check, and other head sets to compare with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from typer.testing import CliRunner

from jobs.cli import app
from pipelines.commit import manifest_rows
from pipelines.splits import part_of
from qrcore.heads import load_head_set
from qrcore.models import open_model
from tests.qrcore.test_needles import TEXTS
from tests.shards import row, write_shard

pytestmark = pytest.mark.usefixtures("local_ray")


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"}, catch_exceptions=False)


def detect(folder: Path, *more: str, shards: str = "needles/shards") -> Result:
    return invoke(
        *("detect", "--input", str(folder / shards), "--qrels", str(folder / "needles" / "qrels.parquet")),
        *("--output", str(folder / "out"), "--method", "copy", "--top", "4"),
        *("--set", "actors.count=1", "--set", "copying.controls=3", *more),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("copy")
    pq.write_table(pa.table({"text": TEXTS}), made / "texts.parquet")
    written = invoke(
        *("needles", "--input", str(made / "texts.parquet"), "--output", str(made / "needles")),
        *("--set", "trials.lengths=[250]", "--set", "trials.depths=[0.2, 0.5, 0.8]"),
    )
    assert written.exit_code == 0, written.output
    return made


@pytest.fixture(scope="module")
def detected(folder: Path) -> Result:
    (folder / "mine.json").write_text('{"name": "mine", "heads": ["1-1"], "model_id": "other"}')
    return detect(folder, "--compare", "3-1,0-0", "--compare", str(folder / "mine.json"))


def load(folder: Path, run: str, name: str) -> Any:
    (path,) = (folder / "out").glob(f"{run}/commit/*/{name}")
    return json.loads(path.read_text(encoding="utf-8"))


def test_copying_heads_are_found_on_needle_trials(folder: Path, detected: Result) -> None:
    assert detected.exit_code == 0, detected.output
    report = load(folder, "detect-[0-9a-f]*", "report.json")
    (path,) = (folder / "out").glob("detect-[0-9a-f]*/commit/*/headset.json")
    heads = load_head_set(str(path))
    trials = pq.read_table(folder / "needles" / "shards" / "needles.parquet").to_pylist()
    dev = sum(part_of(one["query_id"]) == "dev" for one in trials)
    assert (heads.method, heads.examples, len(heads.heads)) == ("copy", dev, 4)
    assert heads.method_settings["answering"] == "teacher_forced" and heads.method_settings["mean"] == "unconditional"
    assert report["copying"]["trials"] == report["copying"]["succeeded"] == dev
    assert set(report["methods"]) == {"copy", "copy-conditional", "qrscore", "ndcg", "core"}
    (scores,) = (folder / "out").glob("detect-[0-9a-f]*/commit/*/head_scores.parquet")
    assert set(pq.read_table(scores)["method"].to_pylist()) == set(report["methods"])
    (run,) = (folder / "out").glob("detect-[0-9a-f]*")
    assert [one["needle_doc_id"] for one in manifest_rows(str(run))] == [one["needle_doc_id"] for one in trials]


def test_the_proof_masks_the_chosen_heads(folder: Path, detected: Result) -> None:
    proof = load(folder, "detect-proof-*", "report.json")
    causal = proof["causal"]
    assert causal["trials"] == proof["queries"] and len(causal["controls"]) == 3 and causal["few_controls"]
    heads = load(folder, "detect-[0-9a-f]*", "headset.json")["heads"]
    assert causal["chosen"]["heads"] == heads and causal["intact"]["heads"] == []
    assert causal["answered"] is not None, "the embedded model names the document first"
    assert "needle tokens right: intact" in detected.output
    (page,) = (folder / "out").glob("detect-proof-*/commit/*/report.html")
    assert "Do these heads do the copying?" in page.read_text(encoding="utf-8")


def test_other_head_sets_stand_among_the_rivals(folder: Path, detected: Result) -> None:
    proof = load(folder, "detect-proof-*", "report.json")
    heads = {one["name"].split("@")[0]: one["heads"] for one in proof["sets"] if "@" in one["name"]}
    assert heads == {"custom": ["3-1", "0-0"], "mine": ["1-1"]}
    report = load(folder, "detect-[0-9a-f]*", "report.json")
    assert not [one for one in report["warnings"] if "custom" in one]


def test_what_cannot_be_done_is_told_before_any_work(folder: Path, tmp_path: Path) -> None:
    write_shard(tmp_path / "plain" / "1.parquet", [row("a"), row("b")])
    write_shard(tmp_path / "needles" / "qrels.parquet", [], pq.read_schema(folder / "needles" / "qrels.parquet"))
    refused = detect(tmp_path, shards="plain")
    assert refused.exit_code == 2
    assert "no column 'needle_doc_id'" in " ".join(refused.stderr.split())
    refused = detect(folder, "--compare", "9-0", "--name", "other")
    assert refused.exit_code == 2 and "9-0" in refused.stderr
    refused = detect(folder, "--compare", "core-llama-3.1-8b-instruct-nq", "--name", "other")
    assert refused.exit_code == 2 and "was made for a model with" in " ".join(refused.stderr.split())
    refused = detect(folder, "--compare", "no-such-set", "--name", "other")
    assert refused.exit_code == 2 and "no-such-set" in refused.stderr
    layers = open_model("embedded").shape.layers
    assert layers <= 9 and not list((folder / "out").glob("other*"))


def test_a_conditional_choice_needs_a_success(folder: Path) -> None:
    refused = detect(
        folder, "--name", "told", "--set", "copying.mean=conditional", "--set", "copying.answering=decode",
        "--set", "copying.max_new_tokens=3",
    )  # fmt: skip
    assert refused.exit_code == 2
    assert "in which the model answers with the needle, got none" in " ".join(refused.stderr.split())
