"""train-embedded from files to a model folder and its card: a miniature, measured, interrupted, resumed, refused."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
import yaml
from rich.console import Console
from transformers import AutoTokenizer, LlamaForCausalLM
from typer.testing import CliRunner, Result

from jobs.cli import app
from jobs.console import TrainingLines
from pipelines.storage import StorageOptions
from pipelines.training.study import EvaluationSettings, lists_hash, read_judged_sets
from qrcore import Document, load_scorer
from qrcore.heads import load_head_set
from qrcore.training.curriculum import CURRICULA, Stage
from qrcore.training.progress import Progress
from tests.pipelines.training.collection import TOPICS, ranked_rows, read
from tests.qrcore.training.texts import question_rows, texts
from tests.shards import write_shard

_TEXTS = pa.schema([(name, pa.string()) for name in ("text", "source", "licence")])
_QUESTIONS = pa.schema([(name, pa.string()) for name in ("group", "paragraph", "question", "answer_sentence")])
_HEADS = 4
_LAYERS = 3


@dataclass(frozen=True)
class _Folder:
    """Where a training's files lie."""

    root: Path

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def log(self) -> Path:
        return self.root / "readings.jsonl"

    def train(self, *more: str) -> Result:
        arguments = ("train-embedded", "--config", str(self.root / "train.yaml"), *more)
        return CliRunner().invoke(app, arguments, env={"COLUMNS": "200"}, catch_exceptions=False)

    def findings(self) -> dict[str, float]:
        return {str(path): path.stat().st_mtime for path in (self.root / "work").rglob("findings-*.json")}


def _write_inputs(root: Path) -> _Folder:
    shown = [{"text": text, "source": "ours/invented", "licence": "CC0"} for text in texts(60)]
    write_shard(root / "text" / "shard.parquet", shown, _TEXTS)
    asked = [
        {"group": q.group, "paragraph": q.paragraph, "question": q.question, "answer_sentence": q.answer_sentence}
        for q in question_rows(20, 700)
    ]
    write_shard(root / "questions.parquet", asked, _QUESTIONS)
    read(root / "lists", ranked_rows())
    config: dict[str, Any] = {
        "name": "tiny",
        "seeds": [0, 1],
        "curriculum": "miniature",
        "vocabulary": 600,
        "input": {
            "texts": [str(root / "text")],
            "questions": [str(root / "questions.parquet")],
            "question_licence": "CC0 [ours]",
        },
        "output": str(root / "model"),
        "work": str(root / "work"),
        "shape": {
            "hidden": 32, "layers": _LAYERS, "heads": _HEADS, "kv_heads": 2, "head_size": 16, "feed_forward": 48,
            "max_positions": 1024,
        },
        "teaching": {"layer": 1, "heads": 2, "marking_heads": 1},
        "notes": ["It was trained for a minute."],
        "evaluation": {"lists": str(root / "lists"), "length_on": "facts", "answers_on": "facts", "top": 2,
                       "part": "test", "log": str(root / "readings.jsonl")},
    }  # fmt: skip
    (root / "train.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return _Folder(root)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[_Folder, Result]:
    folder = _write_inputs(tmp_path_factory.mktemp("training"))
    return folder, folder.train()


def test_the_command_tells_of_every_stage_of_every_seed_and_where_the_model_lies(
    trained: tuple[_Folder, Result],
) -> None:
    folder, result = trained
    assert result.exit_code == 0, result.output
    for part in ("heads", "rankings of test queries", "lengths", "causal check", "answers to dev queries"):
        assert f"· measuring seed 1: {part} …" in result.output
    for begun in ("reading judged lists", "reading text", "training the tokenizer", "building passages (60 texts, 20"):
        assert f"· {begun}" in result.output
    both = result.output[result.output.index("· training seed 0 (1 of 2)") :].split("· training seed 1 (2 of 2)")
    for lines in both:
        places = [lines.index(stage) for stage in ("done  stage", "induction-32", "retrieval-96", "100%")]
        assert places == sorted(places)
    assert str(folder.model) in result.output


def test_the_folder_holds_a_model_that_ranks(trained: tuple[_Folder, Result]) -> None:
    folder, _ = trained
    names = {path.name for path in folder.model.iterdir()}
    assert names == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "headset.json", "training.json", "MODEL_CARD.md", "training_curve.svg", "length_curve.svg",
    }  # fmt: skip
    model = LlamaForCausalLM.from_pretrained(folder.model)
    assert (model.config.num_hidden_layers, model.config.num_key_value_heads) == (_LAYERS, 2)
    assert model.dtype == torch.float16
    assert AutoTokenizer.from_pretrained(folder.model).model_max_length == 1024
    heads = str(folder.model / "headset.json")
    assert len(load_head_set(heads).head_list) == 2
    scorer = load_scorer(str(folder.model), heads)
    documents = [Document(doc_id=str(n), title=topic[0], text=topic[1]) for n, topic in enumerate(TOPICS[:3])]
    assert len(set(scorer.score("Who rules a hive of bees?", documents))) == 3


