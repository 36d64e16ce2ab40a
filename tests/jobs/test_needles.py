"""``qrbatch needles``: a command, two files, and errors that say what to do."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from click.testing import Result
from typer.testing import CliRunner

from jobs.cli import app
from tests.qrcore.test_needles import TEXTS


def needles(folder: Path, *more: str) -> Result:
    arguments = ["needles", "--input", str(folder / "texts.parquet"), "--output", str(folder / "out")]
    return CliRunner().invoke(app, [*arguments, *more], env={"COLUMNS": "200"}, catch_exceptions=False)


def test_trials_are_written_and_found_again(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "texts.parquet")
    shown = needles(tmp_path, "--set", "trials.lengths=[400]", "--set", "trials.depths=[0.2, 0.8]")
    assert shown.exit_code == 0, shown.output
    assert "written  6 trials" in shown.output
    assert pq.read_table(tmp_path / "out" / "shards" / "needles.parquet").num_rows == 6
    assert pq.read_table(tmp_path / "out" / "qrels.parquet").num_rows == 6
    again = needles(tmp_path, "--set", "trials.lengths=[400]", "--set", "trials.depths=[0.2, 0.8]")
    assert again.exit_code == 0 and "already there  6 trials" in again.output


def test_mistakes_are_told_before_anything_is_written(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "texts.parquet")
    for assignment, message in (
        ("trials.depths=[2]", "from 0 to 1"),
        ("trials.lengths=[]", "at least one needle, length and depth"),
        ("trials.haystacks=0", "haystacks"),
        ("trials.lengths=[90]", "room for at least one document"),
        ("model.id=nowhere/at-all-0", "expected a folder"),
    ):
        refused = needles(tmp_path, "--set", assignment)
        assert refused.exit_code == 2 and message in " ".join(refused.stderr.split()), assignment
    assert not (tmp_path / "out").exists()
