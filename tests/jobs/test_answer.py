"""What answer prints, and how its settings come from files and flags."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from jobs import answer
from jobs.answer_config import AnswerConfig
from jobs.settings import validate
from pipelines import answer_files
from pipelines.answers.settings import CafeOptions
from qrcore.errors import ConfigError
from tests.jobs.test_cli import invoke
from tests.pipelines.answers.samples import cafe_rows, report_of
from tests.pipelines.answers.test_report import QRELS


def config_of(**changes: Any) -> AnswerConfig:
    return validate(AnswerConfig, {"input": {"uri": "in"}, "output": {"uri": "out"}, **changes})


def test_every_variant_is_a_line_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    report = report_of(cafe_rows(12), qrels=QRELS).model_dump(mode="json")
    monkeypatch.setattr(answer_files, "read_report", lambda result, options: report)
    printed = io.StringIO()
    answer.show_answers(Console(file=printed, width=160), None, config_of())  # type: ignore[arg-type]
    lines = printed.getvalue().splitlines()
    table = {line.split()[0]: line.split()[1:] for line in lines if line.split()[0] in ("cafe", "full", "oracle")}
    assert table["cafe"] == ["10", "0.000", "0.700", "0.467", "0.500", "0.500"]
    assert table["full"][-2:] == ["1.000", "—"] and table["oracle"][0] == "9"
    assert any("left out: 1 queries" in line for line in lines)


def test_settings_become_those_of_the_pipeline(tmp_path: Path) -> None:
    heads = tmp_path / "heads.json"
    heads.write_text("{}")
    template = tmp_path / "judge.txt"
    template.write_text("{{ answer }}?")
    given = config_of(
        method="cafe",
        cafe={"fine_heads": str(heads), "delta": 1.5, "on_mismatch": "warn"},
        judge={"model": "embedded", "template": f"@{template}"},
        engine={"kind": "vllm", "arguments": {"b": 1, "a": 2}},
        baselines=["full"],
    )
    settings = answer.pipeline_settings(given)
    cafe = settings.cafe
    assert isinstance(cafe, CafeOptions) and (cafe.coarse_heads, cafe.fine_heads) == (None, str(heads.absolute()))
    assert cafe.on_mismatch == "warn" and dict(cafe.settings)["delta"] == 1.5
    assert settings.judge is not None and settings.judge.template == "{{ answer }}?"
    assert settings.vllm is not None and settings.vllm.arguments == (("a", 2), ("b", 1))
    assert settings.baselines == ("full",)
    plain = answer.pipeline_settings(config_of())
    assert (plain.cafe, plain.judge, plain.vllm, plain.baselines) == (None, None, None, None)
    with pytest.raises(ConfigError, match=r"judge\.template: expected a readable file"):
        answer.pipeline_settings(config_of(judge={"model": "m", "template": "@nowhere"}))


def test_what_is_wrong_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    base = ("answer", "--input", str(tmp_path), "--output", str(tmp_path / "out"))
    refused: dict[tuple[str, ...], str] = {
        ("--method", "best"): "method",
        ("--baseline", "filter"): "baselines: expected bundle, full, oracle",
        ("--method", "cafe", "--style", "plain"): "cafe reads attention in the model's retrieval prompt",
    }
    if importlib.util.find_spec("vllm") is None:
        refused["--engine", "vllm"] = "vLLM, which is not installed"
    for flags, said in refused.items():
        run = invoke(*base, *flags)
        assert run.exit_code == 2, run.output
        assert said in " ".join(run.output.split()), run.output
