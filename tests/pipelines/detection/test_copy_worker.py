"""Copying heads on rows of needle trials: what the actor says is what the method says of the same trial."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipelines.detection.causal import CHOSEN, INTACT, mask_sets
from pipelines.detection.choice import Choice
from pipelines.detection.copy_worker import CopyValueWorker
from pipelines.detection.copying import COPY, COPY_CONDITIONAL, CopySettings
from pipelines.detection.found import Examples, find
from pipelines.detection.needle_rows import Needle, TrialMaker
from pipelines.detection.rows import HEAD_VALUES_SCHEMA
from pipelines.detection.trials import TrialSettings, TrialWorker
from pipelines.detection.worker import DetectorSettings, HeadValueWorker
from pipelines.labels import Qrels
from pipelines.needle_shards import TRIAL_ROWS_SCHEMA, trial_row
from pipelines.rows import request_from_row
from pipelines.scorers import ScorerSettings
from pipelines.splits import part_of
from pipelines.units import UnitRows
from qrcore.causal import copy_accuracy
from qrcore.contracts.copy_detector import CopyOutcome
from qrcore.errors import ConfigError, InputError
from qrcore.heads import parse_head
from qrcore.loading import load_method, load_scorer
from qrcore.models import load_language_model, load_tokenizer, open_model
from qrcore.needles import NeedleSettings, NeedleTrial, needle_trials
from qrcore.prompts import EMBEDDED
from qrcore.tokens import PromptEncoder
from tests.qrcore.test_needles import TEXTS

MODEL = "embedded"
SCORER = ScorerSettings(model=MODEL, heads="all", device="cpu", order="as_given")
PREFIX = "[{place}] "
TEACHER_FORCED = CopySettings()


@cache
def _trials() -> tuple[NeedleTrial, ...]:
    encoder = PromptEncoder(load_tokenizer(open_model(MODEL)))
    settings = NeedleSettings(lengths=(300,), depths=(0.2, 0.8), answer_prefix=PREFIX)
    return tuple(needle_trials(TEXTS, encoder, EMBEDDED, settings))


def _rows() -> list[dict[str, Any]]:
    return [trial_row(one) for one in _trials()]


def _qrels() -> Qrels:
    return {row["query_id"]: {row["needle_doc_id"]: 1} for row in _rows()}


def _unit(rows: list[dict[str, Any]]) -> UnitRows:
    return UnitRows(pa.Table.from_pylist(rows, schema=TRIAL_ROWS_SCHEMA), "file.parquet", 0, frozenset())


@cache
def _worker(copying: CopySettings = TEACHER_FORCED, part: Any = None) -> CopyValueWorker:
    return CopyValueWorker(DetectorSettings(SCORER, {"qrscore": {}}, part), copying, _qrels())


def test_values_are_those_of_the_method_on_the_same_trial() -> None:
    table, metrics = _worker().answer(_unit(_rows()))
    model = load_language_model(open_model(MODEL), device="cpu")
    outcomes = load_method("copy").build().outcomes(model, [one.trial for one in _trials()])
    assert metrics.failed == 0 and table.num_rows == len(outcomes) == 6
    for row, outcome in zip(table.to_pylist(), outcomes, strict=True):
        values = {one["method"]: one["values"] for one in row["methods"]}
        assert isinstance(outcome, CopyOutcome) and outcome.success
        torch.testing.assert_close(torch.tensor(values[COPY]), outcome.values.flatten())
        assert values[COPY] == values[COPY_CONDITIONAL], "a teacher-forced answer is the needle"
    assert table["needle_doc_id"].to_pylist() == [row["needle_doc_id"] for row in _rows()]
    assert table.schema.names == [*HEAD_VALUES_SCHEMA.names, "needle_doc_id", "needle_start", "needle_end"]


def test_other_methods_read_the_same_rows_as_without_copying() -> None:
    table, _ = _worker().answer(_unit(_rows()[:2]))
    alone, _ = HeadValueWorker(DetectorSettings(SCORER, {"qrscore": {}}, None), _qrels()).answer(_unit(_rows()[:2]))
    for row, expected in zip(table.to_pylist(), alone.to_pylist(), strict=True):
        values = {one["method"]: one["values"] for one in row["methods"]}
        torch.testing.assert_close(
            torch.tensor(values["qrscore"]), torch.tensor(expected["methods"][0]["values"]), rtol=1e-4, atol=1e-6
        )
        assert row["content_sha256"] != expected["content_sha256"], "the needle's place is part of an example"


def test_what_the_model_says_decides_whether_a_decoded_trial_counts_in_the_conditional_mean() -> None:
    decode = CopySettings("decode", max_new_tokens=4)
    table, _ = _worker(decode).answer(_unit(_rows()))
    examples = Examples(open_model(MODEL).shape)
    examples.add(table)
    assert np.isnan(np.stack(examples.values[COPY_CONDITIONAL])).all(), "four tokens are no needle"
    assert not examples.says_something(COPY_CONDITIONAL) and examples.says_something(COPY)
    with pytest.raises(InputError, match="in which the model answers with the needle, got none of 6"):
        find(examples, COPY_CONDITIONAL, {}, Choice(4, None, 0))
    # One success of another model among them: the only one that counts.
    values = examples.values[COPY_CONDITIONAL]
    values[2] = np.arange(len(values[2]), dtype=float)
    found = find(examples, COPY_CONDITIONAL, {}, Choice(2, None, 0))
    assert {one.examples for one in found.scores} == {1} and found.stability is None
    assert [one.score for one in found.chosen] == [len(values[2]) - 1, len(values[2]) - 2]
    assert find(examples, COPY, {}, Choice(2, None, 0)).scores[0].examples == 6


def test_rows_of_the_other_part_are_not_tried() -> None:
    rows = _rows()
    table, _ = _worker(part="dev").answer(_unit(rows))
    kept = [row["methods"] is None for row in table.to_pylist()]
    assert kept == [part_of(row["query_id"]) == "test" for row in rows] and len(set(kept)) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"needle_doc_id": "elsewhere"}, "expected one of the candidates, got 'elsewhere'"),
        ({"needle_doc_id": None}, "got None"),
        ({"needle_start": None}, "got None to"),
        ({"needle_end": 100_000}, "to 100000"),
        ({"needle_start": 7, "needle_end": 7}, "got 7 to 7"),
        ({"needle_start": -1}, "got -1 to"),
    ],
)
def test_needles_that_are_not_there_fail_their_row(changes: dict[str, Any], message: str) -> None:
    rows = _rows()[:2]
    rows[0] |= changes
    table, metrics = _worker().answer(_unit(rows))
    broken, good = table.to_pylist()
    assert broken["error"]["code"] == "no_needle" and message in broken["error"]["message"]
    assert broken["methods"] is None and good["methods"] and metrics.failed == 1


def test_the_answer_begins_as_asked_for() -> None:
    scorer = load_scorer(MODEL, heads="all", device="cpu", depth="full")
    (row, trial) = _rows()[0], _trials()[0]
    request: Any = request_from_row({name: row[name] for name in ("query_id", "query", "candidates")})
    needle = Needle(row["needle_doc_id"], row["needle_start"], row["needle_end"])
    assert TrialMaker(scorer, SCORER, "auto")(request, needle) == trial.trial
    assert TrialMaker(scorer, SCORER, "")(request, needle).answer_prefix == ()
    named = TrialMaker(scorer, SCORER, "It is {place}: ")(request, needle).answer_prefix
    assert named == PromptEncoder(load_tokenizer(open_model(MODEL))).encode_text(f"It is {trial.place}: ")
    reversed_order = replace(SCORER, order="reversed")
    turned = TrialMaker(scorer, reversed_order, "auto")(request, needle)
    assert turned.prompt_ids != trial.trial.prompt_ids and turned.needle_ids == trial.trial.needle_ids
    with pytest.raises(ConfigError, match="depth=full"):
        TrialMaker(load_scorer(MODEL, heads="all", device="cpu"), SCORER, "auto")


def test_the_proof_masks_heads_in_rows_of_its_part() -> None:
    masks = mask_sets(["1-0", "1-1"], open_model(MODEL).shape, 2, seed=0)
    assert len(masks) == 4 and masks[INTACT] == () and masks[CHOSEN] == ("1-0", "1-1")
    settings = TrialSettings(SCORER, {"chosen": ("1-0", "1-1")}, {"as_given": ("chosen",)}, "test", masks)
    table, metrics = TrialWorker(settings, _qrels()).answer(_unit(_rows()))
    model = load_language_model(open_model(MODEL), device="cpu")
    masked = 0
    for row, trial in zip(table.to_pylist(), _trials(), strict=True):
        if part_of(row["query_id"]) == "dev":
            assert row["masked"] is None
            continue
        found = {one["masked"]: one for one in row["masked"]}
        for name, heads in masks.items():
            expected = copy_accuracy(model, trial.trial, map(parse_head, heads))
            assert found[name]["copied"] == pytest.approx(expected.copied)
            assert found[name]["answered"] is expected.answered
        masked += 1
    assert masked and metrics.failed == 0
