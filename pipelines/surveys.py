"""Surveys of many input files, by small tasks on the cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import ray

from pipelines.cluster import LIGHT_TASK_CPUS, get
from pipelines.contracts import QUERIES, RowContract
from pipelines.inputs import FileSurvey, survey_file
from pipelines.storage import FileInfo, StorageOptions

_AT_ONCE: Final = 64


def survey_files(
    files: Sequence[FileInfo], storage: StorageOptions, contract: RowContract = QUERIES
) -> list[FileSurvey]:
    """A survey of each file, in order; their rows follow ``contract``."""
    task: Any = ray.remote(num_cpus=LIGHT_TASK_CPUS)(survey_file)
    surveys: list[FileSurvey] = []
    pending: deque[Any] = deque()
    for file in files:
        pending.append(task.remote(file, storage, contract))
        if len(pending) >= _AT_ONCE:
            surveys.append(get(pending.popleft()))
    return surveys + [get(reference) for reference in pending]
