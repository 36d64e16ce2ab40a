"""Settings of the jobs around contexts are marked, and their mistakes said before anything is loaded."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from jobs.cli import app
from jobs.evaluate import EvaluateConfig
from jobs.prepare import PrepareConfig
from jobs.select import SelectConfig, pipeline_settings


@pytest.mark.parametrize("config", [PrepareConfig, SelectConfig, EvaluateConfig])
def test_every_setting_says_whether_it_affects_the_output(config: type[BaseModel]) -> None:
    for name, field in _leaves(config):
        assert isinstance(field.json_schema_extra["affects_output"], bool), name
        assert field.description and field.description.endswith("."), name


def _leaves(kind: type[BaseModel]) -> list[tuple[str, Any]]:
    found = []
    for name, field in kind.model_fields.items():
        below = field.annotation
        nested = isinstance(below, type) and issubclass(below, BaseModel)
        found += _leaves(below) if nested else [(name, field)]
    return found


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prepare"], "recipe: expected a value, got none. Give it with --recipe"),
        (["prepare", "--recipe", "x", "--input", "a", "--output", "b"], "recipe: expected one of beir"),
        (["select", "--input", "a", "--output", "b"], "needs a budget, got none"),
        (["evaluate", "--input", "a"], "qrels: expected a value, got none. Give it with --qrels"),
        (["compare", "a", "b", "--qrels", "gone.tsv", "--output", "o"], "gone.tsv: expected"),
        (["compare", "a", "--qrels", "q", "--output", "o"], "runs: expected two runs, got ['a']"),
        (["compare", "--set", "runs=[a, b]", "--qrels", "gone.tsv", "--output", "o"], "gone.tsv: expected"),
        (["compare"], "runs: expected a value, got none. Give it with RUN_A RUN_B or in the file."),
    ],
)
def test_mistakes_are_one_screen_and_code_2(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())


def test_the_limits_of_a_run_hold_for_selecting_too() -> None:
    config = SelectConfig.model_validate(
        {
            "input": {"uri": "a"},
            "output": {"uri": "b"},
            "policy": {"name": "top_k"},
            "units": {"max_row_bytes": 5, "max_error_rate": 0.5, "max_killer_rows": 3},
            "actors": {"start_timeout_s": 7.0},
        }
    )
    run = pipeline_settings(config).run
    assert (run.row_bytes, run.max_error_rate, run.max_killer_rows, run.start_timeout_s) == (5, 0.5, 3, 7.0)
