"""Starting, joining and checking Ray, and what stands behind its errors."""

from __future__ import annotations

import os
import signal
from typing import Any, Never

import pytest
import ray
from ray.data import DataContext
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayError, RayTaskError, WorkerCrashedError

from pipelines import cluster
from pipelines.cluster import ClusterSettings, check_resources, get, ray_session, refuse_local_files_on_many_nodes
from qrcore.errors import ConfigError, IncompleteRunError, InputError


@pytest.fixture
def init_calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What ``ray.init`` is called with; it takes the signal as the real one does."""
    calls: list[dict[str, Any]] = []

    def init(**settings: Any) -> None:
        calls.append(settings)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    return calls


def test_without_an_address_ray_is_private_and_counts_the_cores_of_this_process(
    init_calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3, 5, 7}, raising=False)
    with ray_session(ClusterSettings()):
        pass
    assert (init_calls[0]["address"], init_calls[0]["num_cpus"]) == ("local", 3 + 2)


def test_the_handler_of_sigterm_outlives_the_start_of_ray(init_calls: list[dict[str, Any]]) -> None:
    def ours(*_signal: object) -> None: ...

    before = signal.signal(signal.SIGTERM, ours)
    try:
        with ray_session(ClusterSettings()):
            assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("error", [ValueError("no such scheme"), ConnectionError("refused"), RuntimeError("lost")])
def test_an_address_that_leads_nowhere_is_a_setting(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def init(**_settings: Any) -> Never:
        raise error

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with (
        pytest.raises(ConfigError, match="'nowhere:1': expected a cluster that answers"),
        ray_session(ClusterSettings("nowhere:1")),
    ):
        pass


def test_a_session_leaves_the_settings_of_ray_data_as_they_were(init_calls: list[dict[str, Any]]) -> None:
    context, names = DataContext.get_current(), ("execution_no_progress_timeout_s", "raise_original_map_exception")
    before = [getattr(context, name) for name in names]
    with ray_session(ClusterSettings()):
        assert [getattr(context, name) for name in names] == [-1, True]
    assert [getattr(context, name) for name in names] == before


def _cluster(monkeypatch: pytest.MonkeyPatch, *nodes: dict[str, float], dead: int = 0) -> None:
    listed = [{"Alive": True, "Resources": node} for node in nodes]
    listed += [{"Alive": False, "Resources": {"CPU": 1000.0, "GPU": 1000.0}}] * dead
    totals = {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
    monkeypatch.setattr(ray, "nodes", lambda: listed)
    monkeypatch.setattr(ray, "cluster_resources", lambda: totals)


def test_an_actor_must_fit_on_one_node(monkeypatch: pytest.MonkeyPatch) -> None:
    _cluster(monkeypatch, {"CPU": 4.0, "GPU": 1.0}, {"CPU": 8.0}, dead=1)
    check_resources(1, 4.0, 1.0)
    check_resources(1, 8.0, 0.0)
    with pytest.raises(ConfigError, match=r"10 CPUs and 0 GPUs on one node, the nodes have 4 CPUs and 1 GPUs, 8 CPUs"):
        check_resources(1, 10.0, 0.0)
    with pytest.raises(ConfigError, match="on one node"):
        check_resources(1, 8.0, 1.0)


def test_local_files_need_one_node_or_a_shared_file_system(monkeypatch: pytest.MonkeyPatch) -> None:
    _cluster(monkeypatch, {"CPU": 4.0}, dead=1)
    refuse_local_files_on_many_nodes(["/a"], shared=False)
    _cluster(monkeypatch, {"CPU": 4.0}, {"CPU": 4.0})
    refuse_local_files_on_many_nodes(["s3://a"], shared=False)
    refuse_local_files_on_many_nodes(["/a"], shared=True)
    with pytest.raises(ConfigError, match=r"^b/c: expected files that all 2 nodes"):
        refuse_local_files_on_many_nodes(["s3://a", "b/c"], shared=False)


def _wrapped(cause: Exception) -> RayTaskError:
    error = RayTaskError("task", "traceback", cause, proctitle="x", pid=1, ip="127.0.0.1")
    return error.make_dual_exception_instance() if not isinstance(cause, RayError) else error


@pytest.mark.parametrize(
    "lost", [WorkerCrashedError(), ActorDiedError(), OutOfMemoryError("killed"), _wrapped(WorkerCrashedError())]
)
def test_a_lost_worker_leaves_a_run_that_resumes(lost: RayError) -> None:
    error = cluster.unwrapped(lost)
    assert isinstance(error, IncompleteRunError)
    assert "same command again" in str(error)


def test_what_a_task_raised_is_found_under_every_wrapping() -> None:
    ours, theirs = InputError("ours"), KeyError("a defect")
    assert cluster.unwrapped(_wrapped(ours)) is ours
    assert cluster.unwrapped(_wrapped(_wrapped(ours))) is ours
    assert cluster.unwrapped(_wrapped(theirs)) is theirs
    theirs.__cause__ = ours
    assert cluster.unwrapped(_wrapped(theirs)) is ours
    unpicklable = RayError("stands for an exception that cannot be pickled")
    assert cluster.unwrapped(_wrapped(unpicklable)) is unpicklable


def _raise_ours() -> None:
    raise InputError("in these words")


def _die() -> None:
    os._exit(1)


@pytest.mark.usefixtures("local_ray")
def test_results_and_errors_of_real_tasks() -> None:
    assert get(ray.put(7)) == 7
    with pytest.raises(InputError, match=r"^in these words$"):
        get(ray.remote(num_cpus=0)(_raise_ours).remote())
    with pytest.raises(IncompleteRunError, match="WorkerCrashedError"):
        get(ray.remote(num_cpus=0, max_retries=0)(_die).remote())


def test_a_machine_too_busy_for_ray_leaves_the_run_to_the_same_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_settings: object) -> None:
        raise Exception("The current node timed out during startup. This could happen because ...")

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", fail)
    with pytest.raises(IncompleteRunError, match="too busy"), ray_session(ClusterSettings()):
        raise AssertionError("there is no Ray")