def test_the_report_says_what_was_trained_on_and_how(trained: tuple[_Folder, Result]) -> None:
    folder, _ = trained
    report = json.loads((folder.model / "training.json").read_text(encoding="utf-8"))
    assert [run["seed"] for run in report["seeds"]] == [0, 1]
    stages = report["seeds"][0]["stages"]
    assert [stage["stage"] for stage in stages] == ["induction-32", "retrieval-96"]
    assert stages[0]["tokens"] >= 60_000
    assert stages[1]["tokens"] >= stages[0]["tokens"] + 30_000
    assert stages[1]["head_accuracy"] > 0
    curve = report["seeds"][0]["curve"]
    assert len(curve["loss"]) == len(curve["tokens"]) > 3
    assert curve["tokens"] == sorted(curve["tokens"]) and curve["tokens"][-1] == stages[-1]["tokens"]
    assert report["settings"]["taught"]["marking_heads"] == 1
    assert report["shipped_seed"] in (0, 1)
    assert f"(seed {report['shipped_seed']};" in trained[1].output
    sets = read_judged_sets(EvaluationSettings(str(folder.root / "lists")), StorageOptions())
    assert report["data"]["lists_sha256"] == lists_hash(sets)
    assert 15 <= report["data"]["questions"] <= 20
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.root.rglob("*.parquet")}
    files = {file["name"]: file["sha256"] for file in report["data"]["files"]}
    assert files == {name: digests[name] for name in ("shard.parquet", "questions.parquet")}


def test_nothing_in_the_folder_names_a_path_of_the_machine(trained: tuple[_Folder, Result]) -> None:
    folder, _ = trained
    for path in folder.model.iterdir():
        assert str(folder.root).encode() not in path.read_bytes(), path.name


def test_the_card_gives_licences_quality_and_the_notes(trained: tuple[_Folder, Result]) -> None:
    folder, _ = trained
    card = (folder.model / "MODEL_CARD.md").read_text(encoding="utf-8")
    for part in ("CC0 \\[ours\\]", "ours", "2 seeds were trained.", "facts", "It was trained for a minute."):
        assert part in card
    assert "On test queries: not measured." not in card
    assert "training_curve.svg" in card
    assert "length_curve.svg" in card


def test_the_better_seed_on_dev_is_shipped_and_test_readings_are_logged(trained: tuple[_Folder, Result]) -> None:
    folder, result = trained
    means = {}
    for path in map(Path, folder.findings()):
        found = json.loads(path.read_text(encoding="utf-8"))
        dev = [q["ndcg_10"]["mean"] for q in found["qualities"] if (q["part"], q["method"]) == ("dev", "heads")]
        means[found["seed"]] = sum(dev) / len(dev)
    best = max(means, key=lambda seed: (means[seed], -seed))
    assert f"(seed {best};" in result.output
    lines = [json.loads(line) for line in folder.log.read_text(encoding="utf-8").splitlines()]
    assert [one["event"] for one in lines] == ["reading", "read"] * 2
    assert [(one["model"], one["seed"]) for one in lines[1::2]] == [("tiny", 0), ("tiny", 1)]
    assert lines[1]["weights_sha256"] != lines[3]["weights_sha256"]
    assert set(lines[1]["ndcg@10"]) == {"facts"}


