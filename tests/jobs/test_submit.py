"""``qrbatch submit`` against a real Ray cluster over its Jobs API: true exit codes, one run for one command."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.job_submission import JobDetails, JobStatus

from jobs.submit import submission_of
from pipelines.submission import exit_code
from qrcore.errors import ConfigError
from tests.infra.manifests import ROOT
from tests.jobs.test_cli import invoke
from tests.ray_cluster import RayCluster, ray_cluster
from tests.shards import HEADS, MODEL, row, write_shard


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster() as running:
        yield running


def config(folder: Path, **more: Any) -> Path:
    values = {
        "name": folder.name.replace("_", "-")[:40],
        "input": {"uris": [str(folder / "in")]},
        "output": {"uri": str(folder / "out")},
        "model": {"id": MODEL, "heads": HEADS},
        "actors": {"count": 1},
        **more,
    }
    file = folder / "nightly.yaml"
    file.write_text(json.dumps(values))
    return file


def submit(cluster: RayCluster, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs", "submit", "--address", cluster.address, *arguments]
    return subprocess.run(
        command, env={**cluster.environment, **environment}, capture_output=True, text=True, check=False
    )


def metrics_of(cluster: RayCluster) -> set[tuple[str, float]]:
    """Names and values of our metrics as Prometheus would scrape them."""
    text = urllib.request.urlopen(cluster.metrics, timeout=20).read().decode()
    lines = [line for line in text.splitlines() if line.startswith("ray_qrbatch")]
    return {(line.split("{")[0], float(line.rsplit(" ", 1)[1])) for line in lines}


@contextlib.contextmanager
def watched_metrics(cluster: RayCluster) -> Iterator[set[tuple[str, float]]]:
    """Everything that a scraper could see meanwhile: gauges go with the driver that set them."""
    seen: set[tuple[str, float]] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            with contextlib.suppress(OSError):
                seen.update(metrics_of(cluster))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def metrics_named_by_the_dashboard() -> set[str]:
    dashboard = (ROOT / "infra" / "grafana" / "qrbatch.json").read_text()
    assert json.loads(dashboard)["panels"]
    return set(re.findall(r"ray_qrbatch_\w+", dashboard))


def test_a_job_runs_once_and_its_log_and_code_come_back(cluster: RayCluster, tmp_path: Path) -> None:
    write_shard(tmp_path / "in" / "1.parquet", [row("a"), row("b", query=None)])
    arguments = ("rerank", "--config", str(config(tmp_path, units={"max_rows": 1})))
    with watched_metrics(cluster) as seen:
        run = submit(cluster, *arguments, RAY_ADDRESS="http://127.0.0.1:1")  # which Ray's client would prefer
    assert run.returncode == 3, run.stdout + run.stderr
    assert "2 rows = 1 scored + 1 failed" in run.stdout
    assert run.stdout.count("report ") == 1
    assert len(list((tmp_path / "out").glob("*/_manifest.json"))) == 1

    emitted = seen | metrics_of(cluster)
    named = metrics_named_by_the_dashboard()
    assert len(named) == 10
    assert named <= {name for name, _ in emitted}, named - {name for name, _ in emitted}
    assert ("ray_qrbatch_planned_units", 2.0) in emitted
    assert ("ray_qrbatch_rows_total", 2.0) in emitted
    assert ("ray_qrbatch_error_rows_total", 1.0) in emitted

    again = submit(cluster, "--failed-rows-exit", "0", *arguments)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "found there already" in again.stdout
    assert "2 rows = 1 scored + 1 failed" in again.stdout


@pytest.mark.slow
def test_what_a_job_refuses_ends_with_2_and_may_be_tried_again(cluster: RayCluster, tmp_path: Path) -> None:
    arguments = ("rerank", "--config", str(config(tmp_path)))
    first, second = submit(cluster, *arguments), submit(cluster, *arguments)
    for run in (first, second):
        assert run.returncode == 2, run.stdout + run.stderr
        assert "found none" in run.stdout
    assert "found there already" not in second.stdout


@pytest.mark.slow
def test_a_job_that_is_stopped_ends_with_4(cluster: RayCluster, tmp_path: Path) -> None:
    write_shard(tmp_path / "in" / "1.parquet", [row(f"q{number}") for number in range(300)])
    arguments = ["rerank", "--config", str(config(tmp_path, units={"max_rows": 1}))]
    command = [sys.executable, "-m", "jobs", "submit", "--address", cluster.address, *arguments]
    waiting = subprocess.Popen(
        command, env=cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    code = "import sys, time; from ray.job_submission import *; c = JobSubmissionClient(sys.argv[1])\n"
    code += "jobs = lambda: [one for one in c.list_jobs() if one.status == 'RUNNING']\n"
    code += "while not jobs(): time.sleep(0.3)\n"
    code += "c.stop_job(jobs()[0].submission_id)"
    subprocess.run([sys.executable, "-c", code, cluster.address], env=cluster.environment, check=True, timeout=120)
    output, _ = waiting.communicate(timeout=120)
    assert waiting.returncode == 4, output
    assert "with exit code 4" in output


def test_a_cluster_that_lets_nobody_in_is_a_setting(cluster: RayCluster, tmp_path: Path) -> None:
    arguments = ("rerank", "--config", str(config(tmp_path)))
    shut = submit(cluster, *arguments, RAY_AUTH_TOKEN="b" * 40)
    assert shut.returncode == 2, shut.stdout + shut.stderr
    assert "RAY_AUTH_TOKEN" in shut.stderr
    nowhere = invoke("submit", "--address", "http://127.0.0.1:1", *arguments)
    assert nowhere.exit_code == 2
    assert "expected a dashboard that answers" in nowhere.output


def test_mistakes_are_found_before_anything_is_sent(tmp_path: Path) -> None:
    arguments = ("rerank", "--config", str(config(tmp_path, scoring={"ordr": "reversed"})))
    result = invoke("submit", "--address", "http://127.0.0.1:1", *arguments)
    assert result.exit_code == 2
    assert "did you mean 'scoring.order'" in result.output
    with pytest.raises(ConfigError, match="expected a job"):
        submission_of("rernk", [], "auto")


def test_paths_that_lead_elsewhere_on_the_cluster_are_refused(tmp_path: Path) -> None:
    file = str(config(tmp_path, output={"uri": "runs"}))
    with pytest.raises(ConfigError, match=r"output\.uri: expected an address .* relative path 'runs'"):
        submission_of("rerank", ["--config", file], "auto")
    submission_of("rerank", ["--config", file, "--output", "s3://bucket/runs"], "auto")
    for option in (("--input", "shards"), ("--set", "qrels=qrels.parquet"), ("--qrels=qrels.parquet",)):
        with pytest.raises(ConfigError, match="relative path"):
            submission_of("rerank", ["--config", file, "--output", "/shared/runs", *option], "auto")
    with pytest.raises(ConfigError, match=r"runs: expected an address"):
        submission_of("evaluate", ["--input", "s3://b/runs/a", "--input", "ranked.run"], "auto")
    with pytest.raises(ConfigError, match=r"runs: expected an address .* relative path 'b\.run'"):
        submission_of("compare", ["s3://b/runs/a", "b.run", "--qrels", "s3://b/qrels.txt"], "auto")
    submission_of("compare", ["s3://b/runs/a", "/shared/b.run", "--qrels", "s3://b/qrels.txt"], "auto")


def test_the_identity_of_a_submission_is_its_command_and_its_file(tmp_path: Path) -> None:
    file = str(config(tmp_path, output={"uri": "${BUCKET}/runs"}))
    one = submission_of("rerank", ["--config", file, "--set", "actors.count=2"], "json")
    assert one.identity == submission_of("rerank", ["--set", "actors.count=2", f"--config={file}"], "json").identity
    assert one.identity != submission_of("rerank", ["--config", file], "json").identity
    assert one.entrypoint == (
        "qrbatch --log-format json rerank --config config.yaml --set cluster.address=auto --set actors.count=2"
    )
    before = one.identity
    config(tmp_path, units={"max_rows": 2})
    assert submission_of("rerank", ["--config", file, "--set", "actors.count=2"], "json").identity != before
    assert submission_of("train-embedded", ["--input", "/a b"], "auto").entrypoint.endswith(
        "train-embedded --input '/a b'"
    )


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        ("SUCCEEDED", 0, 0), ("SUCCEEDED", None, 0), ("FAILED", 2, 2), ("FAILED", 3, 3), ("FAILED", 5, 5),
        ("FAILED", 6, 6), ("FAILED", None, 4), ("FAILED", -9, 4), ("FAILED", 137, 4), ("FAILED", 0, 4),
        ("STOPPED", None, 4), ("STOPPED", 0, 4),
    ],
)  # fmt: skip
def test_exit_codes(status: str, code: int | None, expected: int) -> None:
    details = JobDetails(type="SUBMISSION", status=JobStatus(status), entrypoint="x", driver_exit_code=code)
    assert exit_code(details) == expected
