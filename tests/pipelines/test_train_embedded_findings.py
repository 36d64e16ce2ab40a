"""What is measured once and kept, by weights and by what lists hold; what the log tells of test queries."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.training import examination, study
from pipelines.training.examination import examine
from pipelines.training.findings import AnswerQuality, Findings, HeadTable, Interval, ListQuality
from pipelines.training.judged import JudgedSet
from pipelines.training.seeds import SeedRun
from pipelines.training.settings import TrainEmbeddedSettings
from pipelines.training.study import EvaluationSettings
from qrcore.errors import ConfigError, StorageError
from qrcore.models import open_model, weights_sha256
from qrcore.shipped import embedded_folder
from qrcore.training.progress import Progress
from qrcore.training.teaching import TaughtHeads
from tests.pipelines.training.collection import DEV_IDS, TEST_IDS, planted

Reader = Callable[[str], None]


class Silent:
    """Is told everything and says nothing."""

    def phase(self, message: str) -> None: ...

    def progress(self, seed: int, progress: Progress, share: float) -> None: ...


@pytest.fixture
def run(tmp_path: Path) -> SeedRun:
    shutil.copytree(embedded_folder(), tmp_path / "run" / "model")
    return SeedRun(3, str(tmp_path / "run" / "model"), 1, (), ())


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Plants all measurements; what was measured on which device comes here in its order."""
    seen: list[tuple[str, str]] = []

    def measure(what: str, answer: Any) -> Callable[..., Any]:
        def plant(folder: str, judged: JudgedSet, part: str = "", *more: Any, device: str) -> Any:
            seen.append((f"{what} {part}".strip(), device))
            return answer(judged, part) if callable(answer) else answer

        return plant

    def choose(folder: str, sets: list[JudgedSet], top: int, *, device: str) -> HeadTable:
        heads = [f"1-{head}" for head in range(top)]
        queries = sum(len(judged.part("dev")) for judged in sets)
        return HeadTable(dict.fromkeys(heads, 0.5), tuple(heads), queries, (), {"a": {}}, {}, 20, {})

    monkeypatch.setattr(study, "head_table", choose)
    monkeypatch.setattr(study, "list_qualities", measure("rankings", lambda judged, part: (quality(judged, part),)))
    monkeypatch.setattr(study, "length_curve", measure("lengths", ()))
    monkeypatch.setattr(study, "causal_check", lambda folder, sets, chosen, *, device: seen.append(("causal", device)))
    monkeypatch.setattr(study, "answer_quality", measure("answers", answers))
    monkeypatch.setattr(study, "verdict_quality", measure("verdicts", None))
    return seen


def quality(judged: JudgedSet, part: str) -> ListQuality:
    value = Interval(0.75, 0.5, 1.0)
    return ListQuality(judged.name, part, "heads", 1, 0, value, value, {"q": 0.75})


def answers(judged: JudgedSet, part: str) -> AnswerQuality:
    return AnswerQuality(judged.name, part, 1, 1.0, Interval(1.0, 1.0, 1.0), Interval(1.0, 1.0, 1.0))


def lists(gold: str = "gold") -> dict[str, JudgedSet]:
    ids = (*DEV_IDS, *TEST_IDS)
    return {name: JudgedSet(name, tuple(planted(q, gold, "b") for q in ids), ranked=False) for name in ("a", "b")}


def settings(folder: Path, part: str = "dev", top: int = 2, **changes: Any) -> TrainEmbeddedSettings:
    log = str(folder / "logs" / "readings.jsonl")
    evaluation = EvaluationSettings(str(folder / "lists"), (), "a", "b", top, part, log)  # type: ignore[arg-type]
    asked = TrainEmbeddedSettings(("text",), "out", "work", evaluation=evaluation, device="cpu")
    return replace(asked, **changes)


def log_lines(folder: Path) -> list[dict[str, Any]]:
    log = folder / "logs" / "readings.jsonl"
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []


def shipped(run: SeedRun) -> tuple[str, ...] | None:
    head_set = open_model(run.folder).head_set
    return head_set.heads if head_set else None


def test_dev_is_measured_before_test_and_all_of_it_on_the_device(
    run: SeedRun, measured: list[tuple[str, str]], tmp_path: Path
) -> None:
    found = examine(run, lists(), settings(tmp_path, "test", device="cuda:1"), Silent())
    on_dev = ["rankings dev"] * 2 + ["lengths", "causal", "answers dev", "verdicts dev"]
    assert measured == [(what, "cuda:1") for what in (*on_dev, "rankings test", "rankings test", "answers test")]
    assert found is not None
    assert [(q.name, q.part) for q in found.qualities] == [("a", "dev"), ("b", "dev"), ("a", "test"), ("b", "test")]
    assert [one.part for one in found.answers] == ["dev", "test"]
    assert found.lists_sha256 == study.lists_hash(lists())


