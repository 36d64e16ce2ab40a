"""Many head sets on the same queries give what each would give alone."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from pipelines.detection.trials import FIRST_STAGE, TRIALS_SCHEMA, TrialSettings, TrialWorker
from pipelines.measures import evaluate
from pipelines.schemas import INPUT_SCHEMA
from pipelines.scorers import ScorerSettings
from pipelines.splits import part_of
from pipelines.units import UnitRows
from qrcore import Document, load_scorer
from qrcore.errors import HeadSetError
from tests.shards import MODEL, candidates, row

SETS = {"chosen": ("1-0", "1-2"), "deep": ("3-1",), "twice": ("1-0", "1-0", "2-4")}
TEST = [name for name in (f"q{number}" for number in range(60)) if part_of(name) == "test"]
DEV = next(name for name in (f"q{number}" for number in range(60)) if part_of(name) == "dev")


@pytest.fixture(scope="module")
def worker() -> TrialWorker:
    settings = TrialSettings(
        scorer=ScorerSettings(model=MODEL, heads="all", prompt="qrhead-llama3", device="cpu"),
        sets=SETS,
        orders={"as_given": ("chosen", "deep", "twice"), "reversed": ("chosen",), "shuffled": ("chosen",)},
        part="test",
    )
    return TrialWorker(settings, {name: {"d2": 2, "d1": 1} for name in TEST[:3]})


def _answers(worker: TrialWorker, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    table = pa.Table.from_pylist(rows, schema=INPUT_SCHEMA)
    answers, metrics = worker.answer(UnitRows(table, "file", 0, frozenset()))
    assert answers.schema == TRIALS_SCHEMA
    assert metrics.rows == len(rows)
    found: list[dict[str, Any]] = answers.to_pylist()
    return found


def test_every_set_measures_as_a_scorer_of_its_own(worker: TrialWorker) -> None:
    example = row(TEST[0], candidates=candidates(6, seed=3))
    (answer,) = _answers(worker, [example])
    documents = [Document(d["doc_id"], d["text"], d.get("title"), d["score"], d["rank"]) for d in example["candidates"]]
    trials = {(one["head_set"], one["order"]): one for one in answer["trials"]}
    assert set(trials) == {(FIRST_STAGE, "as_given"), *((name, "as_given") for name in SETS)} | {
        ("chosen", "reversed"), ("chosen", "shuffled"),
    }  # fmt: skip
    for (name, order), trial in trials.items():
        ranked = [d.doc_id for d in documents]
        if name != FIRST_STAGE:
            scorer = load_scorer(MODEL, heads=",".join(SETS[name]), prompt="qrhead-llama3", device="cpu", order=order)
            ranked = [one.doc_id for one in scorer.rank(example["query"], documents).documents]
        expected = evaluate({"q": {"d2": 2, "d1": 1}}, {"q": ranked}, ["ndcg@10"]).means["ndcg@10"]
        assert trial["ndcg_10"] == pytest.approx(expected, abs=1e-6), (name, order)


def test_places_and_the_longest(worker: TrialWorker) -> None:
    long = candidates(4)
    long[3]["text"] *= 5
    (answer,) = _answers(worker, [row(TEST[1], candidates=long)])
    by_order = {one["order"]: one for one in answer["trials"] if one["head_set"] == "chosen"}
    assert by_order["as_given"]["gold_place"] == pytest.approx(2 / 3)
    assert by_order["reversed"]["gold_place"] == pytest.approx(1 / 3)
    first = next(one for one in answer["trials"] if one["head_set"] == FIRST_STAGE)
    assert first["above_longest"] is True
    shown = candidates(3)
    shown[0]["text"] *= 5
    (answer,) = _answers(worker, [row(TEST[1], candidates=shown)])
    assert next(one for one in answer["trials"] if one["head_set"] == FIRST_STAGE)["above_longest"] is False
    (alone,) = _answers(worker, [row(TEST[1], candidates=candidates(3)[1:])])
    assert {one["above_longest"] for one in alone["trials"]} == {None}


def test_rows_that_prove_nothing(worker: TrialWorker) -> None:
    seen, unjudged, broken = _answers(worker, [row(DEV), row(TEST[4]), row(TEST[0], query=None)])
    assert (seen["part"], seen["trials"], seen["error"]) == ("dev", None, None)
    assert unjudged["error"]["code"] == "nothing_relevant"
    assert broken["error"]["code"] == "null_query" and broken["query_id"] == TEST[0]


def test_variants_hold_to_the_layers_that_are_loaded() -> None:
    scorer = load_scorer(MODEL, heads="1-0", prompt="qrhead-llama3", device="cpu")
    from qrcore.heads import head_set_from_list

    assert scorer.variant(head_set_from_list("0-3"), "reversed").settings.order == "reversed"
    with pytest.raises(HeadSetError, match="2 layers that are loaded, got some in layer 2"):
        scorer.variant(head_set_from_list("2-0"))
    with pytest.raises(HeadSetError, match="9-0"):
        scorer.variant(head_set_from_list("9-0"))
