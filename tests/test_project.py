"""The project as files: lock, layout, licence of what is shipped."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "infra" / "constraints.txt"
TOP_LEVEL = {
    *("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "Makefile", ".ci", ".gitignore"),
    *("qrcore", "pipelines", "jobs", "tests", "infra"),
}


def tracked_files() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout: the list of tracked files is unknown")
    return listed.stdout.split("\n")[:-1]


def test_the_lock_holds_plain_versions_only() -> None:
    lines = [line for line in LOCK.read_text().splitlines() if not line.startswith("#")]
    assert "torch==2.13.0" in lines
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.!]*", line), line
    assert not re.search(r"\+cpu|file:|@|--hash|/", "\n".join(lines))


def declared_dependencies() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *(name for group in project["optional-dependencies"].values() for name in group)]


def test_the_lock_covers_every_direct_dependency() -> None:
    locked = {line.split("==")[0].lower().replace("_", "-") for line in LOCK.read_text().splitlines()}
    names = {re.split(r"[\[<>=!,]", entry)[0].lower().replace("_", "-") for entry in declared_dependencies()}
    assert len(names) > 15
    assert names <= locked


def test_every_dependency_has_a_sentence_on_why() -> None:
    lines = [line.strip() for line in (ROOT / "pyproject.toml").read_text().splitlines()]
    for entry in declared_dependencies():
        assert lines[lines.index(f'"{entry}",') - 1].startswith("#"), entry


def test_the_top_level_is_the_one_of_the_design() -> None:
    assert {path.split("/")[0] for path in tracked_files()} <= TOP_LEVEL


def test_nothing_large_or_foreign_is_tracked() -> None:
    for path in tracked_files():
        size = (ROOT / path).stat().st_size
        assert size < 7 * 2**20, path
        assert not path.endswith((".pt", ".bin", ".ckpt")), path


def test_no_path_of_one_machine_is_named() -> None:
    machine = re.compile(r"(?<![\w.])/(work|root|home/\w+|tmp)/")
    for path in tracked_files():
        if path.endswith((".py", ".md", ".toml", ".yaml", "Makefile", ".json", ".j2")) and "data/golden" not in path:
            assert not machine.search((ROOT / path).read_text(encoding="utf-8")), path


def test_parquet_is_read_without_threads_of_arrow() -> None:
    # They may outlive the interpreter and abort a process whose run is committed: see pipelines.units.parquet_table.
    calls = []
    for path in tracked_files():
        if path.startswith(("pipelines/", "jobs/", "qrcore/")) and path.endswith(".py"):
            text = (ROOT / path).read_text(encoding="utf-8")
            assert "pq.read_table" not in text, path
            calls += re.findall(r"(?:parquet|ParquetFile\(.*\))\.(?:read|iter_batches)\((?:[^()]|\([^()]*\))*\)", text)
    assert len(calls) >= 4
    for call in calls:
        assert "use_threads=False" in call, call
