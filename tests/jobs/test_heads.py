"""``qrbatch heads`` as a user sees it."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner, Result

from jobs.cli import app
from qrcore.heads import published_names
from tests.shards import MODEL


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["heads", *arguments], env={"COLUMNS": "200"}, catch_exceptions=False)


def test_every_set_of_the_package_is_listed() -> None:
    shown = invoke("list")
    assert shown.exit_code == 0
    for name in (*published_names(), "embedded"):
        assert name in shown.output
    line = next(line for line in shown.output.splitlines() if "qrhead-llama-3.1-8b-instruct-lme" in line)
    assert "18 of 32" in line and "qrscore" in line


def test_a_set_is_shown_as_json() -> None:
    shown = json.loads(invoke("show", "qrhead-llama-3.1-8b-instruct-nq").output)
    assert shown["heads"][-1] == "20-14"
    assert "test queries" in shown["contamination"]
    assert json.loads(invoke("show", "embedded").output)["shape"]["layers"] >= 4


def test_a_set_that_fits_says_what_it_needs() -> None:
    shown = invoke("validate", "embedded")
    assert shown.exit_code == 0
    assert "embedded fits embedded" in shown.output
    assert "warning" not in shown.output


def test_a_set_of_another_shape_is_refused() -> None:
    shown = invoke("validate", "qrhead-llama-3.1-8b-instruct-lme", "--model", "embedded")
    assert shown.exit_code == 2
    assert "was made for a model with layers 32" in " ".join(shown.stderr.split())


def test_a_set_of_other_weights_needs_a_word(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    known = {"name": "mine", "heads": ["2-4", "1-1", "2-5"], "method": "qrscore", "weights_sha256": "0" * 64}
    file.write_text(json.dumps(known), encoding="utf-8")
    refused = invoke("validate", str(file), "--model", MODEL)
    assert refused.exit_code == 2 and "--allow-model-mismatch" in refused.stderr
    allowed = invoke("validate", str(file), "--model", MODEL, "--allow-model-mismatch")
    assert allowed.exit_code == 0
    assert "3 of 4 are run, 1 above need not be loaded" in allowed.output
    assert "3, which read 2 key-value heads" in allowed.output
    assert "1: 1, 2: 2" in allowed.output
    assert "warning" in allowed.output


def test_two_sets_side_by_side() -> None:
    shown = invoke("compare", "core-llama-3.1-8b-instruct-nq", "qrhead-llama-3.1-8b-instruct-lme").output
    assert "7 heads (Jaccard 0.41)" in shown
    assert "8 heads, 15 layers are run" in shown


def test_unknown_sets_are_refused_with_the_known_ones() -> None:
    shown = invoke("show", "no-such-set")
    assert shown.exit_code == 2
    assert "core-llama-3.1-8b-instruct-nq" in shown.stderr
