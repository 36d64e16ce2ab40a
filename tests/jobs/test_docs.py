"""The pages of the jobs and of the deployment: commands exist, jobs are all there, paths lead somewhere."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from functools import cache

import pytest

from jobs.job_configs import JOB_CONFIGS, config_of
from jobs.shell import HELD
from pipelines.answer_worker import ANSWER_FIELDS
from pipelines.contrast.rows import CONTRAST_FIELDS, TUNING_SCHEMA
from pipelines.flips.rows import FLIP_FIELDS
from pipelines.influence.rows import INFLUENCE_SCHEMA
from pipelines.needle_columns import NEEDLE_FIELDS
from pipelines.prepare.recipes import names
from pipelines.prepare.records import shard_schema
from pipelines.schemas import RANKING_FIELDS
from pipelines.selecting import BUNDLE_FIELDS
from tests.commands import misunderstood
from tests.infra.manifests import OVERLAYS, ROOT, built, written
from tests.jobs.test_cli import invoke


def commands(path: str, fence: str) -> list[str]:
    blocks = re.findall(rf"```{fence}\n(.*?)```", (ROOT / path).read_text(encoding="utf-8"), flags=re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


def job_pages() -> dict[str, str]:
    text = (ROOT / "jobs/README.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", text, re.M | re.S))


def test_every_job_has_its_page_and_its_sections_are_named() -> None:
    pages = job_pages()
    assert set(pages) == set(JOB_CONFIGS)
    for job, page in pages.items():
        for name in config_of(job).model_fields:
            assert name == "name" or f"`{name}`" in page, (job, name)
        assert "- Exit codes: 0" in page, job


def test_output_columns_are_all_named() -> None:
    pages = job_pages()
    columns = {
        "rerank": RANKING_FIELDS,
        "select": BUNDLE_FIELDS,
        "answer": ANSWER_FIELDS,
        "prepare": shard_schema(()),
        "needles": NEEDLE_FIELDS,
        "influence": INFLUENCE_SCHEMA,
        "contrast": (*CONTRAST_FIELDS, *TUNING_SCHEMA),
        "flips": FLIP_FIELDS,
    }
    for job, fields in columns.items():
        for field in fields:
            assert f"`{field.name}" in pages[job], (job, field.name)
    named = set(re.findall(r"`(\w+)`", re.sub(r"\(.*?\)", "", pages["prepare"])))
    assert set(names()) <= named, set(names()) - named


@pytest.mark.parametrize("path", ["jobs/README.md", "infra/README.md"])
def test_every_exit_code_is_told(path: str) -> None:
    told = re.findall(r"^\| (\d) \| (.+)$", (ROOT / path).read_text(encoding="utf-8"), re.M)
    assert [int(code) for code, _ in told] == list(range(HELD + 1))


@pytest.mark.parametrize("command", commands("jobs/README.md", "bash"))
def test_the_commands_of_the_jobs_page_run(command: str) -> None:
    assert invoke(*command.split()[1:]).exit_code == 0


@pytest.mark.parametrize(("path", "least"), [("infra/README.md", 4), ("README.md", 1), ("jobs/README.md", 4)])
def test_commands_that_are_not_run_are_understood(path: str, least: int) -> None:
    found = commands(path, " *sh norun")
    ours = [line for line in found if line.startswith("qrbatch ")]
    assert len(ours) >= least
    for line in ours:
        assert misunderstood(line) == [], line
    for path in re.findall(r"(?<= )infra/[\w./-]+", "\n".join(found)):
        assert (ROOT / path).exists(), path


@cache
def kubectl_help(command: str) -> str:
    """What kubectl tells of a command and of options that all commands have."""
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("no kubectl on PATH: its flags are not known")
    told = [[program, *command.split(), "--help"], [program, "options"]]
    return "\n".join(subprocess.run(one, capture_output=True, text=True, check=True).stdout for one in told)


def test_kubectl_has_the_flags_that_the_steps_use() -> None:
    lines = [line for line in commands("infra/README.md", " *sh norun") if line.startswith("kubectl ")]
    assert len(lines) >= 12
    for line in lines:
        words = shlex.split(line)[1:]
        command = "create job" if words[:2] == ["create", "job"] else words[0]
        told = kubectl_help(command)
        for flag in [word.partition("=")[0] for word in words if word.startswith("-")]:
            assert re.search(rf"(^|[\s,]){re.escape(flag)}[=,:\s]", told), (line, flag)


def test_the_steps_name_what_the_manifests_make() -> None:
    text = "\n".join(commands("infra/README.md", " *sh norun"))
    manifests = [one for overlay in OVERLAYS for one in built(overlay)] + written()
    names = {(one["kind"].lower(), one["metadata"]["name"]) for one in manifests}
    assert ("cronjob", "qrbatch-nightly") in names and "cronjob/qrbatch-nightly" in text
    for name in set(re.findall(r" job/([\w-]+)", text)):
        night = re.sub(r"-\d{8}$", "", name)
        assert {("rayjob", night), ("job", night)} & names, name
