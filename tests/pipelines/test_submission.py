"""Sending a job to a cluster that is still coming up, without a cluster."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pipelines import submission as module
from pipelines.submission import Submission, send
from qrcore.errors import IncompleteRunError

JOB = Submission("rerank", "nightly", ("rerank",), {})


class Cluster:
    """Refuses to take jobs with these reasons, one after the other, and then takes them."""

    def __init__(self, *reasons: str) -> None:
        self.reasons, self.taken = list(reasons), 0

    def list_jobs(self) -> list[Any]:
        return []

    def submit_job(self, **told: Any) -> str:
        if self.reasons:
            raise RuntimeError(self.reasons.pop(0))
        self.taken += 1
        return str(told["submission_id"])


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds since the start of the test, which only pass where somebody sleeps."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    return now


def test_a_cluster_that_has_no_agent_yet_is_awaited(clock: list[float]) -> None:
    cluster = Cluster(*["Request failed with status code 500: No available agent to submit job, please try again"] * 3)
    assert send(cluster, JOB).found is False  # type: ignore[arg-type]
    assert cluster.taken == 1 and 0 < clock[0] < 60


def test_it_is_not_awaited_for_ever() -> None:
    with pytest.raises(IncompleteRunError, match="No available agent"):
        send(Cluster(*["No available agent to submit job"] * 1000), JOB)  # type: ignore[arg-type]


def test_other_refusals_are_told_at_once(clock: list[float]) -> None:
    with pytest.raises(IncompleteRunError, match="no such package"):
        send(Cluster("no such package"), JOB)  # type: ignore[arg-type]
    assert clock[0] == 0
