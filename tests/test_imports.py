"""Importing does nothing, and the rooms keep their borders at run time too."""

from __future__ import annotations

import ast
import json
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
METHODS: Final = sorted(path for path in (ROOT / "qrcore" / "methods").glob("*.py") if path.stem != "__init__")

_BLOCK: Final = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None
"""
_IMPORT_EACH_ALONE: Final = """
import importlib
for name in {modules!r}:
    for loaded in [m for m in sys.modules if m.split(".")[0] in ("qrcore", "pipelines", "jobs")]:
        del sys.modules[loaded]
    importlib.import_module(name)
"""
_STATE: Final = """
import logging, os, random, signal, torch, warnings
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.utils import logging as transformers_logging

def state():
    return [
        sorted(AttentionInterface._global_mapping), sorted(AttentionMaskInterface._global_mapping),
        transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled(),
        [repr(h) for h in logging.getLogger().handlers], logging.getLogger().level, logging.root.manager.disable,
        torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(), torch.initial_seed(),
        torch.cuda.is_initialized(), dict(os.environ), os.getcwd(), random.getstate(), warnings.filters[:],
        signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT), list(sys.path), sys.excepthook,
    ]
"""


def modules_of(package: str) -> list[str]:
    found = pkgutil.walk_packages([str(ROOT / package)], prefix=f"{package}.")
    return [package, *(module.name for module in found if not module.name.endswith("__main__"))]


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "importing prints nothing"
    return done.stdout


@pytest.mark.parametrize(
    ("package", "blocked"),
    [
        ("qrcore", ["ray", "pyarrow", "fsspec", "s3fs", "boto3", "botocore", "pipelines", "jobs", "typer", "rich"]),
        ("jobs", ["torch", "ray", "transformers"]),
    ],
)
def test_each_module_imports_alone_without_what_its_room_never_knows(package: str, blocked: list[str]) -> None:
    code = _BLOCK + _IMPORT_EACH_ALONE + "print(len({modules!r}))"
    assert int(run(code.format(blocked=blocked, modules=modules_of(package)))) == len(modules_of(package))


def test_importing_changes_nothing() -> None:
    """Third-party packages come first: what they do on import is not ours."""
    modules = modules_of("qrcore")
    third_party = "import sys, pydantic, safetensors.torch, tokenizers, transformers\n" + _STATE
    touch = "\nfrom transformers import AutoConfig, AutoModel, AutoTokenizer, LlamaConfig, LlamaForCausalLM\n"
    rest = "\nbefore = state()\n" + _IMPORT_EACH_ALONE.format(modules=modules) + "\nassert state() == before\n"
    run(third_party + touch + rest)


def test_the_records_and_errors_come_without_torch() -> None:
    names = ["Document", "RankRequest", "Ranking", "RankedDocument", "QRBatchError", "ScoreError"]
    code = _BLOCK.format(blocked=["torch", "transformers"]) + f"import qrcore\n[getattr(qrcore, n) for n in {names!r}]"
    run(code)


def test_drivers_and_workers_without_a_model_need_no_torch() -> None:
    names = ["pipelines.run", "pipelines.side_files", "pipelines.rerank", "pipelines.prepare.run", "tests.stubs"]
    run(_BLOCK.format(blocked=["torch", "transformers"]) + _IMPORT_EACH_ALONE.format(modules=names))


def test_every_public_name_can_be_reached() -> None:
    code = "import json, qrcore\nprint(json.dumps([n for n in qrcore.__all__ if getattr(qrcore, n) is not None]))"
    assert {"load_scorer", "Document", "HeadSet", "Ranking", "ScoreError"} <= set(json.loads(run(code)))


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_methods_do_not_import_each_other(path: Path) -> None:
    siblings = {f"qrcore.methods.{other.stem}" for other in METHODS if other != path}
    assert not imported_names(path, package="qrcore.methods") & {*siblings, "qrcore.methods"}


def test_the_search_for_imports_sees_every_form(tmp_path: Path) -> None:
    file = tmp_path / "method.py"
    file.write_text(
        "import qrcore.methods.a\nfrom qrcore.methods import b\nfrom qrcore.methods.c import x\nfrom . import d\n"
        "from .e import y\ndef f():\n    from qrcore.methods.g import z\n",
        encoding="utf-8",
    )
    found = imported_names(file, package="qrcore.methods")
    assert {f"qrcore.methods.{name}" for name in "abcdeg"} <= found


def imported_names(path: Path, package: str) -> set[str]:
    """Every module name that ``path`` imports, at the top or inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, [package if node.level else "", node.module]))
            names |= {f"{base}.{alias.name}" for alias in node.names}
            names |= {base} if node.module else set()
    return names
