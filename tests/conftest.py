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

#: Files that take longest, which begin first: a process that meets one last works on while the others are done.
LONGEST = (
    "tests/test_readme.py",
    "tests/jobs/test_cli.py",
    "tests/pipelines/test_rerank.py",
    "tests/pipelines/test_chaos.py",
    "tests/pipelines/test_killers.py",
    "tests/pipelines/test_rerank_rows.py",
    "tests/jobs/test_submit.py",
)

settings.register_profile("tests", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    return Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def golden_folder(data_folder: Path) -> Path:
    return data_folder / "golden"
