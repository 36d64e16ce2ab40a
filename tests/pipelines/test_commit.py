"""Manifests, the pointer to the latest run, and foreign files among the units."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.commit import Manifest, _read_object, commit, point_latest
from pipelines.plan import Unit
from pipelines.storage import Storage, StorageOptions
from qrcore.errors import RunError
from tests.jobs.test_cli import invoke

UNIT = Unit(unit_id="u", file=0, start=0, stop=1, bytes=1, tokens=1)


def _manifest(**changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "run_id": "r-1",
        "job": "rerank",
        "name": "nightly",
        "driver": "d",
        "committed_at": "2026-01-02T03:04:05.678+00:00",
        "config_hash": "c",
        "input_hash": "i",
        "rows": 0,
        "scored": 0,
        "failed": 0,
        "skipped_files": (),
        "objects": (),
        "side_files": (),
        "provenance": {},
    }
    return Manifest(**{**values, **changes})


def _latest(folder: Path) -> str:
    return str(json.loads((folder / "nightly.latest.json").read_text())["run_id"])


def test_the_pointer_is_put_right_but_never_back(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    point_latest(storage, str(tmp_path), _manifest())
    assert _latest(tmp_path) == "r-1"
    point_latest(storage, str(tmp_path), _manifest(run_id="r-0", committed_at="2026-01-02T03:04:05+00:00"))
    assert _latest(tmp_path) == "r-1"
    point_latest(storage, str(tmp_path), _manifest(run_id="r-2", committed_at="2026-01-02T03:04:06+00:00"))
    assert _latest(tmp_path) == "r-2"


def test_a_commit_points_at_the_manifest_that_counts(tmp_path: Path) -> None:
    storage, run = Storage(str(tmp_path)), str(tmp_path / "r-1")
    first = commit(storage, str(tmp_path), run, _manifest())
    assert commit(storage, str(tmp_path), run, _manifest(driver="late")) == first
    assert json.loads((tmp_path / "nightly.latest.json").read_text()) == {
        "run_id": "r-1",
        "manifest": "r-1/_manifest.json",
        "committed_at": first.committed_at,
    }


def test_a_night_is_rolled_back_to_the_one_before_without_its_id(tmp_path: Path) -> None:
    storage, folder = Storage(str(tmp_path)), str(tmp_path)
    for number in (1, 2, 3):
        night = _manifest(run_id=f"nightly-{number}", committed_at=f"2026-01-0{number}T03:04:05+00:00")
        commit(storage, folder, str(tmp_path / f"nightly-{number}"), night)
    assert json.loads((tmp_path / "nightly.latest.json").read_text())["previous"] == "nightly-2"
    said = invoke("rollback", folder, "nightly")
    assert said.exit_code == 0 and "points at nightly-2, before at nightly-3" in said.output
    assert _latest(tmp_path) == "nightly-2"
    unknown = invoke("rollback", folder, "nightly")  # which run stood before that one is not written anywhere
    assert unknown.exit_code == 2 and "Give the run's id" in unknown.output
    assert invoke("rollback", folder, "nightly", "nightly-1").exit_code == 0
    point_latest(storage, folder, _manifest(run_id="nightly-3", committed_at="2026-01-03T03:04:05+00:00"))
    assert _latest(tmp_path) == "nightly-1", "a run that was rolled back stays so"
    later = _manifest(run_id="nightly-4", committed_at="2026-01-04T03:04:05+00:00")
    commit(storage, folder, str(tmp_path / "nightly-4"), later)
    assert json.loads((tmp_path / "nightly.latest.json").read_text())["previous"] == "nightly-1"
    assert invoke("rollback", folder, "other", "nightly-1").exit_code == 2


@pytest.mark.parametrize("metadata", [None, {b"other": b"1"}])
def test_a_foreign_file_among_the_units_is_named(tmp_path: Path, metadata: dict[bytes, bytes] | None) -> None:
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata(metadata), tmp_path / "data" / "u.parquet")
    with pytest.raises(RunError, match=r"data/u\.parquet: .*without its footer"):
        _read_object(UNIT, str(tmp_path), ["query_id"], StorageOptions())


def test_what_is_no_parquet_among_the_units_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "u.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(RunError, match="without its footer"):
        _read_object(UNIT, str(tmp_path), ["query_id"], StorageOptions())
