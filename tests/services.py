"""A real local Ray for the whole test session, an S3 API over HTTP, and small input shards."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pipelines.cluster import ClusterSettings, ray_session

#: Must not be found in anything that a run writes.
SECRET = "never-written-anywhere"


@pytest.fixture(scope="session")
def local_ray(s3_environment: str) -> Iterator[None]:
    """One Ray for all tests that need one; pipelines join it instead of starting their own.

    Its workers inherit the environment it starts in, so the S3 endpoint must be there first.
    """
    with ray_session(ClusterSettings()):
        yield


@contextmanager
def s3_api() -> Iterator[str]:
    """The address of an S3 API with conditional puts, in a process of its own, for the length of a block."""
    port = _free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    endpoint = f"http://127.0.0.1:{port}"
    try:
        _wait_for(endpoint)
        yield endpoint
    finally:
        server.terminate()
        server.wait(timeout=30)


@contextmanager
def s3_credentials(server: str) -> Iterator[str]:
    """Credentials and endpoint in the environment, as a pod would have them; before Ray starts, so workers see them."""
    values = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server,
    }
    previous = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    yield server
    for name, value in previous.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 API for all tests."""
    with s3_api() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def s3_environment(s3_server: str) -> Iterator[str]:
    """Credentials and endpoint in the environment for all tests that ask for them."""
    with s3_credentials(s3_server) as server:
        yield server


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(endpoint: str) -> None:
    for _ in range(150):
        try:
            urllib.request.urlopen(f"{endpoint}/moto-api/", timeout=2).close()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"no S3 API at {endpoint}")