def test_the_same_command_again_trains_and_measures_nothing_anew(trained: tuple[_Folder, Result]) -> None:
    folder, _ = trained
    before = {path.name: path.read_bytes() for path in folder.model.iterdir()}
    findings, log = folder.findings(), folder.log.read_text(encoding="utf-8")
    assert folder.train().exit_code == 0
    assert folder.findings() == findings
    assert folder.log.read_text(encoding="utf-8") == log, "test queries are read once"
    assert {path.name: path.read_bytes() for path in folder.model.iterdir()} == before


def test_training_is_shown_in_columns_that_a_terminal_holds() -> None:
    file = io.StringIO()
    lines = TrainingLines(Console(file=file, width=80, color_system=None))
    first = Progress("induction-repeating", tokens=4_321, seconds=3.0, loss=12.345, copy_accuracy=0.0314)
    last = Progress(
        "retrieval-4096", tokens=123_456_789, seconds=36_061.0, loss=2.0, copy_accuracy=0.5, index_accuracy=0.25,
        verdict_accuracy=0.75, head_accuracy=1.0,
    )  # fmt: skip
    lines.phase("training seed 0 (1 of 2)")
    for progress, share in ((first, 0.0), (first, 0.001), (last, 0.9999), (last, 1.0)):
        lines.progress(0, progress, share)
    lines.phase("training seed 1 (2 of 2)")
    lines.progress(1, first, 0.0)
    shown = file.getvalue().splitlines()
    assert [line.split() for line in shown[1:5]] == [
        ["done", "stage", "tokens", "time", "loss", "copy", "index", "heads", "yes/no"],
        ["0%", "induction-repeating", "0.00M", "0:00:03", "12.35", "0.031", "–", "–", "–"],
        ["99%", "retrieval-4096", "123.46M", "10:01:01", "2.00", "0.500", "0.250", "1.000", "0.750"],
        ["100%", "retrieval-4096", "123.46M", "10:01:01", "2.00", "0.500", "0.250", "1.000", "0.750"],
    ]
    assert shown[0] == "· training seed 0 (1 of 2) …"
    assert shown[5:7] == ["· training seed 1 (2 of 2) …", shown[1]]
    assert len({len(line) for line in shown[1:5]}) == 1
    assert max(map(len, shown)) <= 80


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("teaching.layer=3", "expected a layer below 3, got 3"),
        ("teaching.heads=4", "expected at most 4 heads in a layer"),
        ("evaluation.length_on=fictions", "expected names of facts; got fictions"),
        ("evaluation.log=null", "expected a local file to which readings"),
        ("evaluation.log=s3://bucket/log", "expected a local file to which readings"),
        ("evaluation.top=5", "expected 1 to 4 heads"),
        ("shape.kv_head=2", "kv_heads"),
        ("shape.kv_heads=3", "expected a divisor of heads (4), got 3"),
        ("seeds=[0, 0]", "expected different numbers"),
        ("name=my model", "got 'my model'"),
        ("device=cuda:99", "cuda:99"),
        ("input.texts=[/nowhere/text.parquet]", "/nowhere/text.parquet"),
    ],
)
def test_mistakes_are_named_before_anything_is_trained(
    trained: tuple[_Folder, Result], assignment: str, message: str, tmp_path: Path
) -> None:
    folder, _ = trained
    work = tmp_path / "work"
    result = folder.train("--set", f"work={work}", "--set", assignment)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
    assert not list(work.rglob("checkpoint.pt"))


