"""Rows that kill their worker are found, left out and told of; the rest of their unit is scored."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from pipelines import cluster
from pipelines.attempts import Attempts, mark_stopped
from pipelines.commit import load_manifest, manifest_rows
from pipelines.job import RunResult
from pipelines.storage import Storage
from qrcore.errors import ErrorLimitError, IncompleteRunError, RunError
from tests.drivers import start_driver
from tests.shards import candidates, row, write_shard
from tests.stubs import Quiet, StubJob, run_stub, stub_settings

pytestmark = pytest.mark.usefixtures("local_ray")


def _run(folder: Path, queries: list[str], **changes: Any) -> tuple[RunResult, list[dict[str, Any]], Quiet]:
    write_shard(folder / "in" / "1.parquet", [row(f"q{i}", query=query) for i, query in enumerate(queries)])
    observer = Quiet()
    result = run_stub(stub_settings(str(folder / "in"), str(folder / "out"), **changes), observer=observer)
    return result, list(manifest_rows(result.run_uri)), observer


def _codes(rows: list[dict[str, Any]]) -> list[str | None]:
    return [r["error"] and r["error"]["code"] for r in rows]


def _marks(result: RunResult) -> list[str]:
    units = Path(result.run_uri, "_attempts").glob("*/*.json")
    return sorted(path.name for path in units)


def test_an_undisturbed_unit_costs_one_mark_and_one_object(tmp_path: Path) -> None:
    result, rows, _ = _run(tmp_path, ["good"] * 8)
    assert _codes(rows) == [None] * 8
    assert _marks(result) == ["0.json", "0.json"]
    assert len(list(Path(result.run_uri, "data").iterdir())) == 2


def test_first_last_and_two_of_a_unit_that_kill_are_errors_and_the_rest_is_scored(tmp_path: Path) -> None:
    queries = ["kill", "good", "good", "good", *["good"] * 3, "kill", "good", "kill", "kill", "good"]
    result, rows, observer = _run(tmp_path, queries)
    assert _codes(rows) == ["worker_died" if query == "kill" else None for query in queries]
    assert {r["error"]["kind"] for r in rows if r["error"]} == {"transient"}
    assert [r["source"]["row"] for r in rows] == list(range(12))
    assert (result.manifest.scored, result.manifest.failed) == (8, 4)
    killed_on = {node for footer in observer.footers for node in footer.get("killed_on", ())}
    assert killed_on == {ray.util.get_node_ip_address()}
    assert sum(footer.get("killers", 0) for footer in observer.footers) == 4
    for number, unit in enumerate(observer.plan.units if observer.plan else ()):
        died = sum(query == "kill" for query in queries[unit.start : unit.stop])
        folder = Path(result.run_uri, "_attempts", unit.unit_id)
        assert max(int(path.name.split("-")[0].removesuffix(".json")) for path in folder.iterdir()) == 1 + 2 * died, (
            number
        )


def test_a_row_that_killed_once_is_scored(tmp_path: Path) -> None:
    _, rows, _ = _run(tmp_path, ["good", f"kill-once:{tmp_path / 'once'}", "good"])
    assert _codes(rows) == [None] * 3


def test_a_lost_gpu_ends_the_process_and_its_row_is_an_error(tmp_path: Path) -> None:
    _, rows, _ = _run(tmp_path, ["good", "cuda", "good"])
    assert _codes(rows) == [None, "worker_died", None]


def test_running_out_of_memory_fails_one_row_and_no_process(tmp_path: Path) -> None:
    result, rows, _ = _run(tmp_path, ["good", "oom", "good"])
    assert _codes(rows) == [None, "oom", None]
    assert _marks(result) == ["0.json"]


@pytest.mark.slow
def test_too_many_killers_stop_the_run_and_name_the_nodes(tmp_path: Path) -> None:
    write_shard(tmp_path / "in" / "1.parquet", [row(f"q{i}", query="kill") for i in range(3)])
    settings = stub_settings(str(tmp_path / "in"), str(tmp_path / "out"), units={"max_killer_rows": 1})
    with pytest.raises(ErrorLimitError, match=rf"at most 1 rows .* found 2, on nodes {ray.util.get_node_ip_address()}"):
        run_stub(settings)
    assert not list((tmp_path / "out").glob("*/_manifest.json"))


@pytest.mark.slow
def test_a_killer_that_takes_its_driver_down_is_an_error_after_resuming(tmp_path: Path) -> None:
    pid = tmp_path / "driver.pid"
    queries = ["good", f"kill-driver:{pid}", "good"]
    write_shard(tmp_path / "in" / "1.parquet", [row(f"q{i}", query=query) for i, query in enumerate(queries)])
    places = (str(tmp_path / "in"), str(tmp_path / "out"))
    driver = start_driver(tmp_path, *places)
    pid.write_text(str(driver.pid))
    driver.wait(timeout=120)
    assert driver.returncode == -9
    result = run_stub(stub_settings(*places))
    assert _codes(list(manifest_rows(result.run_uri))) == [None, "worker_died", None]


def test_a_row_is_not_blamed_for_drivers_that_stopped_in_order(tmp_path: Path) -> None:
    storage, run = Storage(str(tmp_path)), str(tmp_path)

    def attempt(driver: str) -> Attempts:
        made = Attempts(storage, run, "unit", driver)
        made.look_back()
        made.begin_row(3)
        return made

    assert Attempts(storage, run, "unit", "d1").is_first()
    assert not Attempts(storage, run, "unit", "d1").is_first()
    for driver in ("d1", "d2", "d3"):
        assert attempt(driver).killers() == []
        mark_stopped(storage, run, driver)
    attempt("d4")  # killed, and so is its driver
    assert attempt("d5").killers() == []
    last = attempt("d5")
    assert last.killers() == [3]
    assert last.error(3).code == "worker_died"
    last.end()
    assert attempt("d6").number == 7


@pytest.mark.slow
def test_constructors_that_die_three_times_are_a_defect_with_the_cause(tmp_path: Path) -> None:
    write_shard(tmp_path / "in" / "1.parquet", [row("a")])
    with pytest.raises(RunError, match="3 in a row died before any was ready") as caught:
        run_stub(stub_settings(str(tmp_path / "in"), str(tmp_path / "out")), StubJob(in_constructor="kill"))
    assert not isinstance(caught.value, IncompleteRunError)


def _idle() -> None:
    time.sleep(60)


def test_an_actor_that_fits_nowhere_is_awaited_aloud_and_then_resumable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_WAITING_LINE_EVERY_S", 0.3)
    write_shard(tmp_path / "in" / "1.parquet", [row("a")])
    total = ray.cluster_resources()["CPU"]
    hog = ray.remote(num_cpus=total - 1)(_idle).remote()
    ray.wait([hog], timeout=1)
    observer = Quiet()
    settings = stub_settings(
        str(tmp_path / "in"), str(tmp_path / "out"), actors={"cpus": total - 1, "start_timeout_s": 1}
    )
    try:
        with pytest.raises(IncompleteRunError, match="start_timeout_s"):
            run_stub(settings, observer=observer)
    finally:
        ray.cancel(hog, force=True)
    lines = [line for line in observer.stages if line.startswith("waiting for")]
    assert len(lines) >= 2
    assert "CPUs" in lines[0]


def _wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


def _finish(driver: subprocess.Popen[str]) -> str:
    output, _ = driver.communicate(timeout=180)
    return output


def test_a_second_driver_stops_with_exit_6_or_helps_from_the_other_end(tmp_path: Path) -> None:
    go = tmp_path / "go"
    rows = [row(f"q{i}", query="good", candidates=candidates(40)) for i in range(4)]  # the longest are done first
    rows += [row(f"q{i}", query=f"until:{go}") for i in range(4, 60)]
    write_shard(tmp_path / "in" / "1.parquet", rows)
    places = (str(tmp_path / "in"), str(tmp_path / "out"))
    first = start_driver(tmp_path, *places, units={"max_rows": 2})
    assert first.stdout is not None
    while not (line := first.stdout.readline()).startswith("units"):
        assert line, "the first driver ended"
    joined = start_driver(tmp_path, *places, units={"max_rows": 2}, join=True)
    second = start_driver(tmp_path, *places, units={"max_rows": 2})
    said = _finish(second)
    assert second.returncode == 6, said
    assert f"process {first.pid} of" in said or f"process {joined.pid} of" in said
    _wait_for(lambda: len(list((tmp_path / "out").glob("*/_attempts/*/0.json"))) >= 4)  # both are at work
    go.touch()
    outputs = [_finish(first), _finish(joined)]
    assert (first.returncode, joined.returncode) == (0, 0), outputs
    scored = [int(output.rsplit("scored", 1)[1].split()[0]) for output in outputs]
    assert 30 <= sum(scored) < 1.2 * 30, scored
    assert min(scored) >= 3, scored
    (run,) = (tmp_path / "out").glob("stub-*")
    assert [r["query_id"] for r in manifest_rows(str(run))] == [f"q{i}" for i in range(60)]
    assert not list((run / "_leases").glob("*.json"))
    manifest = load_manifest(Storage(str(run)), str(run))
    assert manifest is not None
    committers = {output.rsplit(" by ", 1)[1].split()[0] for output in outputs}
    assert committers == {manifest.driver}


def test_the_lease_of_a_dead_process_of_this_host_holds_nobody(tmp_path: Path) -> None:
    result, _, _ = _run(tmp_path, ["good"])
    run = Path(result.run_uri)
    (run / "_manifest.json").unlink()
    gone = subprocess.Popen(["true"])
    gone.wait()
    from pipelines.lease import Lease

    lease = Lease.of_this_process("dead").model_copy(update={"pid": gone.pid, "process": "boot 1 2"})
    assert not lease.fresh
    assert Lease.of_this_process("me").fresh
    (run / "_leases").mkdir(exist_ok=True)
    (run / "_leases" / "dead.json").write_text(lease.model_dump_json())
    again = run_stub(stub_settings(str(tmp_path / "in"), str(tmp_path / "out")))
    assert not again.already_committed
    assert json.loads((run / "_manifest.json").read_text())["rows"] == 1
    assert list((run / "_leases").iterdir()) == []


@pytest.mark.parametrize("sent", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_an_interrupted_driver_exits_4_with_the_command_that_resumes(tmp_path: Path, sent: signal.Signals) -> None:
    rows = [row(f"q{i}", query="sleep:0.3") for i in range(24)]
    write_shard(tmp_path / "in" / "1.parquet", rows)
    places = (str(tmp_path / "in"), str(tmp_path / "out"))
    driver = start_driver(tmp_path, *places, units={"max_rows": 2})
    assert driver.stdout is not None
    while not (line := driver.stdout.readline()).startswith("units"):
        assert line, "the driver ended"
    driver.send_signal(sent)
    said = _finish(driver)
    assert driver.returncode == 4, said
    assert "Run the same command again to go on:" in said
    assert "qrbatch " in said
    (run,) = (tmp_path / "out").glob("stub-*")
    assert not list((run / "_leases").iterdir())
    done = len(list((run / "data").glob("*.parquet")))
    assert 1 <= done < 12
    observer = Quiet()
    run_stub(stub_settings(*places, units={"max_rows": 2}), observer=observer)
    assert len(observer.footers) <= 12 - done
    assert [r["query_id"] for r in manifest_rows(str(run))] == [f"q{i}" for i in range(24)]
