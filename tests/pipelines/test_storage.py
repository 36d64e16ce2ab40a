"""Files on disk and on S3: create-only puts, listings, and errors that are all of one kind."""

from __future__ import annotations

import errno
import io
import time
from pathlib import Path

import pytest
import s3fs
from botocore.exceptions import NoCredentialsError  # type: ignore[import-untyped]

from pipelines.storage import Storage, StorageOptions, absolute, join, protocol_of
from qrcore.errors import ConfigError, IncompleteRunError, StorageError


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


class _Refusals:
    """A file system that answers a status a number of times, as s3fs passes it on."""

    def __init__(self, status: int, times: int) -> None:
        self.status = status
        self.times = times
        self.calls = 0

    def pipe_file(self, *_args: object, **_settings: object) -> None:
        self.calls += 1
        if self.calls <= self.times:
            cause = RuntimeError("a client error without a code that s3fs knows")
            cause.response = {"ResponseMetadata": {"HTTPStatusCode": self.status}}  # type: ignore[attr-defined]
            raise OSError(errno.EINVAL, "translated") from cause

    def exists(self, _path: str) -> bool:
        return True


def test_a_conflict_is_tried_again(monkeypatch: pytest.MonkeyPatch, s3_environment: str) -> None:
    monkeypatch.setattr("pipelines.storage.time.sleep", lambda _seconds: None)
    storage = Storage("s3://bucket/x")
    storage._fs = _Refusals(409, times=3)
    assert storage.create("s3://bucket/x", b"data")
    assert storage._fs.calls == 4
    storage._fs = _Refusals(409, times=1000)
    with pytest.raises(IncompleteRunError, match="settle a conflict"):
        storage.create("s3://bucket/x", b"data")


def test_a_failed_precondition_means_that_an_object_stands_there(s3_environment: str) -> None:
    storage = Storage("s3://bucket/x")
    storage._fs = _Refusals(412, times=1)
    assert not storage.create("s3://bucket/x", b"data")
    storage._fs = _Refusals(403, times=1)
    with pytest.raises(StorageError, match="expected to write it, got OSError"):
        storage.create("s3://bucket/x", b"data")


class _Broken:
    """A file system on which everything fails in one way."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, _name: str) -> object:
        def fail(*_args: object, **_settings: object) -> None:
            raise self._error

        return fail


@pytest.mark.parametrize(
    "error", [PermissionError(errno.EACCES, "no"), TimeoutError("slow"), OSError(errno.EIO, "io"), NoCredentialsError()]
)
def test_whatever_a_store_answers_is_a_storage_error(error: Exception, s3_environment: str) -> None:
    uri = "s3://bucket/x"
    storage = Storage(uri)
    storage._fs = _Broken(error)
    calls = [storage.exists, storage.is_folder, storage.info, storage.list_files, storage.read, storage.open]
    for call in calls:
        with pytest.raises(StorageError, match=f"^{uri}: expected to .* got {type(error).__name__}"):
            call(uri)
    for put in (storage.create, storage.replace):
        with pytest.raises(StorageError, match="expected to write it"):
            put(uri, b"data")


def test_a_store_that_nobody_serves_is_a_storage_error(s3_environment: str) -> None:
    options = StorageOptions(endpoint_url="http://127.0.0.1:9", timeout_s=1.0, retries=1)
    with pytest.raises(StorageError, match="Check the path"):
        Storage("s3://bucket/x", options).read("s3://bucket/x")


def test_a_file_in_the_way_of_a_folder_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="expected to write it"):
        Storage(str(tmp_path)).create(str(tmp_path / "file" / "x"), b"data")


def test_a_stream_reads_ranges_and_ends_with_its_block(folder: str) -> None:
    storage = Storage(folder)
    storage.create(join(folder, "x"), b"0123456789")
    with storage.open(join(folder, "x")) as stream:
        assert stream.seek(4) == 4
        assert stream.read(3) == b"456"
        assert stream.tell() == 7
    assert stream.closed


def test_a_file_is_put_from_its_position_on(folder: str) -> None:
    storage, content = Storage(folder), io.BytesIO(b"0123456789")
    content.seek(2)
    storage.create_from_file(join(folder, "deep", "x"), content)
    assert storage.read(join(folder, "deep", "x")) == b"23456789"


def test_a_folder_is_told_from_a_file_whatever_its_name(folder: str) -> None:
    storage = Storage(folder)
    storage.create(join(folder, "x.parquet", "part-0.parquet"), b"x")
    assert storage.is_folder(join(folder, "x.parquet"))
    assert not storage.is_folder(join(folder, "x.parquet", "part-0.parquet"))
    assert not storage.is_folder(join(folder, "nothing"))


def test_uris() -> None:
    assert protocol_of("s3://a/b") == "s3"
    assert protocol_of("a/b") == protocol_of("file:///a/b") == "file"
    assert absolute("file:///a/b/") == "/a/b"
    assert absolute("s3://a/b/") == "s3://a/b"
    assert Path(absolute("a")).is_absolute()
    assert absolute("/a/b/../c/./d") == "/a/c/d"
    with pytest.raises(ConfigError, match="gs"):
        protocol_of("gs://a")


def test_a_process_keeps_one_client_for_the_same_access_and_no_longer_than_its_life(
    s3_environment: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def client(**options: float) -> int:
        return id(Storage("s3://bucket/x", StorageOptions(**options))._fs)  # type: ignore[arg-type]

    first = client()
    assert client() == first
    assert client(timeout_s=5.0) != first
    monkeypatch.setenv("AWS_SESSION_TOKEN", "another")
    assert client() != first
    monkeypatch.delenv("AWS_SESSION_TOKEN")
    assert client() == first
    now = time.monotonic()
    monkeypatch.setattr("pipelines.storage.time.monotonic", lambda: now + 301)
    assert client() != first


def test_what_another_client_wrote_is_seen_at_once(folder: str) -> None:
    storage = Storage(folder)
    assert storage.list_files(folder) == []
    Storage(folder, StorageOptions(timeout_s=9.0)).create(join(folder, "a.json"), b"x")
    assert [info.size for info in storage.list_files(folder)] == [1]
    Storage(folder, StorageOptions(timeout_s=9.0)).replace(join(folder, "a.json"), b"xyz")
    assert Storage(folder).info(join(folder, "a.json")).size == 3