def test_texts_without_the_column_are_refused(trained: tuple[_Folder, Result], tmp_path: Path) -> None:
    folder, _ = trained
    wrong = write_shard(tmp_path / "wrong.parquet", [{"body": "no text here"}], pa.schema([("body", pa.string())]))
    result = folder.train("--set", f"work={tmp_path / 'work'}", "--set", f"input.texts=[{wrong}]")
    assert result.exit_code == 2
    assert "wrong.parquet" in result.output
    assert "text" in result.output


def test_a_model_that_does_not_learn_is_told_as_such_and_leaves_other_ones_alone(
    trained: tuple[_Folder, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = trained
    before = {path: path.read_bytes() for path in (folder.root / "work").rglob("*.pt")}
    assert len(before) == 2
    stage = Stage("induction", "induction", (24, 32), 2_000, 1024, (1e-4, 1e-4), gate=0.99, max_tokens=3_000)
    monkeypatch.setitem(CURRICULA, "miniature", (stage,))
    result = folder.train()
    assert result.exit_code == 2
    assert "stage induction: expected copy accuracy above 0.99" in result.output
    assert "Try another seed (seeds=[…])" in result.output
    assert {path: path.read_bytes() for path in (folder.root / "work").rglob("*.pt")} == before


def test_an_interrupted_training_goes_on_where_it_stood_and_ends_with_the_same_model(
    trained: tuple[_Folder, Result], tmp_path: Path
) -> None:
    folder, _ = trained
    chosen = {"work": tmp_path / "work", "output": tmp_path / "model", "seeds": [0], "save_every_s": 0.2}
    # Tokenizers trained twice need not be the same: among pieces that are equally frequent, chance decides.
    (tokenizer,) = (folder.root / "work").glob("tokenizer-*")
    shutil.copytree(tokenizer, tmp_path / "work" / tokenizer.name)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "length_curve.svg").write_text("of an earlier model", encoding="utf-8")
    more = [f"--set={key}={value}" for key, value in {**chosen, "evaluation.lists": "null"}.items()]
    steps, said, code = _interrupted_after_a_checkpoint(folder, more, tmp_path / "work")
    assert code == 4
    assert "interrupted" in said
    assert not (tmp_path / "model" / "model.safetensors").exists()
    again = folder.train(*more)
    assert again.exit_code == 0, again.output
    (begun,) = re.findall(r"training seed 0 \(1 of 1\), from its checkpoint at step (\d+) on", again.output)
    assert int(begun) >= steps > 0
    (never_stopped,) = (folder.root / "work").glob("tiny-seed-0-*/model/model.safetensors")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == never_stopped.read_bytes()
    _holds_the_taught_heads(tmp_path / "model")


def _interrupted_after_a_checkpoint(folder: _Folder, more: list[str], work: Path) -> tuple[int, str, int]:
    """Steps of a checkpoint that was there, what was printed, the exit code."""
    command = [sys.executable, "-m", "jobs", "train-embedded", "--config", str(folder.root / "train.yaml"), *more]
    run = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "COLUMNS": "200"}
    )
    try:
        while run.poll() is None and not list(work.rglob("checkpoint.pt")):
            time.sleep(0.02)
        (checkpoint,) = work.rglob("checkpoint.pt")
        steps = torch.load(checkpoint, weights_only=True)["progress"]["steps"]
        run.send_signal(signal.SIGTERM)
        said, _ = run.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            run.kill()
    return steps, said, run.returncode


def _holds_the_taught_heads(model: Path) -> None:
    """Nothing was measured: what was taught is the best guess, and is enough to rank with."""
    heads = load_head_set(str(model / "headset.json"))
    assert (heads.name, heads.heads, heads.method, heads.scores) == ("tiny", ("1-0", "1-1"), "taught", None)
    documents = [Document(doc_id=str(n), title=topic[0], text=topic[1]) for n, topic in enumerate(TOPICS[:3])]
    assert len(load_scorer(str(model)).score("Who rules a hive of bees?", documents)) == 3
    assert not (model / "length_curve.svg").exists()
    card = (model / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "112 tokens" in card, "as long as the longest sample, not as the 1,024 positions"
