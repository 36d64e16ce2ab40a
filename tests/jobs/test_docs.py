"""The pages of the jobs and of the deployment: commands exist, jobs are all there, paths lead somewhere."""

from __future__ import annotations

import re

import pytest

from jobs.job_configs import JOB_CONFIGS, config_of
from tests.commands import misunderstood
from tests.infra.manifests import ROOT
from tests.jobs.test_cli import invoke

NOT_YET = ("rollback",)


def commands(path: str, fence: str) -> list[str]:
    blocks = re.findall(rf"```{fence}\n(.*?)```", (ROOT / path).read_text(encoding="utf-8"), flags=re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


def test_every_job_has_its_page_and_its_sections_are_named() -> None:
    pages = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", (ROOT / "jobs/README.md").read_text(), re.M | re.S))
    assert set(pages) == set(JOB_CONFIGS)
    for job in ("rerank", "detect"):
        for name in config_of(job).model_fields:
            assert name == "name" or f"`{name}`" in pages[job], (job, name)


@pytest.mark.parametrize("command", commands("jobs/README.md", "bash"))
def test_the_commands_of_the_jobs_page_run(command: str) -> None:
    assert invoke(*command.split()[1:]).exit_code == 0


def test_the_commands_of_the_deployment_are_understood() -> None:
    found = commands("infra/README.md", "sh norun") + commands("infra/README.md", " *sh norun")
    ours = [line for line in found if line.startswith("qrbatch ")]
    assert len(ours) >= 4
    for line in ours:
        assert line.split()[1] in NOT_YET or misunderstood(line) == [], line
    for path in re.findall(r"(?<= )infra/[\w./-]+", "\n".join(found)):
        assert (ROOT / path).exists(), path
