"""The same re-ranking once more: what does not change the output does not change the run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipelines.job import RunResult
from pipelines.rerank import RerankSettings
from tests.pipelines.reranking import Recorder, finish, settings_for, three_shards
from tests.shards import HEADS, MODEL

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return three_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def committed(shards: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[RerankSettings, RunResult, Recorder]:
    settings = settings_for(shards, str(tmp_path_factory.mktemp("output")))
    return (settings, *finish(settings))


def test_a_second_run_finds_the_commit_and_does_nothing(committed: tuple[RerankSettings, RunResult, Recorder]) -> None:
    settings, first, _ = committed
    again, recorder = finish(settings)
    assert again.already_committed
    assert again.manifest == first.manifest
    assert recorder.footers == []


def test_settings_that_cannot_change_the_output_do_not_change_the_run(
    committed: tuple[RerankSettings, RunResult, Recorder], shards: str
) -> None:
    settings, first, _ = committed
    same = settings_for(shards, settings.run.output, actors={"count": 3, "threads": 2}, units={"max_rows": 1})
    assert finish(same)[0].run_uri == first.run_uri


def test_how_settings_are_spelled_does_not_make_another_run(
    committed: tuple[RerankSettings, RunResult, Recorder], shards: str
) -> None:
    settings, first, _ = committed
    spelled = {"id": f"{MODEL}/../llama/", "heads": f" {HEADS}", "dtype": "float32", "device": "cpu"}
    same = settings_for(shards, settings.run.output, model=spelled, scoring={"prompt": "qrhead-llama3"})
    assert finish(same)[0].run_uri == first.run_uri


def test_another_tokenizer_makes_another_run(shards: str, tmp_path: Path) -> None:
    shutil.copytree(MODEL, tmp_path / "model")
    settings = settings_for(shards, str(tmp_path / "out"), model={"id": str(tmp_path / "model")})
    first, _ = finish(settings)
    setup = tmp_path / "model" / "tokenizer_config.json"
    setup.write_text(setup.read_text() + "\n")
    assert finish(settings)[0].run_uri != first.run_uri
