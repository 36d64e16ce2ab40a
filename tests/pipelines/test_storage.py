from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import s3fs

from pipelines.storage import Storage, absolute, join, protocol_of
from qrcore.errors import ConfigError, StorageError


@pytest.fixture(params=["file", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return str(tmp_path)
    request.getfixturevalue("s3_environment")
    bucket = f"bucket-{abs(hash(str(tmp_path))):x}"
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir(bucket)
    return f"s3://{bucket}/some/prefix"


def test_create_never_replaces(folder: str) -> None:
    storage = Storage(folder)
    assert storage.create(join(folder, "a.json"), b"first")
    assert not storage.create(join(folder, "a.json"), b"second")
    assert storage.read(join(folder, "a.json")) == b"first"


def test_create_of_an_empty_object_is_exclusive_too(folder: str) -> None:
    storage = Storage(folder)
    assert storage.create(join(folder, "empty"), b"")
    assert not storage.create(join(folder, "empty"), b"")


def test_replace_changes_content_and_tag(folder: str) -> None:
    storage = Storage(folder)
    storage.replace(join(folder, "latest.json"), b"old")
    before = storage.info(join(folder, "latest.json"))
    storage.replace(join(folder, "latest.json"), b"newer")
    after = storage.info(join(folder, "latest.json"))
    assert storage.read(join(folder, "latest.json")) == b"newer"
    assert (before.size, after.size) == (3, 5)
    assert before.etag != after.etag


def test_listing_skips_hidden_names_at_every_level_and_sees_new_files(folder: str) -> None:
    storage = Storage(folder)
    for name in (
        "b.parquet",
        "a.parquet",
        "_plan.json",
        "_tmp/x.parquet",
        ".hidden.parquet",
        "deep/c.parquet",
        "n.txt",
    ):
        storage.create(join(folder, name), b"x")
    names = [file.uri[len(folder) + 1 :] for file in storage.list_files(folder, suffix=".parquet")]
    assert names == ["a.parquet", "b.parquet", "deep/c.parquet"]
    Storage(folder).create(join(folder, "d.parquet"), b"x")
    assert len(storage.list_files(folder, suffix=".parquet")) == 4


def test_missing_things(folder: str) -> None:
    storage = Storage(folder)
    assert storage.list_files(join(folder, "nowhere")) == []
    assert not storage.exists(join(folder, "nothing"))
    with pytest.raises(StorageError, match="expected an object"):
        storage.read(join(folder, "nothing"))
    with pytest.raises(StorageError, match="expected an object"):
        storage.info(join(folder, "nothing"))


def test_local_create_leaves_no_temporary_file(tmp_path: Path) -> None:
    Storage(str(tmp_path)).create(str(tmp_path / "a"), b"1")
    Storage(str(tmp_path)).create(str(tmp_path / "a"), b"2")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def _try_to_create(task: tuple[str, int]) -> bool:
    uri, number = task
    return Storage(uri).create(uri, str(number).encode())


def test_one_of_many_processes_wins(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        for attempt in range(10):
            uri = str(tmp_path / f"object-{attempt}")
            assert sum(pool.map(_try_to_create, [(uri, number) for number in range(4)], chunksize=1)) == 1


class _Conflicts:
    """A file system that answers 409 a number of times, as s3fs passes it on."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.calls = 0

    def pipe_file(self, *_args: object, **_settings: object) -> None:
        self.calls += 1
        if self.calls <= self.times:
            cause = RuntimeError("ConditionalRequestConflict")
            cause.response = {"ResponseMetadata": {"HTTPStatusCode": 409}}  # type: ignore[attr-defined]
            raise OSError(16, "busy") from cause


def test_a_conflict_is_tried_again(monkeypatch: pytest.MonkeyPatch, s3_environment: str) -> None:
    monkeypatch.setattr("pipelines.storage.time.sleep", lambda _seconds: None)
    storage = Storage("s3://bucket/x")
    storage._fs = _Conflicts(times=3)
    assert storage.create("s3://bucket/x", b"data")
    assert storage._fs.calls == 4
    storage._fs = _Conflicts(times=1000)
    with pytest.raises(StorageError, match="settle a conflict"):
        storage.create("s3://bucket/x", b"data")


def test_uris() -> None:
    assert protocol_of("s3://a/b") == "s3"
    assert protocol_of("a/b") == protocol_of("file:///a/b") == "file"
    assert absolute("file:///a/b/") == "/a/b"
    assert absolute("s3://a/b/") == "s3://a/b"
    assert Path(absolute("a")).is_absolute()
    with pytest.raises(ConfigError, match="gs"):
        protocol_of("gs://a")
