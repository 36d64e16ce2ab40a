"""A run before it is run: what one pass of its largest prompt takes. Its survey is made here, without Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest

from pipelines import estimate as module
from pipelines.estimate import Estimate, estimate
from pipelines.inputs import FileSurvey, survey_file
from pipelines.scorers import on_requested_device
from pipelines.storage import FileInfo, StorageOptions
from tests.pipelines.reranking import settings_for
from tests.shards import candidates, row, write_shard


def _survey(files: Sequence[FileInfo], options: StorageOptions) -> list[FileSurvey]:
    return [survey_file(file, options) for file in files]


Estimator = Callable[..., Estimate]


@pytest.fixture
def estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Estimator:
    """The estimate of a short and a long row with settings of the engine."""
    monkeypatch.setattr(module, "ray_session", lambda cluster: nullcontext())
    monkeypatch.setattr(module, "survey_files", _survey)
    shard = write_shard(tmp_path / "in" / "a.parquet", [row("short"), row("long", candidates=candidates(60))])

    def estimate_with(engine: dict[str, int], window: int | None = None, **others: bool) -> Estimate:
        settings = settings_for(str(shard), str(tmp_path / "out"), engine=engine)
        scorer = on_requested_device(settings.scorer, settings.run.pool)
        return estimate(settings.run, scorer, 100.0, window, **others)

    return estimate_with


@pytest.fixture
def found(estimated: Estimator) -> dict[int | None, Estimate]:
    """Estimates by the window that prompts are cut to."""
    return {window: estimated({"pack_tokens": 0}, window) for window in (None, 300, 10**6)}


def test_a_pass_holds_one_window_where_prompts_are_cut(found: dict[int | None, Estimate]) -> None:
    whole, windows, wide = found[None], found[300], found[10**6]
    assert whole.pass_tokens == whole.largest_row_tokens > windows.pass_tokens == 300
    assert wide == whole
    assert windows.memory.total < whole.memory.total and windows.actor_bytes < whole.actor_bytes
    assert (windows.tokens, windows.rows, windows.hours) == (whole.tokens, 2, whole.tokens / 100 / 3600)


def test_memory_that_is_allowed_bounds_the_pass_and_tells_of_rows_that_cannot_fit(estimated: Estimator) -> None:
    whole = estimated({"pack_tokens": 4096})
    assert whole.too_long_rows == 0 and whole.pass_tokens == min(whole.tokens, 4096)
    budget = {"pack_tokens": 4096, "memory_bytes": whole.memory.total - 1}
    bounded = estimated(budget)
    assert bounded.memory.total <= budget["memory_bytes"]
    assert bounded.pass_tokens == whole.pass_tokens - 1
    small = {"pack_tokens": 4096, "memory_bytes": (whole.memory.weights + whole.memory.total) // 2}
    refused, windows = estimated(small), estimated(small, in_windows=True)
    assert refused.memory.total <= small["memory_bytes"]
    assert (refused.too_long_rows, windows.too_long_rows) == (1, 0)
    assert refused.prompt_tokens < refused.largest_row_tokens
