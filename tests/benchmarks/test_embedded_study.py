"""The study of the shipped model: what it says of a reading of test queries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.storage import StorageOptions
from pipelines.training.study import EvaluationSettings, lists_hash, read_judged_sets
from qrcore.errors import ConfigError
from qrcore.models import weights_sha256
from qrcore.shipped import embedded_folder
from tests.benchmarks import embedded_study
from tests.pipelines.training.collection import plain_rows, read


def test_test_queries_are_read_with_a_log_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lists, log = str(tmp_path / "lists"), tmp_path / "logs" / "readings.jsonl"
    read(Path(lists), plain_rows())
    with pytest.raises(ConfigError, match="readings of test queries"):
        embedded_study.main(["--lists", lists, "--part", "test"])
    assert not capsys.readouterr().out
    embedded_study.main(["--lists", lists, "--part", "test", "--log", str(log)])
    assert "nDCG@10" in capsys.readouterr().out
    before, after = (json.loads(line) for line in log.read_text(encoding="utf-8").splitlines())
    assert [before["event"], after["event"]] == ["reading", "read"]
    assert before["weights_sha256"] == weights_sha256(str(embedded_folder()))
    assert before["lists_sha256"] == lists_hash(read_judged_sets(EvaluationSettings(lists), StorageOptions()))
    assert set(after["ndcg@10"]) == {"facts"}
    assert after.items() >= {key: value for key, value in before.items() if key not in ("event", "date")}.items()


def test_dev_queries_need_no_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read(tmp_path / "lists", plain_rows())
    embedded_study.main(["--lists", str(tmp_path / "lists")])
    assert "nDCG@10" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["lists"]
