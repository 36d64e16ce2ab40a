"""What fails while units are done, and what the message then says to do."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines import work
from pipelines.inputs import survey_file
from pipelines.plan import Plan, cut_units, encode_schema, planned_files
from pipelines.schemas import ranking_schema
from pipelines.storage import FileInfo, Storage, StorageOptions
from pipelines.work import PoolSettings, WorkSettings, do_units
from qrcore.errors import IncompleteRunError, InputError, StorageError
from tests.shards import row, write_shard

pytestmark = pytest.mark.usefixtures("local_ray")


class _NoScorer:
    """Stands where units are scored, so that no model is loaded."""

    def __init__(self, **_settings: Any) -> None: ...

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return row


def _no_worker() -> Any:
    raise AssertionError("nothing is answered here")


def _fails_to_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fail: Callable[[], None]) -> None:
    """Do one unit whose reading fails in a worker."""

    def read(row: dict[str, Any], work: object) -> dict[str, Any]:
        fail()
        return row

    monkeypatch.setattr(work, "_read_unit", read)
    _do(monkeypatch, tmp_path)


def _do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, etag: str | None = None) -> None:
    monkeypatch.setattr(work, "AnswerUnit", _NoScorer)
    path = write_shard(tmp_path / "in.parquet", [row("a")])
    info = Storage(str(path)).info(str(path))
    survey = survey_file(FileInfo(info.uri, info.size, etag or info.etag), StorageOptions())
    units = cut_units([survey], "c", 10**9, 10**9)
    plan = Plan(
        run_id="r-1",
        job="rerank",
        name="r",
        config_hash="c",
        input_hash="i",
        config={},
        provenance={},
        order="as_given",
        files=planned_files([survey]),
        skipped_files=(),
        units=units,
        schema_ipc=encode_schema(ranking_schema(list[pa.Field]())),
    )
    pool = PoolSettings(actors=1, cpus_per_actor=0.5)
    list(do_units(plan, units, str(tmp_path / "run"), _no_worker, WorkSettings(pool, StorageOptions())))


def _input() -> None:
    raise InputError("in these words")


def _store() -> None:
    raise StorageError("the store said no.")


def _system() -> None:
    raise OSError(errno.EIO, "broken disk")


def _defect() -> None:
    raise KeyError("a defect")


@pytest.mark.parametrize(
    ("fail", "kind", "message"),
    [
        (_input, InputError, "^in these words$"),
        (_store, IncompleteRunError, "the store said no. Run the same command again"),
        (_system, IncompleteRunError, "broken disk.*Run the same command again"),
        (_defect, KeyError, "a defect"),
    ],
)
def test_what_fails_in_a_worker_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fail: Callable[[], None], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=f"(?s){message}") as caught:
        _fails_to_read(monkeypatch, tmp_path, fail)
    assert caught.type is kind


def test_a_file_that_changed_is_planned_anew_by_the_same_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"in\.parquet: .*has changed.*Run the command again"):
        _do(monkeypatch, tmp_path, etag="another")
