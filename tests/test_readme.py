"""Every command block of the README is run, so that the README stays true.

Commands of ours run in this process, over one Ray for all of them; the demo runs as a user would run it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import s3fs
from typer.testing import CliRunner, Result

from jobs.cli import app
from pipelines.schemas import QRELS_SCHEMA
from tests.qrcore.training.texts import texts
from tests.services import SECRET
from tests.shards import MODEL, row, write_shard

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    joined = "\n".join(blocks("bash")).replace("\\\n", " ")
    return [line.split("  #")[0].strip() for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env={**os.environ, "PATH": path, "COLUMNS": "160", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def qrbatch(command: str, folder: Path) -> Result:
    """A command of ours as a shell in ``folder`` would start it."""
    program, *words = shlex.split(command)
    assert program == "qrbatch"
    with contextlib.chdir(folder):
        arguments = (
            [found for word in words for found in sorted(map(str, Path().glob(word))) or [word]]
            if "*" in command
            else words
        )
        return CliRunner().invoke(app, arguments, env={"COLUMNS": "160"}, catch_exceptions=False)


def test_every_command_is_covered_by_a_test_of_this_file() -> None:
    patterns = (
        r"^make (demo|test|check|study|train)$",
        r"^qrbatch rerank --config",
        r"^qrbatch rerank .*s3://",
        r"^qrbatch rerank .*--model ./my-model",
        r"^export AWS_",
        r"^qrbatch train-embedded",
        r"^qrbatch heads (list|compare|validate) ?",
        r"^qrbatch detect ",
        r"^qrbatch needles ",
        r"^qrbatch influence --demo ",
        r"^qrbatch (plan|status|verify|clean|rollback) ",
        r"^qrbatch (prepare|select|answer|evaluate|compare) ",
        r"^qrbatch rerank --input prepared/",
    )
    for command in commands():
        assert any(re.search(pattern, command) for pattern in patterns), command


def test_make_targets_exist() -> None:
    for command in commands():
        if command.startswith("make "):
            run = shell(f"{command} --dry-run", ROOT)
            assert run.returncode == 0, run.stderr


def test_the_python_example_runs_and_prints_what_it_says(tmp_path: Path) -> None:
    (example,) = blocks("python")
    (tmp_path / "example.py").write_text(example)
    run = shell(f"{sys.executable} example.py", tmp_path)
    assert run.returncode == 0, run.stderr
    expected = [line.split("# ", 1)[1] for line in example.splitlines() if line.startswith("print(") and "# " in line]
    assert expected
    assert run.stdout.splitlines() == expected


@pytest.mark.usefixtures("local_ray")
def test_the_configuration_runs_as_written(tmp_path: Path) -> None:
    (config,) = blocks("yaml")
    (tmp_path / "nightly.yaml").write_text(config)
    write_shard(tmp_path / "shards" / "1.parquet", [row("a"), row("b")])
    write_shard(tmp_path / "shards" / "2.parquet", [row("c", query=None)])
    first, again = [c for c in commands() if c.startswith("qrbatch rerank --config")]
    (planned,) = [c for c in commands() if c.startswith("qrbatch plan")]
    run = qrbatch(planned, tmp_path)
    assert run.exit_code == 0, run.output
    assert "2 files, 3 rows in 2 units" in run.output
    assert "MiB  weights" in run.output and "MiB for each of 2 actors" in run.output
    run = qrbatch(first, tmp_path)
    assert run.exit_code == 3, run.output
    (manifest,) = (tmp_path / "runs").glob("nightly-*/_manifest.json")
    folder = manifest.parent
    expected = {"status": "rows 3/3", "verify": "3 rows = 2 scored + 1 failed", "clean": "mark of an attempt"}
    expected |= {"rollback": f"points at {folder.name}"}
    for name, text in expected.items():
        (command,) = [c for c in commands() if c.startswith(f"qrbatch {name} ")]
        run = qrbatch(command.replace("RUN_ID", folder.name).replace("RUN", f"runs/{folder.name}"), tmp_path)
        assert run.exit_code == 0, run.output
        assert text in run.output
    run = qrbatch(again.replace("RUN", f"runs/{folder.name}"), tmp_path)
    assert run.exit_code == 3, run.output
    assert "1 rows = 0 scored + 1 failed" in run.output


@pytest.mark.usefixtures("local_ray")
def test_the_example_with_another_model_runs(tmp_path: Path) -> None:
    shutil.copytree(MODEL, tmp_path / "my-model")
    write_shard(tmp_path / "shards" / "1.parquet", [row("a"), row("b")])
    (command,) = [c for c in commands() if c.startswith("qrbatch rerank") and "./my-model" in c]
    run = qrbatch(command, tmp_path)
    assert run.exit_code == 0, run.output
    assert list((tmp_path / "runs").glob("rerank-*/_manifest.json"))


def test_the_examples_about_head_sets_run(tmp_path: Path) -> None:
    shutil.copytree(MODEL, tmp_path / "my-model")
    (tmp_path / "heads.json").write_text('{"name": "mine", "heads": ["1-0"]}')
    for command in [c for c in commands() if c.startswith("qrbatch heads")]:
        run = qrbatch(command, tmp_path)
        assert run.exit_code == 0, run.output
        assert "llama" in run.output or "fits ./my-model" in run.output


@pytest.mark.usefixtures("local_ray")
def test_the_detection_example_runs(tmp_path: Path) -> None:
    shutil.copytree(MODEL, tmp_path / "my-model")
    names = [f"q{number}" for number in range(12)]
    write_shard(tmp_path / "shards" / "1.parquet", [row(name) for name in names])
    judged = [{"query_id": name, "doc_id": "d1", "relevance": 1} for name in names]
    write_shard(tmp_path / "qrels.parquet", judged, QRELS_SCHEMA)
    (command,) = [c for c in commands() if c.startswith("qrbatch detect") and "./my-model" in c]
    run = qrbatch(command, tmp_path)
    assert run.exit_code == 0, run.output
    for found in (
        "detect-*/commit/*/headset.json",
        "detect-*/commit/*/head_scores.parquet",
        "detect-proof-*/_manifest.json",
    ):
        assert list((tmp_path / "heads").glob(found)), found


@pytest.mark.usefixtures("local_ray")
def test_the_examples_about_copying_heads_run(tmp_path: Path) -> None:
    rows = [{"text": " ".join(texts(400)[start::8])} for start in range(8)]
    write_shard(tmp_path / "texts" / "1.parquet", rows, pa.schema([("text", pa.string())]))
    for command in [c for c in commands() if re.search(r"^qrbatch needles|--method (copy|key_value)", c)]:
        run = qrbatch(command, tmp_path)
        assert run.exit_code == 0, run.output
    assert (tmp_path / "needles" / "qrels.parquet").exists()
    assert "needle tokens right: intact" in run.output and "20 control sets" in run.output
    assert list((tmp_path / "heads").glob("detect-*/commit/*/headset.json"))
    (by_key,) = (tmp_path / "heads").glob("by-key-[0-9a-f]*/commit/*/headset.json")
    assert "fewer than 20" in by_key.read_text(encoding="utf-8")


@pytest.mark.usefixtures("local_ray")
def test_the_influence_demo_says_what_it_found(tmp_path: Path) -> None:
    (command,) = [c for c in commands() if c.startswith("qrbatch influence --demo")]
    run = qrbatch(command, tmp_path)
    assert run.exit_code == 0, run.output
    for said in ("12 pairs of documents", "copied - plain", "of 20 sets of other heads", "AUC", "without masks"):
        assert said in run.output, run.output
    report = json.loads(next((tmp_path / "demo-influence").glob("*/commit/*/report.json")).read_text())
    assert report["result"] == {"rows": 24, "scored": 24, "failed": 0}
    assert report["provenance"]["settings"]["control_layers"] == "same_or_later"
    gap = float(re.findall(r"copied - plain: ([+-][\d.]+)", run.output)[0])
    assert gap > 0 and "above that of" in run.output


@pytest.mark.usefixtures("local_ray")
def test_the_examples_about_long_contexts_run_one_after_the_other(tmp_path: Path) -> None:
    text = "The bridge was built in spring.\n\nSalt is sold at the market.\n\nBees make honey.\n"
    book = {"document_id": "b", "text": text, "query_id": "q", "query": "Who makes honey?"}
    (tmp_path / "books.jsonl").write_text(json.dumps(book) + "\n")
    (tmp_path / "judged.tsv").write_text("query-id\tcorpus-id\tscore\nq\tb/3\t1\n")
    (tmp_path / "gold.jsonl").write_text('{"query_id": "q", "answers": ["Bees"]}\n')
    (tmp_path / "other.run").write_text("q Q0 b/1 1 2 t\nq Q0 b/3 2 1 t\n")
    jobs = ("prepare", "select", "answer", "evaluate", "compare", "rerank --input prepared/")
    for command in [c for c in commands() if c.startswith(tuple(f"qrbatch {job}" for job in jobs))]:
        run = qrbatch(command, tmp_path)
        assert run.exit_code == 0, run.output
    for found in (
        "prepared/books-*/_manifest.json",
        "ranked/books-*/_manifest.json",
        "bundles/books-*/commit/*/chat.jsonl",
        "bundles/at-once-*/commit/*/chat.jsonl",
        "answers/answer-*/commit/*/report.html",
        "answers/cafe-*/commit/*/report.html",
        "measured/trec/qrels.txt",
        "measured-bundles/evaluation.json",
        "compared/compare.html",
    ):
        assert list(tmp_path.glob(found)), found


def test_the_training_example_runs(tmp_path: Path) -> None:
    rows = [{"text": text} for text in texts(200)]
    write_shard(tmp_path / "texts" / "1.parquet", rows, pa.schema([("text", pa.string())]))
    (command,) = [c for c in commands() if c.startswith("qrbatch train-embedded")]
    run = shell(command, tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert (tmp_path / "my-retriever" / "MODEL_CARD.md").exists()
    assert "induction-32" in run.stdout


@pytest.mark.usefixtures("local_ray")
def test_the_s3_example_runs_against_an_s3_api(tmp_path: Path, s3_environment: str) -> None:
    (command,) = [c for c in commands() if c.startswith("qrbatch rerank") and "s3://" in c]
    bucket = re.findall(r"s3://([^/ ]+)", command)[0]
    s3 = s3fs.S3FileSystem(key="test", secret=SECRET, endpoint_url=s3_environment, skip_instance_cache=True)
    s3.mkdir(bucket)
    source = re.findall(r"--input (\S+)", command)[0]
    s3.put_file(str(write_shard(tmp_path / "1.parquet", [row("a")])), f"{source}/1.parquet")
    exports = [c for c in commands() if c.startswith("export AWS_ENDPOINT_URL")]
    assert exports  # which the fixture sets to where the tests' own API is
    run = qrbatch(command, tmp_path)
    assert run.exit_code == 0, run.output
    assert [path for path in s3.find(bucket) if path.endswith("_manifest.json")]


def test_make_demo_commits_and_prints_its_table(tmp_path: Path) -> None:
    run = shell("make demo", ROOT, DEMO_OUTPUT=str(tmp_path / "demo"), PYTEST_CURRENT_TEST="")
    assert run.returncode == 0, run.stdout + run.stderr
    for text in ("nDCG@10", "recall@1", "recall@5", "re-ranked", "fused", "0 failed", "report.html"):
        assert text in run.stdout
    assert list((tmp_path / "demo" / "runs").glob("python-docs-*/_manifest.json"))


@pytest.mark.parametrize("room", ["qrcore", "pipelines", "jobs", "tests", "infra"])
def test_the_tree_of_the_readme_names_what_is_there(room: str) -> None:
    named = set(re.findall(rf"^({room}/[\w/.*-]+) ", README, flags=re.MULTILINE))
    assert named, room
    for path in named:
        assert list(ROOT.glob(path.rstrip("/"))), path