def test_what_is_measured_depends_on_weights_and_on_what_the_lists_hold_not_on_where_they_lie(
    run: SeedRun, measured: list[tuple[str, str]], tmp_path: Path
) -> None:
    def is_measured(sets: dict[str, JudgedSet], chosen: TrainEmbeddedSettings) -> bool:
        measured.clear()
        assert examine(run, sets, chosen, Silent()) is not None
        return bool(measured)

    here, there = settings(tmp_path), settings(tmp_path / "elsewhere")
    assert is_measured(lists(), here)
    assert not is_measured(lists(), here)
    assert not is_measured(lists(), there), "moved"
    assert not is_measured(lists(), replace(here, device="cuda")), "weights say the same elsewhere"
    assert is_measured(lists(gold="silver"), here), "rewritten in place"
    assert is_measured({"a": lists()["a"], "c": lists()["b"]}, here), "renamed"
    assert is_measured(lists(), settings(tmp_path, top=3))
    assert is_measured(lists(), settings(tmp_path, "test"))
    assert is_measured(lists(), replace(here, name="other"))
    weights = Path(run.folder) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-2] + b"\0\0")
    assert is_measured(lists(), here)


@pytest.mark.usefixtures("measured")
def test_the_head_set_is_always_the_one_of_the_findings(run: SeedRun, tmp_path: Path) -> None:
    for top in (2, 3, 2):
        found = examine(run, lists(), settings(tmp_path, top=top), Silent())
        assert found is not None
        assert shipped(run) == found.head_table.chosen == ("1-0", "1-1", "1-2")[:top]
    head_set = open_model(run.folder).head_set
    assert head_set is not None
    assert (head_set.name, head_set.weights_sha256) == ("embedded", weights_sha256(run.folder))


@pytest.mark.usefixtures("measured")
def test_without_a_measurement_the_taught_heads_are_the_head_set(run: SeedRun, tmp_path: Path) -> None:
    examine(run, lists(), settings(tmp_path, top=3), Silent())
    unmeasured = settings(tmp_path, evaluation=None, name="mine", taught=TaughtHeads(layer=2, heads=2))
    assert examine(run, {}, unmeasured, Silent()) is None
    assert shipped(run) == ("2-0", "2-1")
    head_set = open_model(run.folder).head_set
    assert head_set is not None
    assert (head_set.name, head_set.method) == ("mine", "taught")
    examine(run, {}, replace(unmeasured, taught=None), Silent())
    assert shipped(run) is None


def test_readings_of_test_queries_are_logged_before_and_after_and_happen_once(
    run: SeedRun, measured: list[tuple[str, str]], tmp_path: Path
) -> None:
    examine(run, lists(), settings(tmp_path), Silent())
    assert not log_lines(tmp_path), "dev queries are no secret"
    for _ in range(2):
        examine(run, lists(), settings(tmp_path, "test"), Silent())
    before, after = log_lines(tmp_path)
    assert (before["event"], after["event"]) == ("reading", "read")
    assert after["ndcg@10"] == {"a": 0.75, "b": 0.75}
    for line in (before, after):
        assert (line["model"], line["seed"], line["heads"]) == ("embedded", 3, ["1-0", "1-1"])
        assert line["weights_sha256"] == weights_sha256(run.folder)
        assert line["lists_sha256"] == study.lists_hash(lists())
        assert "date" in line


def test_a_reading_that_breaks_off_is_told_and_done_again(
    run: SeedRun, measured: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = study.list_qualities

    def interrupt(folder: str, judged: JudgedSet, part: str, *, device: str) -> tuple[ListQuality, ...]:
        if (judged.name, part) == ("b", "test"):
            raise KeyboardInterrupt
        return whole(folder, judged, part, device=device)  # type: ignore[arg-type]

    monkeypatch.setattr(study, "list_qualities", interrupt)
    with pytest.raises(KeyboardInterrupt):
        examine(run, lists(), settings(tmp_path, "test"), Silent())
    assert [line["event"] for line in log_lines(tmp_path)] == ["reading"]
    monkeypatch.setattr(study, "list_qualities", whole)
    examine(run, lists(), settings(tmp_path, "test"), Silent())
    assert [line["event"] for line in log_lines(tmp_path)] == ["reading", "reading", "read"]


def test_without_a_log_no_test_query_is_read(run: SeedRun, measured: list[tuple[str, str]], tmp_path: Path) -> None:
    asked = settings(tmp_path, "test")
    assert asked.evaluation is not None
    with pytest.raises(ConfigError, match="readings of test queries"):
        examine(run, lists(), replace(asked, evaluation=replace(asked.evaluation, log=None)), Silent())
    assert not measured


def test_a_log_that_fails_keeps_test_queries_unread(
    run: SeedRun, measured: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(folder: str, judged: JudgedSet, part: str, *, device: str) -> None:
        (tmp_path / "logs" / "readings.jsonl").unlink()
        (tmp_path / "logs" / "readings.jsonl").mkdir()

    monkeypatch.setattr(study, "verdict_quality", spoil)
    with pytest.raises(StorageError, match="expected to add a line"):
        examine(run, lists(), settings(tmp_path, "test"), Silent())
    assert ("rankings dev", "cpu") in measured
    assert not [what for what, _ in measured if what.endswith("test")]


def test_findings_are_kept_only_once_the_log_tells_of_them(
    run: SeedRun, measured: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StorageError("no room")

    monkeypatch.setattr(study, "log_read", fail)
    with pytest.raises(StorageError):
        examine(run, lists(), settings(tmp_path, "test"), Silent())
    assert not list(Path(run.folder).parent.glob("findings-*"))


def test_findings_of_another_form_are_none(
    run: SeedRun, measured: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = examine(run, lists(), settings(tmp_path), Silent())
    assert isinstance(first, Findings)
    measured.clear()
    monkeypatch.setattr(examination._FINDINGS, "json_schema", lambda: {"of": "another version"})
    assert examine(run, lists(), settings(tmp_path), Silent()) == first
    assert measured
