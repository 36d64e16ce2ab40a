"""What an actor says of every head on the rows of a unit, without Ray around it."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
import torch

from pipelines.detection.rows import HEAD_VALUES_SCHEMA
from pipelines.detection.worker import DetectorSettings, HeadValueWorker
from pipelines.labels import Qrels
from pipelines.schemas import INPUT_SCHEMA
from pipelines.scorers import ScorerSettings
from pipelines.splits import Part, part_of
from pipelines.units import UnitRows
from qrcore import Document, load_scorer
from qrcore.loading import load_method
from qrcore.matching import query_digest
from qrcore.models import open_model
from tests.shards import MODEL, row

SCORER = ScorerSettings(model=MODEL, heads="all", prompt="qrhead-llama3", device="cpu")
METHODS: dict[str, dict[str, Any]] = {"qrscore": {}, "ndcg": {"cutoff": 3}, "core": {"temperature": 0.1}}
DEV = [name for name in (f"q{number}" for number in range(60)) if part_of(name) == "dev"]
TEST = [name for name in (f"q{number}" for number in range(60)) if part_of(name) == "test"]


def _worker(qrels: Qrels, part: Part | None = "dev") -> HeadValueWorker:
    return HeadValueWorker(DetectorSettings(SCORER, METHODS, part), qrels)


def _unit(rows: list[dict[str, Any]], duplicates: tuple[int, ...] = ()) -> UnitRows:
    return UnitRows(pa.Table.from_pylist(rows, schema=INPUT_SCHEMA), "file.parquet", 10, frozenset(duplicates))


def _answers(worker: HeadValueWorker, unit: UnitRows) -> list[dict[str, Any]]:
    table, metrics = worker.answer(unit)
    assert table.schema == HEAD_VALUES_SCHEMA
    rows: list[dict[str, Any]] = table.to_pylist()
    assert (metrics.rows, metrics.failed) == (len(rows), sum(one["error"] is not None for one in rows))
    assert metrics.prompt_tokens == sum(one["prompt_tokens"] or 0 for one in rows)
    return rows


def test_every_method_judges_one_reading_of_all_heads() -> None:
    example = row(DEV[0])
    doc_ids = [entry["doc_id"] for entry in example["candidates"]]
    (answer,) = _answers(_worker({DEV[0]: {doc_ids[1]: 2, doc_ids[0]: -1}}), _unit([example]))
    scorer = load_scorer(MODEL, heads="all", prompt="qrhead-llama3", device="cpu")
    documents = [Document(entry["doc_id"], entry["text"], entry.get("title")) for entry in example["candidates"]]
    reading = scorer.read(example["query"], documents)
    relevance = [2 if document.doc_id == doc_ids[1] else 0 for document in documents]
    assert [entry["method"] for entry in answer["methods"]] == list(METHODS)
    for entry in answer["methods"]:
        expected = load_method(entry["method"]).build(**METHODS[entry["method"]]).head_values(reading, relevance)
        torch.testing.assert_close(torch.tensor(entry["values"]), expected)
    assert len(answer["methods"][0]["values"]) == 4 * 8
    assert (answer["part"], answer["candidates"], answer["relevant"]) == ("dev", len(doc_ids), 1)
    assert answer["relevant_elsewhere"] == 0
    assert answer["query_digest"] == query_digest(DEV[0], example["query"])
    assert answer["prompt_tokens"] == reading.prompt_tokens
    assert answer["source"] == {"uri": "file.parquet", "row": 10}


def test_relevant_documents_of_no_list_are_counted() -> None:
    qrels = {name: {"d0": 1, "elsewhere": 1, "nowhere": 2, "unwanted": 0} for name in (DEV[0], TEST[0])}
    answers = _answers(_worker(qrels), _unit([row(DEV[0]), row(TEST[0])]))
    assert [(one["relevant"], one["relevant_elsewhere"]) for one in answers] == [(1, 2), (1, 2)]


def test_examples_of_the_other_part_are_not_read() -> None:
    qrels = {name: {"d0": 1, "d1": 1} for name in (DEV[0], TEST[0])}
    unit = _unit([row(TEST[0]), row(DEV[0])])
    kept, read = _answers(_worker(qrels), unit)
    assert (kept["part"], kept["methods"], kept["error"], kept["prompt_tokens"]) == ("test", None, None, 0)
    assert read["methods"] is not None
    assert all(one["methods"] for one in _answers(_worker(qrels, part=None), unit))


def test_rows_that_say_nothing_come_out_with_the_reason() -> None:
    qrels = {DEV[0]: {"d0": 1}, DEV[1]: {"elsewhere": 1}, DEV[3]: {"d0": 0}, DEV[4]: {"d0": 1}}
    long = [{"doc_id": "d0", "text": "word " * open_model(MODEL).max_tokens}]
    rows = [
        row(DEV[0]), row(DEV[1]), row(DEV[2]), row(DEV[3]), row(DEV[4], candidates=long), row(DEV[5], query=None),
        row(DEV[0]),
    ]  # fmt: skip
    answers = _answers(_worker(qrels), _unit(rows, duplicates=(16,)))
    assert [one["error"] and one["error"]["code"] for one in answers] == [
        None, "nothing_relevant", "nothing_relevant", "nothing_relevant", "context_too_long", "null_query",
        "duplicate_query_id",
    ]  # fmt: skip
    assert "none of those that the judgements name" in answers[1]["error"]["message"]
    assert "the judgements name none" in answers[2]["error"]["message"]
    assert [one["query_id"] for one in answers] == [one["query_id"] for one in rows]


def test_values_that_are_no_numbers_fail_their_row(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = _worker({DEV[0]: {"d0": 1}})
    monkeypatch.setattr(
        worker._detectors["core"], "head_values", lambda *_arguments: torch.tensor([1.0, float("nan")]), raising=False
    )
    (answer,) = _answers(worker, _unit([row(DEV[0])]))
    assert answer["error"]["code"] == "non_finite" and answer["methods"] is None


def test_the_hash_is_of_texts_and_judgements() -> None:
    def digest(example: dict[str, Any], grade: int = 1) -> str:
        return str(_answers(_worker({DEV[0]: {"d0": grade}}), _unit([example]))[0]["content_sha256"])

    plain = digest(row(DEV[0]))
    assert plain == digest(row(DEV[0]))
    assert len({plain, digest(row(DEV[0], query="Another one?")), digest(row(DEV[0]), grade=2)}) == 3
