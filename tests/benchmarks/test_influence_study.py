"""The study of influence: what it measures on a few pairs, and what it says of too little text."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qrcore.heads import unique_heads
from qrcore.models import open_model, weights_sha256
from tests.benchmarks import influence_study
from tests.benchmarks.influence_study import halves
from tests.qrcore.training.texts import texts


def test_the_study_tells_the_difference_and_its_place_among_controls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    joined = [" ".join(texts(6, first=6 * number)) for number in range(4)]
    pq.write_table(pa.table({"text": joined}), tmp_path / "texts.parquet")
    given = ["--texts", str(tmp_path / "texts.parquet"), "--results", str(tmp_path / "out")]
    influence_study.main([*given, "--model", "embedded", "--pairs", "4", "--controls", "3"])
    uniform, zero = json.loads((tmp_path / "out" / "influence_study.json").read_text(encoding="utf-8"))
    source = open_model("embedded")
    assert source.copying_heads is not None
    assert uniform["heads"] == [str(head) for head in unique_heads(source.copying_heads.head_list)]
    assert uniform["weights_sha256"] == weights_sha256(source.path)
    assert (uniform["mask_mode"], zero["mask_mode"], uniform["failed"]) == ("uniform", "zero", 0)
    assert (uniform["pairs"], len(uniform["controls"])) == (4, 3) and 0 <= uniform["noise"] < 1e-4
    assert uniform["difference"]["low"] <= uniform["difference"]["mean"] <= uniform["difference"]["high"]
    assert uniform["difference"]["mean"] > 0, "copies need the heads that copy"
    written = (tmp_path / "out" / "influence_study.md").read_text(encoding="utf-8")
    assert f"| {uniform['auc']:.3f} |" in written and "% of 3 |" in written
    assert "copied − plain" in capsys.readouterr().out


def test_halves_are_neighbours_of_one_text() -> None:
    assert halves(["a b c d e", "one two", "f g h i"], 4, words=2) == ["a b", "c d", "f g", "h i"]
    with pytest.raises(SystemExit, match="Give more texts"):
        halves(["one two three"], 2, words=2)
