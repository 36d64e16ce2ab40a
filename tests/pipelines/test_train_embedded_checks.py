"""What is refused before a training has cost anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.training.checks import check_sets, check_settings, usable_device
from pipelines.training.judged import JudgedSet
from pipelines.training.settings import TrainEmbeddedSettings
from pipelines.training.study import EvaluationSettings
from qrcore.errors import ConfigError, InputError, QRBatchError, StorageError
from qrcore.training.model import ModelShape
from qrcore.training.teaching import TaughtHeads
from tests.pipelines.training.collection import DEV_IDS, TEST_IDS, planted


def settings(folder: Path, **changes: Any) -> TrainEmbeddedSettings:
    good = TrainEmbeddedSettings(texts=("text",), output=str(folder / "out" / "model"), work=str(folder / "work"))
    return replace(good, **changes)


def evaluation(folder: Path, **changes: Any) -> EvaluationSettings:
    return replace(EvaluationSettings("lists", part="test", log=str(folder / "logs" / "readings.jsonl")), **changes)


def lists(name: str, ids: tuple[str, ...], answers: tuple[str, ...] = ()) -> JudgedSet:
    return JudgedSet(name, tuple(planted(query_id, "gold", "b", answers=answers) for query_id in ids), ranked=False)


def test_good_settings_find_every_place_ready_and_leave_nothing_in_it(tmp_path: Path) -> None:
    check_settings(settings(tmp_path, evaluation=evaluation(tmp_path), taught=TaughtHeads(1, 4), seeds=(0, 7)))
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == [
        *("logs", "logs/readings.jsonl", "out", "out/model", "work")
    ]
    assert not (tmp_path / "logs" / "readings.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "my model"}, "letters .* got 'my model'"),
        ({"name": "a/b"}, "got 'a/b'"),
        ({"name": ".."}, r"got '\.\.'"),
        ({"seeds": ()}, "expected different numbers"),
        ({"seeds": (0, 1, 0)}, r"expected different numbers from 0 on, got \[0, 1, 0\]"),
        ({"seeds": (0, -1)}, "expected different numbers from 0 on"),
        ({"shape": ModelShape(kv_heads=3)}, r"divisor of heads \(8\), got 3"),
        ({"shape": ModelShape(kv_heads=16)}, r"divisor of heads \(8\), got 16"),
        ({"shape": ModelShape(hidden=100)}, r"multiple of heads \(8\), got 100"),
        ({"shape": ModelShape(head_size=7)}, "even number .* got 7"),
        ({"taught": TaughtHeads(layer=4, heads=4)}, "layer below 4, got 4"),
        ({"taught": TaughtHeads(layer=1, heads=7, marking_heads=2)}, "at most 8 heads"),
        ({"device": "cuda:99"}, "cuda:99|99"),
        ({"device": "meta"}, "expected cpu, cuda"),
        ({"device": "abacus"}, "got 'abacus'"),
        ({"work": "s3://bucket/work"}, "local folder for checkpoints"),
    ],
)
def test_settings_that_cannot_be_used(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        check_settings(settings(tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top": 9}, "expected 1 to 8 heads"),
        ({"top": 0}, "expected 1 to 8 heads"),
        ({"log": None}, "expected a local file"),
        ({"log": "s3://bucket/readings.jsonl"}, "expected a local file"),
        ({"log": "{folder}"}, "lines can be added to"),
        ({"log": "{folder}/file/readings.jsonl"}, "lines can be added to"),
    ],
)
def test_measurements_that_could_not_be_made_or_logged(
    changes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A URI taken for a path would make a folder where the suite runs.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    placed = {key: value.format(folder=tmp_path) if isinstance(value, str) else value for key, value in changes.items()}
    with pytest.raises(ConfigError, match=message):
        check_settings(settings(tmp_path, evaluation=evaluation(tmp_path, **placed)))


def test_dev_queries_need_no_log(tmp_path: Path) -> None:
    check_settings(settings(tmp_path, evaluation=evaluation(tmp_path, part="dev", log=None)))


@pytest.mark.parametrize(("place", "kind"), [("output", StorageError), ("work", ConfigError)])
@pytest.mark.parametrize("below", ["", "/model"])
def test_places_that_are_no_folders(place: str, kind: type[QRBatchError], below: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    with pytest.raises(kind, match=f"{place} .*file.*: expected a folder to write to"):
        check_settings(settings(tmp_path, **{place: f"{tmp_path}/file{below}"}))


def test_auto_is_a_device() -> None:
    assert usable_device("auto") in ("cpu", "cuda")
    assert usable_device("cpu") == "cpu"


def test_lists_must_be_able_to_tell_what_is_asked_of_them() -> None:
    sets = {
        "good": lists("good", (*DEV_IDS, *TEST_IDS), ("gold",)),
        "mute": lists("mute", DEV_IDS),
        "astray": lists("astray", DEV_IDS, ("silver",)),
        "tests": lists("tests", TEST_IDS, ("gold",)),
    }
    check_sets(sets, EvaluationSettings("lists", heads_on=("good", "mute"), length_on="mute", answers_on="good"))
    check_sets(sets, EvaluationSettings("lists"))
    wrong = {
        ("heads_on", ("good", "tests")): "lists tests: expected dev queries",
        ("length_on", "tests"): "lists tests: expected dev queries",
        ("answers_on", "mute"): "lists mute: .* with an answer",
        ("answers_on", "astray"): "lists astray: .* with an answer",
        ("answers_on", "tests"): "lists tests: .* with an answer",
    }
    for (key, value), message in wrong.items():
        with pytest.raises(InputError, match=message):
            check_sets(sets, replace(EvaluationSettings("lists"), **{key: value}))
    with pytest.raises(InputError, match="expected lists with dev queries to choose heads on"):
        check_sets({"tests": sets["tests"]}, EvaluationSettings("lists"))
