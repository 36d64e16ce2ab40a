"""The command line with a real local Ray: exit codes, one screen of error, resume after SIGKILL."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jobs.cli import app
from jobs.shell import _code_of
from pipelines.commit import manifest_rows
from qrcore import errors
from tests.shards import HEADS, MODEL, row, write_shard


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200"}, catch_exceptions=False)


def rerank(folder: Path, *more: str) -> Result:
    return invoke(*command(folder), *more)


def command(folder: Path) -> list[str]:
    return [
        "rerank",
        *("--input", str(folder / "in"), "--output", str(folder / "out"), "--model", MODEL, "--heads", HEADS),
        *("--set", "actors.count=1"),
    ]


def test_help_names_the_jobs_and_needs_no_torch() -> None:
    code = "import sys, jobs.cli; from typer.testing import CliRunner; CliRunner().invoke(jobs.cli.app, ['--help']); "
    code += "sys.exit('torch' in sys.modules or 'ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert "rerank" in invoke("--help").output


def test_the_version_is_that_of_the_package() -> None:
    version = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["version"]
    assert invoke("--version").output == f"qrbatch {version}\n"


def test_exit_codes_of_errors() -> None:
    codes = {
        errors.ConfigError: 2,
        errors.HeadSetError: 2,
        errors.InputError: 2,
        errors.PlanConflictError: 2,
        errors.StorageError: 4,
        errors.IncompleteRunError: 4,
        errors.ErrorLimitError: 5,
        errors.RunHeldError: 6,
        errors.RunError: 1,
        errors.QRBatchError: 1,
    }
    assert {kind: _code_of(kind("x")) for kind in codes} == codes


def test_mistakes_are_found_before_ray_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # outside the repository
    (tmp_path / "bytes.yaml").write_bytes(b"\x7fELF\xff")
    places = ("--input", "in", "--output", "out")
    mistakes = {
        ("rerank",): "Give it with --input",
        ("rerank", "--set", "input.uris=[x"): "expected a YAML value",
        ("rerank", "--config", "bytes.yaml"): "UTF-8",
        ("rerank", *places, "--name", "[/x]"): "got '[/x]'",
        ("demo",): "give --questions FILE",
    }
    for arguments, hint in mistakes.items():
        result = invoke(*arguments)
        assert result.exit_code == 2, arguments
        assert hint in result.output, (arguments, result.output)
    assert [path.name for path in tmp_path.iterdir()] == ["bytes.yaml"]


@pytest.mark.parametrize("command", ["status", "verify", "clean"])
def test_a_place_without_a_run_is_a_mistake_and_no_defect(tmp_path: Path, command: str) -> None:
    result = invoke(command, str(tmp_path))
    assert result.exit_code == 2
    assert "OUTPUT/<run_id>" in result.output and "Traceback" not in result.output


def test_python_m_jobs_is_the_same_program_wherever_it_is_started(tmp_path: Path) -> None:
    programs = ([sys.executable, "-m", "jobs"], [str(Path(sys.executable).parent / "qrbatch")])
    module, script = (
        subprocess.run([*program, "rerank", "--help"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        for program in programs
    )
    assert "--heads" in module
    assert module == script


@pytest.mark.usefixtures("local_ray")
def test_a_good_run_exits_0_and_says_where_things_are(tmp_path: Path) -> None:
    write_shard(tmp_path / "in" / "1.parquet", [row("a"), row("b")])
    result = rerank(tmp_path)
    assert result.exit_code == 0
    assert "2 rows = 2 scored + 0 failed" in result.output
    report = re.search(r"report +(\S+report\.html)", result.output)
    assert report is not None
    assert Path(report[1]).is_file()
    again = rerank(tmp_path)
    assert again.exit_code == 0
    assert "already committed" in again.output


@pytest.mark.usefixtures("local_ray")
def test_failed_rows_and_skipped_files_exit_3_also_when_found_again(tmp_path: Path) -> None:
    write_shard(tmp_path / "in" / "1.parquet", [row("a"), row("b", query=None)])
    assert rerank(tmp_path).exit_code == 3
    assert rerank(tmp_path).exit_code == 3
    write_shard(tmp_path / "in" / "1.parquet", [row("a")])
    (tmp_path / "in" / "2.parquet").write_bytes(b"broken")
    assert rerank(tmp_path, "--set", "input.on_bad_file=skip").exit_code == 3


@pytest.mark.usefixtures("local_ray")
def test_mistakes_exit_2_on_one_screen_without_a_traceback(tmp_path: Path) -> None:
    write_shard(tmp_path / "in" / "1.parquet", [row("a")])
    mistakes = {
        ("--set", "scoring.ordr=reversed"): "did you mean 'scoring.order'",
        ("--config", str(tmp_path / "none.yaml")): "Check the path",
        ("--heads", "9-9"): "Choose heads that this model has",
        ("--heads", "no-such-set"): "Correct the name",
        ("--model", str(tmp_path)): "Give the folder of a downloaded model",
        ("--prompt", "qrhead-qwen2"): "prompt=auto",
        ("--input", str(tmp_path / "nothing")): "found none",
        ("--name", "Not Good"): "name: expected 1 to 64 characters",
        ("--qrels", str(tmp_path / "no.parquet")): "Check the URI",
    }
    for arguments, hint in mistakes.items():
        result = rerank(tmp_path, *arguments)
        assert result.exit_code == 2, arguments
        assert hint in result.output.replace("\n", " "), (arguments, result.output)
        assert "Traceback" not in result.output
        assert len(result.output.splitlines()) < 12
    assert not list((tmp_path / "out").glob("*/data/*")) if (tmp_path / "out").exists() else True


@pytest.mark.usefixtures("local_ray")
def test_a_config_file_and_flags_and_set_in_that_order(tmp_path: Path) -> None:
    write_shard(tmp_path / "in" / "1.parquet", [row("a")])
    config = tmp_path / "run.yaml"
    config.write_text(
        f"name: from-file\ninput: {{uris: [{tmp_path / 'in'}]}}\noutput: {{uri: {tmp_path / 'out'}}}\n"
        f"model: {{id: {MODEL}, heads: '{HEADS}'}}\nactors: {{count: 1}}\n"
    )
    assert "from-file-" in invoke("rerank", "--config", str(config)).output
    assert "flag-" in invoke("rerank", "--config", str(config), "--name", "flag").output
    assert "last-" in invoke("rerank", "--config", str(config), "--name", "flag", "--set", "name=last").output


def test_a_killed_driver_leaves_a_run_that_the_same_command_finishes(tmp_path: Path) -> None:
    rows = [row(f"q{number}") for number in range(16)]
    write_shard(tmp_path / "in" / "1.parquet", rows)
    arguments = [sys.executable, "-m", "jobs", *command(tmp_path), "--set", "units.max_rows=1"]
    driver = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    run = _wait_for_objects(tmp_path / "out", driver)
    orphans = _descendants(driver.pid)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    written = _objects(run)
    assert 0 < len(written) < len(rows)
    assert not (run / "_manifest.json").exists()

    # Ray's own processes outlive their driver for a minute: the second run starts beside them, as it would at night.
    second = subprocess.run(arguments, capture_output=True, text=True, check=False)
    _end(orphans)
    assert second.returncode == 0, second.stdout + second.stderr
    found = re.search(r"(\d+) units already done", second.stdout)
    assert found is not None, second.stdout
    assert int(found[1]) >= len(written)
    assert [r["query_id"] for r in manifest_rows(str(run))] == [r["query_id"] for r in rows]
    assert {name: stamp for name, stamp in _objects(run).items() if name in written} == written
    assert json.loads((run / "_manifest.json").read_text())["rows"] == len(rows)


def _objects(run: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (run / "data").glob("*.parquet")}


def _wait_for_objects(output: Path, driver: subprocess.Popen[bytes]) -> Path:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        for found in output.glob("*/data/*.parquet"):
            return found.parent.parent
        assert driver.poll() is None, driver.communicate()[0].decode()
        time.sleep(0.05)
    raise AssertionError("no unit was written in time")


def _descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [found for child in children for found in (int(child), *_descendants(int(child)))]


def _end(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.usefixtures("local_ray")
def test_an_interrupt_exits_4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shard(tmp_path / "in" / "1.parquet", [row("a")])

    def interrupted(*_arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("pipelines.run.store_plan", interrupted)
    result = rerank(tmp_path)
    assert result.exit_code == 4
    assert "Run the same command again" in result.output
