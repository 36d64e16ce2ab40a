"""A run once more: what is done is left alone, what is missing is done, what was changed is told.

The job is a stub, since what is tested is the run.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines import commit
from pipelines.commit import manifest_rows
from pipelines.job import RunResult, RunSettings
from pipelines.run import run_job
from pipelines.storage import Storage
from qrcore.errors import IncompleteRunError, RunError
from tests.pipelines.reranking import Recorder, rows_of, side_file, three_shards
from tests.shards import row, write_shard
from tests.stubs import StubJob, stub_settings

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return three_shards(tmp_path_factory.mktemp("shards"))


def settings_for(inputs: str, output: str, max_rows: int = 2) -> RunSettings:
    return stub_settings(inputs, output, units={"max_rows": max_rows})


def finish(settings: RunSettings) -> tuple[RunResult, Recorder]:
    recorder = Recorder()
    return run_job(StubJob(), settings, recorder), recorder


def test_missing_units_are_done_and_finished_ones_left_alone(shards: str, tmp_path: Path) -> None:
    settings = settings_for(shards, str(tmp_path))
    first, _ = finish(settings)
    before = {path.name: path.stat().st_mtime_ns for path in Path(first.run_uri, "data").iterdir()}
    Path(first.run_uri, "_manifest.json").unlink()
    lost = sorted(before)[:2]
    for name in lost:
        Path(first.run_uri, "data", name).unlink()
    second, recorder = finish(settings)
    assert not second.already_committed
    assert recorder.done_before == len(before) - 2
    assert sorted(footer["unit_id"] for footer in recorder.footers) == [name.removesuffix(".parquet") for name in lost]
    after = {path.name: path.stat().st_mtime_ns for path in Path(second.run_uri, "data").iterdir()}
    assert {n: t for n, t in after.items() if n not in lost} == {n: t for n, t in before.items() if n not in lost}
    assert json.loads(side_file(second, "report.json"))["result"]["resumed"] is True


def test_a_resume_keeps_the_stored_plan(shards: str, tmp_path: Path) -> None:
    first, recorder = finish(settings_for(shards, str(tmp_path)))
    Path(first.run_uri, "_manifest.json").unlink()
    second, again = finish(settings_for(shards, str(tmp_path), max_rows=1))
    assert again.plan == recorder.plan
    assert [o.path for o in second.manifest.objects] == [o.path for o in first.manifest.objects]


def test_a_changed_input_is_another_run(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "in" / "1.parquet", [row("a")])
    first, _ = finish(settings_for(str(tmp_path / "in"), str(tmp_path / "out")))
    write_shard(path, [row("a"), row("b")])
    second, _ = finish(settings_for(str(tmp_path / "in"), str(tmp_path / "out")))
    assert first.run_uri != second.run_uri
    assert len(rows_of(first)) == 1


def test_objects_that_were_touched_after_the_commit_are_not_read(shards: str, tmp_path: Path) -> None:
    result, _ = finish(settings_for(shards, str(tmp_path)))
    path = Path(result.run_uri, result.manifest.objects[0].path)
    path.write_bytes(path.read_bytes()[:-1] + b"X")
    with pytest.raises(RunError, match="not what was committed"):
        rows_of(result)


def test_an_uncommitted_run_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="expected a committed run"):
        list(manifest_rows(str(tmp_path)))


def test_a_stranger_in_the_data_folder_stops_the_commit(shards: str, tmp_path: Path) -> None:
    settings = settings_for(shards, str(tmp_path))
    result, _ = finish(settings)
    Path(result.run_uri, "_manifest.json").unlink()
    stranger = Path(result.run_uri, "data", "0000000000000000.parquet")
    stranger.write_bytes(b"x")
    with pytest.raises(RunError, match="does not know"):
        finish(settings)
    stranger.unlink()
    assert finish(settings)[0].manifest.rows == 12


def test_a_driver_that_comes_second_accepts_the_first_commit(shards: str, tmp_path: Path) -> None:
    settings = settings_for(shards, str(tmp_path))
    first, _ = finish(settings)
    storage = Storage(str(tmp_path))
    late = first.manifest.model_copy(update={"driver": "someone-else"})
    assert commit.commit(storage, str(tmp_path), first.run_uri, late) == first.manifest


def test_a_failing_store_leaves_a_run_that_resumes(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(shards, str(tmp_path))
    monkeypatch.setattr("pipelines.run.find_done", _without_the_last(commit.find_done))
    with pytest.raises(IncompleteRunError, match="same command"):
        finish(settings)
    monkeypatch.undo()
    result, recorder = finish(settings)
    assert recorder.footers == []  # every unit had been written
    assert result.manifest.rows == 12


def _without_the_last(find: Callable[..., set[str]]) -> Callable[..., set[str]]:
    return lambda *arguments: set(sorted(find(*arguments))[:-1])


def test_latest_is_put_right_when_a_committed_run_is_found(shards: str, tmp_path: Path) -> None:
    settings = settings_for(shards, str(tmp_path))
    finish(settings)
    latest = Path(tmp_path, "stub.latest.json")
    before = latest.read_text()
    latest.unlink()
    assert finish(settings)[0].already_committed
    assert latest.read_text() == before
