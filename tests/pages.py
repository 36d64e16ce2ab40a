"""Parts of the documentation that follow from the code: ``python -m tests.pages`` writes them anew (make pages).

The README's tree of files tells each module by the first line of its docstring; the jobs' pages list every setting, and
every column that a recipe reads.
"""

from __future__ import annotations

import ast
import fnmatch
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic.fields import FieldInfo

from jobs.job_configs import JOB_CONFIGS, config_of
from jobs.settings import Section, fact, leaves, section_of
from pipelines.prepare import recipes

ROOT: Final = Path(__file__).parent.parent
ROOMS: Final = ("qrcore", "pipelines", "jobs", "tests", "infra")
#: Files that cannot tell of themselves; the first pattern that fits counts, and a pattern of several is one line.
TOLD: Final = {
    "qrcore/headsets/*.json": "published head sets: QRHead's and CoRe's",
    "qrcore/embedded/*": "the embedded model: weights, tokenizer, head set, model card",
    "qrcore/embedded_gqa/*": "the second one: grouped heads, six layers (embedded-gqa)",
    "pipelines/report/page.html.j2": "the frame and the style of every page",
    "pipelines/report/macros.html.j2": "pieces that several pages share",
    "pipelines/report/report.html.j2": "the page of a re-ranking run",
    "pipelines/report/select.html.j2": "the page of a run of select",
    "pipelines/report/answer.html.j2": "the page of a run of answer",
    "pipelines/report/influence.html.j2": "the page of scored documents",
    "pipelines/report/contrast.html.j2": "the page of contrasted answers",
    "pipelines/report/flips.html.j2": "the page of an audit of second thoughts",
    "pipelines/report/prepare.html.j2": "the page of a run of prepare",
    "pipelines/report/detection.html.j2": "the page of a head set that was found",
    "pipelines/report/proof.html.j2": "the page of its proof",
    "pipelines/report/*.j2": "a page or a part of one",
    "pipelines/training/model_card.md.j2": "the model card",
    "tests/data/demo.svg": "the picture of the README, drawn by make picture",
    "tests/data/python_docs_questions.jsonl": "the demo's questions with their judged answers",
    "tests/data/facts.parquet": "32 questions about no real place, with what answers them, for demos",
    "tests/data/golden/*": "numbers of the published code, and the tiny models that they were made with",
    "tests/data/*": "small data of our own",
    "tests/benchmarks/results/*": "what was measured, by the benchmark of the same name",
    "infra/README.md": "from zero to a nightly job",
    "infra/Dockerfile": "two images: cpu and cuda",
    "infra/Dockerfile.dockerignore": "what a build may see",
    "infra/constraints-oldest.txt": "exact versions of the oldest environment that qrcore is tested in",
    "infra/constraints.txt": "exact versions of every install, image or venv; written by make lock",
    "infra/grafana/qrbatch.json": "the dashboard of the metrics",
    "infra/policies/s3.json": "the least that a job may do in its bucket",
    "infra/demos/*.yaml": "demos of jobs on a model in the package",
    "infra/training/*.yaml": "how a model in the package was trained",
    "infra/kubernetes/base/kustomization.yaml": "the nightly job as kustomize base",
    "infra/kubernetes/base/cron-job.yaml": "starts each night",
    "infra/kubernetes/base/service-accounts.yaml": "accounts, with the cloud role of the bucket",
    "infra/kubernetes/base/disruption-budget.yaml": "keeps drains away from a head that works",
    "infra/kubernetes/base/*": "a part of the nightly job",
    "infra/kubernetes/components/gpu/*": "component: a pool of GPU workers",
    "infra/kubernetes/components/kueue/*": "component: nights wait in a queue of Kueue",
    "infra/kubernetes/components/model-volume/*": "component: models on a volume",
    "infra/kubernetes/components/spot/*": "component: workers on spot nodes, the head on demand",
    "infra/kubernetes/overlays/*": "what is applied: components put together",
    "infra/kubernetes/backfill.yaml": "nights of a range of dates, one after the other",
}


