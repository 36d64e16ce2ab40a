"""``qrbatch detect --method key_value``: from texts to a head set, its proof, and what is said of few successes."""

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
from qrcore.heads import load_head_set
from tests.qrcore.test_needles import TEXTS

pytestmark = pytest.mark.usefixtures("local_ray")


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"}, catch_exceptions=False)


def detect(folder: Path, *more: str) -> Result:
    small = {"key_value.count": 8, "key_value.length": 600, "key_value.proof": 3, "copying.controls": 3}
    settings = [word for name, value in small.items() for word in ("--set", f"{name}={value}")]
    return invoke(
        *("detect", "--method", "key_value", "--input", str(folder / "texts.parquet"), "--output", str(folder / "out")),
        *("--set", "actors.count=1", *settings, *more),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("key-value")
    pq.write_table(pa.table({"text": TEXTS}), made / "texts.parquet")
    return made


def load(folder: Path, run: str, name: str) -> Any:
    (path,) = (folder / "out").glob(f"{run}/commit/*/{name}")
    return json.loads(path.read_text(encoding="utf-8"))


def test_texts_are_enough_to_find_and_to_prove_heads(folder: Path) -> None:
    run = detect(folder)
    assert run.exit_code == 0, run.output
    report = load(folder, "detect-[0-9a-f]*", "report.json")
    (path,) = (folder / "out").glob("detect-[0-9a-f]*/commit/*/headset.json")
    heads = load_head_set(str(path))
    assert (heads.method, heads.examples, len(heads.heads)) == ("key_value", 8, 4)
    assert heads.detection_data == "8 generated key-value trials"
    told = report["copying"]
    assert told["trials"] == 8 and told["succeeded"] < 20 and told["chosen_by"] == "key_value"
    warning = f"{told['succeeded']} of 8 trials succeeded, fewer than 20"
    assert heads.notes is not None and heads.notes.startswith(warning)
    assert any(one.startswith(warning) for one in report["warnings"])
    assert heads.method_settings["mean"] == "unconditional"
    assert warning in " ".join(run.output.split())
    (page,) = (folder / "out").glob("detect-[0-9a-f]*/commit/*/report.html")
    assert warning in page.read_text(encoding="utf-8")


def test_the_proof_holds_the_chosen_heads_back_in_the_same_task(folder: Path) -> None:
    proof = load(folder, "detect-proof-*", "report.json")
    causal = proof["causal"]
    assert (causal["trials"], len(causal["controls"]), causal["answered"]) == (3, 3, None)
    assert causal["chosen"]["heads"] == load(folder, "detect-[0-9a-f]*", "headset.json")["heads"]
    assert proof["sets"] == [] and proof["kept_back"] == 8
    (page,) = (folder / "out").glob("detect-proof-*/commit/*/report.html")
    text = page.read_text(encoding="utf-8")
    assert "Do these heads do the copying?" in text and "nothing proves" not in text and "3 trials" in text


def test_the_same_command_does_nothing_again(folder: Path) -> None:
    before = sorted(path for path in (folder / "out").rglob("*") if path.is_file())
    run = detect(folder)
    assert run.exit_code == 0 and "needle tokens right: intact" in run.output
    assert sorted(path for path in (folder / "out").rglob("*") if path.is_file()) == before


def test_other_methods_need_judgements(folder: Path) -> None:
    run = invoke("detect", "--input", str(folder / "texts.parquet"), "--output", str(folder / "other"))
    assert run.exit_code == 2 and "Give it with --qrels" in " ".join(run.stderr.split())
