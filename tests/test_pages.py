"""The documentation follows the code: the README's tree and jobs, the settings of every job, links between pages."""

from __future__ import annotations

import re
import shutil

import pytest

from jobs.job_configs import JOB_CONFIGS, config_of
from jobs.settings import leaves
from pipelines.prepare import recipes
from tests.pages import (
    ROOMS,
    ROOT,
    files,
    in_a_cell,
    own_settings,
    pages,
    recipe_columns,
    replaced,
    shared_settings,
    tree,
)

needs_git = pytest.mark.skipif(
    shutil.which("git") is None or not (ROOT / ".git").exists(), reason="not a git checkout: its files are not known"
)


@needs_git
def test_the_pages_are_those_of_the_code() -> None:
    for page, content in pages().items():
        assert page.read_text(encoding="utf-8") == content, f"{page.name} is old: run make pages"


@needs_git
@pytest.mark.parametrize("room", ROOMS)
def test_the_tree_has_a_line_for_every_file(room: str) -> None:
    lines = dict(re.split(r"  +", line, maxsplit=1) for line in tree(room))
    assert all(lines.values())
    named = [pattern for pattern in lines if not pattern.endswith(".py")]
    for path in files(room):
        if path.endswith(".py") and path not in lines:
            assert any(path.startswith(pattern.removesuffix("*")) for pattern in named), path
    assert len(lines) == len(set(lines))
    for place in lines:
        assert list(ROOT.glob(place)), place


def test_every_setting_of_every_job_stands_in_its_table_or_in_that_of_all() -> None:
    shared = shared_settings()
    for job in JOB_CONFIGS:
        own = own_settings(job)
        for name, field in leaves(config_of(job)).items():
            line = next(one for one in (own + "\n" + shared).splitlines() if one.startswith(f"| `{name}` |"))
            assert line.endswith(f"| {in_a_cell(str(field.description))} |")
    assert "<" not in shared
    assert "| `actors.count` | `2` |  |  | Number of scoring actors. |" in shared
    assert "| `scoring.null_query` | `N/A` |  | yes |" in shared
    assert "| `contexts.policy` | `error` |" in own_settings("rerank")
    assert "| `contexts.policy` | `tournament` |" in own_settings("select")


def test_the_columns_of_every_recipe_are_told() -> None:
    told = recipe_columns()
    assert "| `qmsum` | `meeting_id`: text; without it the file and the row are the name;" in told
    assert [line.split("`")[1] for line in told.splitlines()[2:]] == recipes.names()


def test_a_page_without_its_marks_is_a_mistake() -> None:
    assert replaced("a\n<!-- x -->\nold\n<!-- /x -->\nb", "x", "new\\1") == "a\n<!-- x -->\nnew\\1\n<!-- /x -->\nb"
    with pytest.raises(ValueError, match="expected <!-- y -->"):
        replaced("nothing", "y", "new")


def test_the_readme_tells_every_job() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.split("\n## Jobs\n")[1].split("\n## ")[0]
    assert re.findall(r"^\| `([\w-]+)` \|", section, re.M) == list(JOB_CONFIGS)


@pytest.mark.parametrize("page", ["README.md", "jobs/README.md", "infra/README.md"])
def test_links_between_pages_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("http")]
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.M) if anchor else []
        slugs = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
        assert not anchor or anchor in slugs, link