def files(room: str) -> list[str]:
    """Files of a room that are tracked or new, without the empty ones that make packages."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", room]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return sorted({path for path in listed if (ROOT / path).exists() and not path.endswith("/__init__.py")})


def tree(room: str) -> list[str]:
    """One line a file of a room; where one saying fits several files, one line for them."""
    found: dict[str, str] = {}
    for path in files(room):
        place, text = _told(path)
        found.setdefault(place, text)
    width = max(map(len, found))
    return [f"{place:{width}}  {text}" for place, text in found.items()]


def _told(path: str) -> tuple[str, str]:
    """The name of a line of the tree, and what it says."""
    for pattern, text in TOLD.items():
        if fnmatch.fnmatch(path, pattern):
            return pattern, text
    if path.endswith(".py"):
        return path, _of_docstring(path)
    if path.endswith(".md"):
        return path, (ROOT / path).read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
    raise ValueError(f"{path}: expected a line in tests/pages.py (TOLD) that tells what it is, found none")


def _of_docstring(path: str) -> str:
    text = ast.get_docstring(ast.parse((ROOT / path).read_text(encoding="utf-8")))
    if not text:
        raise ValueError(f"{path}: expected a docstring that tells what it is, found none")
    first = text.split("\n\n")[0].replace("\n", " ").replace("`", "").strip()
    return first.removesuffix(".")


def readme_tree() -> str:
    """The README's tree: a fold for each room."""
    return "\n".join(_fold(room) for room in ROOMS)


def _fold(room: str) -> str:
    lines = tree(room)
    title = f"<details><summary><code>{room}/</code>, {len(lines)} lines</summary>"
    return "\n".join([title, "", "```text", *lines, "```", "", "</details>"])


def shared_sections() -> dict[str, type[Section]]:
    """Sections that several jobs have, by their name."""
    seen: dict[tuple[str, type], set[type]] = {}
    for job in JOB_CONFIGS:
        kind = config_of(job)
        for name, field in kind.model_fields.items():
            if below := section_of(field):
                seen.setdefault((name, below), set()).add(kind)
    return {name: below for (name, below), kinds in seen.items() if len(kinds) > 1}  # type: ignore[misc]


def shared_settings() -> str:
    """The table of the sections that several jobs have."""
    rows = [row for name, kind in shared_sections().items() for row in _rows(kind, f"{name}.")]
    return _table(rows)


def own_settings(job: str) -> str:
    """The table of a job's settings without the shared sections."""
    kind, shared = config_of(job), shared_sections()
    common = [
        name for name, field in kind.model_fields.items() if (below := section_of(field)) and shared.get(name) is below
    ]
    rows = [row for row in _rows(kind, "") if not row[0].startswith(tuple(f"`{name}." for name in common))]
    return _table(rows)


def _rows(kind: type[Any], prefix: str) -> Iterator[tuple[str, ...]]:
    for name, field in leaves(kind, prefix).items():
        flag = fact(field, "flag")
        yield (
            f"`{name}`",
            _default(field),
            f"`{flag}`" if flag else "",
            "yes" if fact(field, "affects_output") else "",
            in_a_cell(str(field.description)),
        )


def recipe_columns() -> str:
    """What each recipe of prepare reads."""
    lines = []
    for name in recipes.names():
        columns = recipes.recipe(name).columns.items()
        lines.append(f"| `{name}` | {'; '.join(f'`{column}`: {in_a_cell(what)}' for column, what in columns)} |")
    return "\n".join(["| recipe | columns |", "|---|---|", *lines])


def in_a_cell(text: str) -> str:
    """Text that Markdown takes neither for the end of a cell nor for HTML."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    default = field.get_default(call_default_factory=True)
    if default is None:
        return ""
    text = yaml.safe_dump(
        list(default) if isinstance(default, tuple) else default, default_flow_style=True, width=10**6
    )
    return f"`{text.removesuffix(chr(10)).removesuffix(chr(10) + '...')}`"


def _table(rows: list[tuple[str, ...]]) -> str:
    head = ["| setting | default | flag | another run | meaning |", "|---|---|---|---|---|"]
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)])


def replaced(text: str, mark: str, content: str) -> str:
    """``text`` with ``content`` between the comments ``mark`` and ``/mark``."""
    pattern = re.compile(rf"(<!-- {re.escape(mark)} -->\n).*?(<!-- /{re.escape(mark)} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"expected <!-- {mark} --> and its end, found none")
    return pattern.sub(lambda found: f"{found[1]}{content}\n{found[2]}", text)


def pages() -> dict[Path, str]:
    """What the pages should be."""
    readme, jobs = ROOT / "README.md", ROOT / "jobs" / "README.md"
    told = replaced(jobs.read_text(encoding="utf-8"), "settings", shared_settings())
    for job in JOB_CONFIGS:
        told = replaced(told, f"settings {job}", own_settings(job))
    told = replaced(told, "recipes", recipe_columns())
    return {readme: replaced(readme.read_text(encoding="utf-8"), "tree", readme_tree()), jobs: told}


if __name__ == "__main__":
    for page, content in pages().items():
        page.write_text(content, encoding="utf-8")
