"""Storage behind a network that goes wrong: every operation comes out right, or says what failed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs

from jobs.config import RerankConfig
from jobs.rerank import pipeline_settings, with_endpoint
from jobs.settings import validate
from pipelines import storage_errors
from pipelines.storage import Storage, StorageOptions, join
from qrcore.errors import ConfigError, IncompleteRunError, StorageError
from tests.faults import Faults, faulty_network

EVERY_FAULT = {
    "slow_down": 0.03,
    "server_error": 0.03,
    "reset": 0.03,
    "dropped_reply": 0.03,
    "slow_body": 0.02,
    "truncated_body": 0.03,
    "conflict": 0.03,
}


@pytest.fixture
def bucket(s3_environment: str, request: pytest.FixtureRequest) -> str:
    name = f"faults-{abs(hash(request.node.name)):x}"
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir(name)
    return f"s3://{name}"


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("pipelines.storage.time.sleep", lambda _seconds: None)
    yield


def _storage(bucket: str, endpoint: str, retries: int = 6) -> Storage:
    return Storage(bucket, StorageOptions(endpoint_url=endpoint, path_style=True, retries=retries))


@pytest.mark.parametrize("seed", range(2))
def test_what_is_put_through_a_bad_network_is_read_back(bucket: str, s3_environment: str, seed: int) -> None:
    faults = Faults(EVERY_FAULT, seed=seed)
    with faulty_network(s3_environment, faults) as endpoint:
        storage = _storage(bucket, endpoint)
        for number in range(20):
            uri = join(bucket, f"run-{seed}", f"{number}.bin")
            storage.create(uri, bytes([number]) * 50_000)
            assert storage.read(uri) == bytes([number]) * 50_000
            assert not storage.create(uri, b"another")
        assert len(storage.list_files(join(bucket, f"run-{seed}"))) == 20
    assert len(faults.met) >= 4, faults.met


@pytest.mark.parametrize("kind", ["slow_down", "server_error", "reset", "dropped_reply"])
def test_each_refusal_is_tried_again(bucket: str, s3_environment: str, kind: str) -> None:
    faults = Faults({kind: 1.0}, longest_row=1)  # every request meets it once
    with faulty_network(s3_environment, faults) as endpoint:
        storage = _storage(bucket, endpoint)
        storage.create(join(bucket, "x"), b"data")
        assert storage.read(join(bucket, "x")) == b"data"
    assert faults.met[kind] >= 2


def test_a_body_that_breaks_off_is_read_again(bucket: str, s3_environment: str) -> None:
    Storage(bucket).create(join(bucket, "x"), bytes(range(256)) * 1000)
    faults = Faults({"truncated_body": 1.0}, longest_row=1)
    with faulty_network(s3_environment, faults) as endpoint:
        assert _storage(bucket, endpoint).read(join(bucket, "x")) == bytes(range(256)) * 1000
    assert faults.met["truncated_body"] >= 1


def test_a_put_whose_reply_was_lost_is_there_once(bucket: str, s3_environment: str) -> None:
    faults = Faults({"dropped_reply": 1.0}, longest_row=1)
    with faulty_network(s3_environment, faults) as endpoint:
        won = _storage(bucket, endpoint).create(join(bucket, "unit"), b"mine")
    assert faults.met["dropped_reply"] >= 1
    assert not won  # the second try found the first: whoever must know reads back what stands there
    assert Storage(bucket).read(join(bucket, "unit")) == b"mine"


def test_a_precondition_that_fails_over_nothing_is_a_conflict(
    bucket: str, s3_environment: str, no_pauses: None
) -> None:
    with faulty_network(s3_environment, Faults({"precondition": 1.0}, longest_row=2)) as endpoint:
        assert _storage(bucket, endpoint).create(join(bucket, "x"), b"data")
    assert Storage(bucket).read(join(bucket, "x")) == b"data"
    with (
        faulty_network(s3_environment, Faults({"precondition": 1.0}, longest_row=10**9)) as endpoint,
        pytest.raises(IncompleteRunError, match="settle a conflict"),
    ):
        _storage(bucket, endpoint).create(join(bucket, "y"), b"data")


def test_conflicts_are_tried_again_over_the_wire(bucket: str, s3_environment: str, no_pauses: None) -> None:
    faults = Faults({"conflict": 1.0}, longest_row=3)
    with faulty_network(s3_environment, faults) as endpoint:
        assert _storage(bucket, endpoint).create(join(bucket, "x"), b"data")
    assert faults.met["conflict"] == 3
    assert Storage(bucket).read(join(bucket, "x")) == b"data"


def test_a_store_that_stays_down_is_an_error_after_the_retries(bucket: str, s3_environment: str) -> None:
    faults = Faults({"server_error": 1.0}, longest_row=10**9)
    with (
        faulty_network(s3_environment, faults) as endpoint,
        pytest.raises(StorageError, match="expected to read it"),
    ):
        _storage(bucket, endpoint, retries=2).read(join(bucket, "x"))
    assert 2 <= faults.total("GET") + faults.total("HEAD") <= 4


def test_a_large_unit_is_one_put(bucket: str, s3_environment: str) -> None:
    faults = Faults()
    with faulty_network(s3_environment, faults) as endpoint:
        _storage(bucket, endpoint).create(join(bucket, "unit"), bytes(60 * 2**20))
    assert faults.total("PUT") == 1
    assert faults.total("POST") == 0


def test_a_store_without_conditional_puts_is_refused(bucket: str, s3_environment: str) -> None:
    with (
        faulty_network(s3_environment, Faults({"blind": 1.0}, longest_row=10**9)) as endpoint,
        pytest.raises(ConfigError, match="conditional puts"),
    ):
        _storage(bucket, endpoint).check_creates(bucket)
    Storage(bucket).check_creates(bucket)
    assert Storage(bucket).list_everything(bucket) == []


def test_open_uploads_are_seen_and_given_up(bucket: str, s3_environment: str) -> None:
    storage, s3 = Storage(bucket), s3fs.S3FileSystem(skip_instance_cache=True)
    name = bucket.removeprefix("s3://")
    for key in ("run/errors.jsonl", "other/errors.jsonl"):
        s3.call_s3("create_multipart_upload", Bucket=name, Key=key)
    ((uri, upload),) = storage.open_uploads(join(bucket, "run/"))
    assert uri == join(bucket, "run/errors.jsonl")
    storage.abort_upload(uri, upload)
    assert storage.open_uploads(join(bucket, "run/")) == []
    assert len(storage.open_uploads(bucket + "/")) == 1


def _win(task: tuple[str, int]) -> bool:
    uri, number = task
    return Storage(uri).create(uri, str(number).encode() * 1000)


def test_of_eight_processes_one_wins_each_of_fifty_rounds(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(8) as pool:
        for attempt in range(50):
            uri = str(tmp_path / f"object-{attempt}")
            assert sum(pool.map(_win, [(uri, number) for number in range(8)], chunksize=1)) == 1
            assert len(set((tmp_path / f"object-{attempt}").read_bytes().decode())) == 1


def test_a_writer_killed_before_the_link_leaves_no_object(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from pipelines import local_files; from pipelines.storage import Storage\n"
        "local_files.os.link = lambda *_: (print('written', flush=True), time.sleep(60))\n"
        f"Storage({str(tmp_path)!r}).create({str(tmp_path / 'x.parquet')!r}, b'data')\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "written\n"
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    storage = Storage(str(tmp_path))
    assert storage.list_files(str(tmp_path)) == []
    assert not storage.exists(str(tmp_path / "x.parquet"))
    assert len(storage.list_everything(str(tmp_path))) == 1  # what cleaning removes
    assert storage.create(str(tmp_path / "x.parquet"), b"data")


def test_a_file_system_without_hard_links_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_paths: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("pipelines.local_files.os.link", no_links)
    with pytest.raises(ConfigError, match="hard links"):
        Storage(str(tmp_path)).check_creates(str(tmp_path / "run"))


def test_no_error_repeats_a_credential(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-token-of-some-length")
    with pytest.raises(StorageError) as caught, storage_errors.translated("s3://b/x", "read"):
        raise OSError("the server repeats a-token-of-some-length")
    assert "a-token" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_addresses_with_credentials_are_refused_and_not_repeated() -> None:
    values = {"input": {"uris": ["x"]}, "output": {"uri": "y"}}
    with pytest.raises(ConfigError, match="without user and password") as caught:
        validate(RerankConfig, values | {"storage": {"endpoint_url": "http://me:hidden@host/"}})
    assert "hidden" not in str(caught.value)
    config = validate(RerankConfig, values)
    with pytest.raises(ConfigError) as caught:
        with_endpoint(config.storage, {"AWS_ENDPOINT_URL": "http://me:hidden@host"})
    assert "hidden" not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        Storage("s3://me:hidden@bucket/x")
    assert "hidden" not in str(caught.value)


def test_settings_reach_the_store() -> None:
    config = {"input": {"uris": ["x"]}, "output": {"uri": "y"}}
    config |= {"storage": {"retries": 9, "timeout_s": 5, "region": "eu-north-1", "path_style": True}}
    storage = pipeline_settings(validate(RerankConfig, config)).run.storage
    filesystem = Storage("s3://bucket/x", storage)._fs
    assert filesystem.config_kwargs["retries"]["total_max_attempts"] == 9
    assert filesystem.config_kwargs["read_timeout"] == filesystem.config_kwargs["connect_timeout"] == 5
    assert filesystem.config_kwargs["s3"] == {"addressing_style": "path"}
    assert filesystem.client_kwargs["region_name"] == "eu-north-1"
