"""A run before it is run: what one pass of its largest prompt takes. Its survey is made here, without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest

from pipelines import estimate as module
from pipelines.estimate import Estimate, estimate
from pipelines.inputs import FileSurvey, survey_file
from pipelines.scorers import on_requested_device
from pipelines.storage import FileInfo, StorageOptions
from tests.pipelines.test_rerank import settings_for
from tests.shards import candidates, row, write_shard


def _survey(files: Sequence[FileInfo], options: StorageOptions) -> list[FileSurvey]:
    return [survey_file(file, options) for file in files]


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[int | None, Estimate]:
    """Estimates by the window that prompts are cut to."""
    monkeypatch.setattr(module, "ray_session", lambda cluster: nullcontext())
    monkeypatch.setattr(module, "survey_files", _survey)
    shard = write_shard(tmp_path / "in" / "a.parquet", [row("short"), row("long", candidates=candidates(60))])
    settings = settings_for(str(shard), str(tmp_path / "out"), engine={"pack_tokens": 0})
    scorer = on_requested_device(settings.scorer, settings.run.pool)
    return {window: estimate(settings.run, scorer, 100.0, window) for window in (None, 300, 10**6)}


def test_a_pass_holds_one_window_where_prompts_are_cut(found: dict[int | None, Estimate]) -> None:
    whole, windows, wide = found[None], found[300], found[10**6]
    assert whole.pass_tokens == whole.largest_row_tokens > windows.pass_tokens == 300
    assert wide == whole
    assert windows.memory.total < whole.memory.total and windows.actor_bytes < whole.actor_bytes
    assert (windows.tokens, windows.rows, windows.hours) == (whole.tokens, 2, whole.tokens / 100 / 3600)
