"""One thread per process: the tests share small machines, where spinning threads cost more than they give."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, here and in child processes

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hypothesis import settings

#: Where Ray is not installed (make test-oldest), only tests of qrcore can run, which need no service.
pytest_plugins = ("tests.services", "tests.pipelines.chromium") if find_spec("ray") else ()

settings.register_profile("tests", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("tests")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    return Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def golden_folder(data_folder: Path) -> Path:
    return data_folder / "golden"
