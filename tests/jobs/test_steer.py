"""Commands that mask heads: settings are marked, mistakes are said before anything is loaded, demos are complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from jobs import contrast, flips
from jobs.cli import app
from jobs.contrast import ContrastConfig
from jobs.flips import FlipsConfig
from jobs.settings import fact, flatten, leaves, merge, read_config_file, validate
from pipelines.contrast.model import TuningSettings
from tests.infra.manifests import ROOT

CONTRAST: dict[str, Any] = {"input": {"uri": "in"}, "output": {"uri": "out"}}
FLIPS: dict[str, Any] = {"input": {"uris": ["in"]}, "output": {"uri": "out"}}
DEMOS = ROOT / "infra" / "demos"


@pytest.mark.parametrize("kind", [ContrastConfig, FlipsConfig])
def test_every_setting_says_whether_it_affects_the_output(kind: Any) -> None:
    for name, field in leaves(kind).items():
        assert isinstance(fact(field, "affects_output"), bool), name
        assert field.description and field.description.endswith("."), name


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["contrast"], "input.uri: expected a value, got none. Give it with --input"),
        (["contrast", "--input", "a", "--output", "b", "--alpha", "-1"], "contrast.alpha"),
        (["contrast", "--input", "a", "--output", "b", "--set", "negatives.max_support=2"], "negatives.max_support"),
        (["contrast", "--input", "a", "--output", "b", "--set", "model.template='@gone'"], "expected a readable file"),
        (["flips"], "input.uris: expected a value, got none. Give it with --input"),
        (["flips", "--input", "a", "--output", "b", "--set", "masks.sizes=[0]"], "masks.sizes"),
        (["flips", "--input", "a", "--output", "b", "--compare", "no-such-set"], "no-such-set"),
    ],
)
def test_mistakes_are_one_screen_and_code_2(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())


def _contrast(**changes: Any) -> Any:
    return contrast.pipeline_settings(validate(ContrastConfig, merge(CONTRAST, changes)))


def test_samples_need_what_they_are_set_against() -> None:
    assert (_contrast().model.masked, _contrast().tuning) == (False, None)
    emitted = _contrast(negatives={"emit": True, "max_support": 0.5}, contrast={"plain": False})
    assert emitted.model.masked and emitted.model.plain, "the plain answer is the faithful one where there is no gold"
    assert emitted.tuning == TuningSettings(max_support=0.5)
    gold = _contrast(negatives={"emit": True, "faithful": "gold"}, contrast={"plain": False})
    assert not gold.model.plain
    assert dict(_contrast(contrast={"alpha": 0}).model.method)["alpha"] == 0.0


def test_what_decides_the_output_makes_another_run() -> None:
    affecting = flatten(validate(ContrastConfig, CONTRAST), only_affecting_output=True)
    for name in ("contrast.alpha", "mask.scope", "mask.controls", "negatives.emit", "model.heads", "input.context"):
        assert name in affecting
    affecting = flatten(validate(FlipsConfig, FLIPS), only_affecting_output=True)
    for name in ("asking.follow_ups", "asking.misleading", "masks.sizes", "masks.mode", "masks.looked_at"):
        assert name in affecting
    assert not [name for name in affecting if name.startswith(("actors", "output", "lineage"))]


def test_compared_sets_are_told_by_their_ids() -> None:
    settings = flips.pipeline_settings(validate(FlipsConfig, merge(FLIPS, {"masks": {"compare": ["1-0,2-3"]}})))
    ((name, heads),) = settings.compared.items()
    assert name.startswith("custom@") and heads == ("1-0", "2-3")
    assert settings.sizes == (5, 10, 20) and settings.model.follow_ups[0].count("{options}") == 1


def test_demos_are_configurations_over_data_that_is_there() -> None:
    one = validate(ContrastConfig, read_config_file(str(DEMOS / "contrast.yaml")))
    other = validate(FlipsConfig, read_config_file(str(DEMOS / "flips.yaml")))
    assert (one.model.id, other.model.id) == ("embedded-gqa", "embedded-gqa")
    assert other.input.uris == (one.input.uri,)
    rows = pq.read_table(ROOT / one.input.uri).to_pylist()
    assert len(rows) == 32 and len({row["query_id"] for row in rows}) == 32
    for row in rows:
        text = next(entry["text"] for entry in row["candidates"] if entry["doc_id"] == row["needle_doc_id"])
        needle = text[row["needle_start"] : row["needle_end"]]
        assert needle.endswith(".") and row["answers"][0] in needle, row["query_id"]


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(
    ("job", "run", "found"),
    [("contrast", "contrast-demo-*", "tuning.jsonl"), ("flips", "flips-demo-held-out-*", "report.html")],
)
def test_the_demos_run(job: str, run: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    arguments = [job, "--config", f"infra/demos/{job}.yaml", "--output", str(tmp_path)]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert list(tmp_path.glob(f"{run}/commit/*/{found}"))
