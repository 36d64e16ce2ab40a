"""``qrbatch doctor``: what is found, what to fix, and the exit code."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from pipelines import doctor
from pipelines.doctor import Check
from tests.jobs.test_cli import invoke
from tests.shards import HEADS, MODEL, row, write_shard


def config(folder: Path, **changes: str) -> Path:
    values = {
        "input": f"{{uris: [{folder / 'in'}]}}",
        "output": f"{{uri: {folder / 'out'}}}",
        "model": f"{{id: {MODEL}, heads: '{HEADS}'}}",
        **changes,
    }
    file = folder / "run.yaml"
    file.write_text("\n".join(f"{key}: {value}" for key, value in values.items()))
    return file


@pytest.mark.usefixtures("local_ray")
def test_a_healthy_job_has_nothing_to_fix(tmp_path: Path) -> None:
    write_shard(tmp_path / "in" / "1.parquet", [row("a")])
    result = invoke("doctor", "--config", str(config(tmp_path)))
    assert result.exit_code == 0, result.output
    assert "FIX" not in result.output
    for line in ("python", "torch", "ray", "cuda", "1 files", "3 heads", "CPUs"):
        assert line in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("local_ray")
def test_every_fault_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    broken = config(tmp_path, model=f"{{id: {MODEL}, heads: '9-9'}}", actors="{gpus: 1, count: 1}")
    result = invoke("doctor", "--config", str(broken))
    assert result.exit_code == 2
    output = " ".join(result.output.split())
    assert output.count("FIX") == 4
    for advice in ("Choose heads that this model has", "Check the URI", "set actors.gpus to 0", "Use fewer actors"):
        assert advice in output, output
    assert "Traceback" not in output


@pytest.mark.usefixtures("local_ray")
def test_everything_that_a_job_reads_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "a.run").write_text("q Q0 d 1 1.0 a\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "_plan.json").write_text("{}")
    file = tmp_path / "evaluate.yaml"
    file.write_text(
        f"runs: [{tmp_path}/a.run, {tmp_path}/run]\nqrels: {tmp_path}/none.txt\noutput: {tmp_path}/measured\n"
    )
    result = invoke("doctor", "--job", "evaluate", "--config", str(file))
    assert result.exit_code == 2
    output = " ".join(result.output.split())
    assert "ok runs" in output and "a.run: 0.0 MiB" in output
    assert "FIX runs" in output and "expected a committed run, got one without a manifest" in output
    assert "FIX qrels" in output and "none.txt: expected a file or a folder with some, found none" in output
    assert output.count("FIX") == 2


def test_packages_are_held_against_what_the_project_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"torch": "2.13.0", "ray": "1.0"}

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    asked = ["torch>=2.11", "ray[data]>=2.60,<2.64", "s3fs>=1", 'pytest; extra == "test"']
    monkeypatch.setattr(doctor.metadata, "requires", lambda _name: asked)
    monkeypatch.setattr(doctor.metadata, "version", version)
    assert list(doctor._packages()) == [
        Check("torch", "ok", "2.13.0"),
        Check("ray", "failed", "1.0, not <2.64,>=2.60", "pip install 'ray[data]>=2.60,<2.64'"),
        Check("s3fs", "failed", "not installed", "pip install 's3fs>=1'"),
    ]
