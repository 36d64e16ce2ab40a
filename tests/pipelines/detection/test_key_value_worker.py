"""Finding heads by the key-value task, in this process: values of trials, both means, and which of them chooses."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipelines.detect import DetectionSideFiles
from pipelines.detection.causal import CHOSEN, INTACT, mask_sets
from pipelines.detection.copying import KEY_VALUE, KEY_VALUE_CONDITIONAL, KeyValueTask
from pipelines.detection.found import Examples
from pipelines.detection.key_value_worker import KeyValueWorker
from pipelines.detection.rows import HEAD_VALUES_SCHEMA
from pipelines.detection.trials import TrialSettings, TrialWorker
from pipelines.key_value_shards import PAIR_ROWS_SCHEMA, pair_row
from pipelines.scorers import ScorerSettings
from pipelines.splits import part_of
from pipelines.units import UnitRows
from qrcore.causal import copy_accuracy
from qrcore.contracts.copy_detector import CopyOutcome, CopyTrial, PairTrial
from qrcore.heads import parse_head
from qrcore.loading import load_method
from qrcore.models import LanguageModel, load_language_model, load_tokenizer, open_model
from qrcore.tokens import PromptEncoder
from tests.qrcore.test_needles import TEXTS

MODEL = "embedded"
SCORER = ScorerSettings(model=MODEL, heads="all", device="cpu", order="as_given")
TASK = KeyValueTask(count=6, length=600)


@cache
def _method() -> Any:
    return load_method(KEY_VALUE).build(**TASK.building)


@cache
def _encoder() -> PromptEncoder:
    return PromptEncoder(load_tokenizer(open_model(MODEL)))


@cache
def _model() -> LanguageModel:
    return load_language_model(open_model(MODEL), device="cpu")


@cache
def _trials() -> tuple[PairTrial, ...]:
    return tuple(_method().trials(TEXTS, _encoder(), 4096, range(1, 7)))


def _copy_trials() -> list[CopyTrial]:
    return [_method().copy_trial(_encoder(), trial.pairs, trial.place) for trial in _trials()]


def _unit(rows: list[dict[str, Any]]) -> UnitRows:
    return UnitRows(pa.Table.from_pylist(rows, schema=PAIR_ROWS_SCHEMA), "file.parquet", 0, frozenset())


@cache
def _worker(part: Any = None) -> KeyValueWorker:
    return KeyValueWorker(SCORER, part, TASK)


def _values(table: pa.Table) -> list[dict[str, list[float]]]:
    return [{one["method"]: one["values"] for one in row["methods"]} for row in table.to_pylist()]


def test_values_are_those_of_the_method_on_the_same_trial() -> None:
    table, metrics = _worker().answer(_unit([pair_row(trial) for trial in _trials()]))
    outcomes = _method().outcomes(_model(), _copy_trials())
    assert metrics.failed == 0 and table.num_rows == len(outcomes) == 6
    for values, outcome in zip(_values(table), outcomes, strict=True):
        assert isinstance(outcome, CopyOutcome)
        torch.testing.assert_close(torch.tensor(values[KEY_VALUE]), outcome.values.flatten())
        assert np.isnan(values[KEY_VALUE_CONDITIONAL]).all() != outcome.success
    assert table.schema.names == [*HEAD_VALUES_SCHEMA.names, "needle_doc_id", "needle_start", "needle_end"]
    tokens = [len(trial.prompt_ids) + len(trial.needle_ids) for trial in _copy_trials()]
    assert table["prompt_tokens"].to_pylist() == tokens and max(tokens) <= 600


def test_a_success_counts_in_both_means(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = KeyValueWorker(SCORER, None, TASK)
    outcome = CopyOutcome(torch.full((4, 6), 0.25), (1, 2), recall=0.75)
    monkeypatch.setattr(worker._trial_of.method, "outcomes", lambda model, trials: [outcome], raising=False)
    (values,) = _values(worker.answer(_unit([pair_row(_trials()[0])]))[0])
    assert values[KEY_VALUE] == values[KEY_VALUE_CONDITIONAL] == [0.25] * 24


def test_rows_of_the_other_part_and_rows_without_their_value_are_not_tried() -> None:
    rows = [pair_row(trial) for trial in _trials()]
    table, _ = _worker("dev").answer(_unit(rows))
    kept = [row["methods"] is None for row in table.to_pylist()]
    assert kept == [part_of(row["query_id"]) == "test" for row in rows] and len(set(kept)) == 2
    wrong = [{**rows[0], "needle_doc_id": "elsewhere"}, {**rows[1], "needle_end": 10**6}]
    table, metrics = _worker().answer(_unit(wrong))
    assert [row["error"]["code"] for row in table.to_pylist()] == ["no_needle", "no_needle"] and metrics.failed == 2


def test_the_proof_asks_the_same_prompts_with_heads_held_back() -> None:
    masks = mask_sets(["1-0", "1-1"], open_model(MODEL).shape, 2, seed=0)
    settings = TrialSettings(SCORER, {}, {}, None, masks, pairs=TASK.building)
    qrels = {pair_row(trial)["query_id"]: {f"pair-{trial.place}": 1} for trial in _trials()}
    table, _ = TrialWorker(settings, qrels).answer(_unit([pair_row(trial) for trial in _trials()[:2]]))
    for row, trial in zip(table.to_pylist(), _copy_trials(), strict=False):
        found = {one["masked"]: one["copied"] for one in row["masked"]}
        assert set(found) == set(masks) and row["trials"] == []
        for name in (INTACT, CHOSEN):
            expected = copy_accuracy(_model(), trial, map(parse_head, masks[name]))
            assert found[name] == pytest.approx(expected.copied)


@pytest.mark.parametrize(("succeeded", "chosen"), [(19, KEY_VALUE), (20, KEY_VALUE_CONDITIONAL)])
def test_twenty_successes_are_needed_for_their_own_mean(succeeded: int, chosen: str) -> None:
    task = KeyValueTask()
    assert task.method(succeeded) == chosen and task.methods[chosen]["answering"] == "teacher_forced"
    said = task.said(succeeded, 800)
    assert (said is None) == (chosen == KEY_VALUE_CONDITIONAL)
    assert said is None or ("19 of 800 trials succeeded" in said and "teacher-forced mean over all" in said)


def test_successes_are_counted_from_the_rows() -> None:
    class Settings:
        copying = KeyValueTask(fewest=2)

    files = DetectionSideFiles.__new__(DetectionSideFiles)
    files._settings = Settings()  # type: ignore[assignment]
    files._examples = Examples(open_model(MODEL).shape)
    blank, full = np.full(24, np.nan), np.full(24, 0.5)
    files._examples.values = {KEY_VALUE: [full] * 3, KEY_VALUE_CONDITIONAL: [full, blank, blank]}
    files._examples.prompt_tokens = [400] * 3
    told = files._copying()
    assert told is not None
    assert (told["trials"], told["succeeded"], told["chosen_by"]) == (3, 1, KEY_VALUE)
    assert files._said() is not None
    files._examples.values[KEY_VALUE_CONDITIONAL][1] = full
    assert files._copying()["chosen_by"] == KEY_VALUE_CONDITIONAL and files._said() is None  # type: ignore[index]
