"""The actor's part, in this process: what becomes of every kind of row, and what is asked with each mask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from pipelines.answers.settings import AnswererSettings
from pipelines.flips import worker as module
from pipelines.flips.model import FlipModel, Phase
from pipelines.flips.rows import FLIP_FIELDS, WRONG_ANSWER, flip_schema
from pipelines.flips.worker import FlipWorker, probe
from pipelines.metrics import UnitMetrics
from pipelines.needle_columns import PLACE_FIELDS
from pipelines.schemas import INPUT_SCHEMA
from pipelines.splits import part_of
from pipelines.units import UnitRows
from qrcore.errors import ConfigError, ScoreError
from qrcore.heads import parse_head

SETTINGS = FlipModel(
    AnswererSettings("embedded-gqa", device="cpu", max_new_tokens=24), ("Are you sure? Answer {options}.",)
)
MASKS = {"top-2": ("1-0", "4-3"), "top-2/control-1": ("1-2", "4-1")}
SCHEMA = pa.schema([*INPUT_SCHEMA, *PLACE_FIELDS])
SENTENCE = "The baker of Fenwick calls his dog Admiral, and it comes to no other name."
ELSEWHERE = "In winter the ferry of Harrow Bay leaves at half past nine."


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def metrics(rows: int, errors: Sequence[ScoreError], tokens: int, started: float) -> UnitMetrics:
        return UnitMetrics(rows, rows - len(errors), len(errors), 0, tokens, {}, 0.0, "", "", 1, "here")

    monkeypatch.setattr(module, "unit_metrics", metrics)


def _ids(part: str, count: int) -> list[str]:
    names = (f"q{number}" for number in range(1000))
    return [name for name in names if part_of(name) == part][:count]


def _row(query_id: str | None, **changes: Any) -> dict[str, Any]:
    good = {
        "query_id": query_id,
        "query": "What does the baker of Fenwick call his dog?",
        "candidates": [{"doc_id": "a", "text": ELSEWHERE}, {"doc_id": "b", "text": f"{SENTENCE} So it is."}],
        "needle_doc_id": "b",
        "needle_start": 0,
        "needle_end": len(SENTENCE),
    }
    return {**good, **changes}


def _unit(rows: list[dict[str, Any]], schema: pa.Schema = SCHEMA, **more: Any) -> UnitRows:
    return UnitRows(pa.Table.from_pylist(rows, schema=schema), "in.parquet", 10, more.get("duplicates", frozenset()))


@pytest.fixture(scope="module")
def fit() -> Iterator[FlipWorker]:
    yield FlipWorker(SETTINGS, Phase("dev", fit=True, masks={}), flip_schema(PLACE_FIELDS))


def test_every_row_comes_out_once_asked_or_kept_or_with_its_reason(fit: FlipWorker) -> None:
    dev, other = _ids("dev", 7), _ids("test", 1)[0]
    rows = [
        _row(dev[0]),
        _row(other),
        _row(dev[1], needle_doc_id="gone"),
        _row(dev[2], needle_end=500),
        _row(dev[3], needle_start=None),
        _row(dev[4], query=" "),
        _row(dev[0]),
        _row(dev[5], candidates=[{"doc_id": "b", "text": SENTENCE + " word" * 5000}]),
        _row(None),
        _row(dev[6], candidates=[{"doc_id": "b", "text": SENTENCE}]),
    ]
    table, metrics = fit.answer(_unit(rows, duplicates=frozenset({16})))
    assert table.schema.equals(flip_schema(PLACE_FIELDS))
    out = table.to_pylist()
    assert [one["query_id"] for one in out] == [row["query_id"] for row in rows]
    assert [one["source"]["row"] for one in out] == list(range(10, 20))
    assert [one["error"] and one["error"]["code"] for one in out] == [
        None, None, "no_needle", "no_needle", "no_needle", "empty_query", "duplicate_query_id", "context_too_long",
        "null_query_id", None,
    ]  # fmt: skip
    asked, kept, alone = out[0], out[1], out[9]
    assert asked["part"] == "dev" and asked["recall"] >= 0.5 and asked["correct"] is True
    assert [(one["first"], one["mask"]) for one in asked["asked"]] == [("own", "none"), ("injected", "none")]
    assert asked["injected"] == ELSEWHERE and asked["needle_end"] == len(SENTENCE)
    assert [one["follow_up"] for one in asked["looking"]] == [0] and asked["looking"][0]["heads"]
    assert (kept["part"], kept["asked"], kept["answer"], kept["prompt_tokens"]) == ("test", None, None, None)
    assert [one["first"] for one in alone["asked"]] == ["own"] and alone["injected"] is None
    assert (metrics.rows, metrics.failed) == (10, 7)
    assert metrics.prompt_tokens == asked["prompt_tokens"] + alone["prompt_tokens"]


def test_verdicts_of_each_mask_are_the_methods_in_passes_of_any_size(fit: FlipWorker) -> None:
    name = _ids("test", 1)[0]
    phase = Phase("test", fit=False, masks=MASKS)
    workers = [FlipWorker(replace(SETTINGS, masks_at_once=size), phase, flip_schema(PLACE_FIELDS)) for size in (2, 6)]
    few, many = (worker.answer(_unit([_row(name)]))[0].to_pylist()[0] for worker in workers)
    assert [(one["first"], one["mask"]) for one in many["asked"]] == [
        (first, mask) for first in ("own", "injected") for mask in ("none", *MASKS)
    ]
    assert [one["p_yes"] for one in few["asked"]] == pytest.approx([one["p_yes"] for one in many["asked"]], rel=1e-4)
    assert many["looking"] == []
    worker = workers[1]
    first = worker._first_answers(worker._cases(_unit([_row(name)]), [_row(name)]))[0]
    trial = worker._answerer.trial(first)  # type: ignore[arg-type]
    heads = [tuple(map(parse_head, names)) for names in ((), *MASKS.values())]
    for verdicts, told in zip(worker._audit.verdicts(worker._model, trial, heads), many["asked"], strict=False):
        assert told["p_yes"] == pytest.approx(verdicts[0].p_yes, rel=1e-5)
        assert (told["flipped"], told["coherent"]) == (verdicts[0].flipped, verdicts[0].coherent)
    assert len({one["p_yes"] for one in many["asked"][:3]}) == 3


def test_wrong_answers_come_from_their_column_in_the_form_of_the_models_own() -> None:
    named = (*PLACE_FIELDS, WRONG_ANSWER)
    schema = pa.schema([*INPUT_SCHEMA, *named])
    name = _ids("dev", 1)[0]
    said: list[Any] = []
    worker = FlipWorker(SETTINGS, Phase("dev", fit=True, masks={}), flip_schema(named))
    trial = worker._answerer.trial
    worker._answerer.trial = lambda *given, **more: said.append((given[1:], more)) or trial(*given, **more)  # type: ignore[method-assign,func-returns-value]
    (row,) = worker.answer(_unit([_row(name, wrong_answer="A black cat.")], schema))[0].to_pylist()
    assert (row["injected"], row["wrong_answer"]) == ("A black cat.", "A black cat.")
    mark = row["answer"][: row["answer"].index("]") + 2]
    assert said == [((), {"passage": None}), ((f"{mark}A black cat.", None), {})]


def test_a_misleading_passage_is_what_else_could_be_said() -> None:
    name = _ids("dev", 1)[0]
    plain, misled = (
        FlipWorker(replace(SETTINGS, misleading=on), Phase("dev", fit=True, masks={}), flip_schema(PLACE_FIELDS))
        for on in (False, True)
    )
    one, other = (worker.answer(_unit([_row(name)]))[0].to_pylist()[0] for worker in (plain, misled))
    assert one["answer"] == other["answer"] and one["asked"][0]["p_yes"] != other["asked"][0]["p_yes"]
    lonely = [_row(name, candidates=[{"doc_id": "b", "text": SENTENCE}])]
    (row,) = misled.answer(_unit(lonely))[0].to_pylist()
    assert row["error"]["code"] == "no_passage"


def test_a_verdict_that_is_no_number_is_its_rows_error(fit: FlipWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ScoreError("non_finite", "logits: expected finite numbers, got NaN.", stage="score")

    monkeypatch.setattr(fit._audit, "verdicts", broken)
    out = fit.answer(_unit([_row(name) for name in _ids("dev", 2)]))[0].to_pylist()
    assert [one["error"]["code"] for one in out] == ["non_finite"] * 2 and out[0]["answer"] is None


def test_probing_tells_what_decides_the_output_and_refuses_what_cannot_be_read() -> None:
    facts = probe(SETTINGS)
    assert facts.own is not None and facts.own[1] == ("1-3", "1-2", "1-1", "1-0")
    assert facts.settings["mask_scope"] == "all" and facts.settings["yes_ids"] and facts.shape.layers == 6
    with pytest.raises(ConfigError, match="begin alike"):
        probe(replace(SETTINGS, yes_word="same", no_word="same"))
    assert [field.name for field in FLIP_FIELDS][:2] == ["query_id", "part"]
