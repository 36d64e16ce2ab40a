"""The actor's part, in this process: what becomes of every kind of row, and of documents that do not fit together."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.contracts import DOCUMENT_SCHEMA, DOCUMENTS, QUERIES, check_document_schema, contract_with
from pipelines.influence import worker as module
from pipelines.influence.model import InfluenceModel
from pipelines.influence.rows import INFLUENCE_SCHEMA
from pipelines.influence.worker import InfluenceWorker, probe
from pipelines.metrics import UnitMetrics
from pipelines.rows import Source, error_table
from pipelines.units import UnitRows
from qrcore.contracts.influence import DocumentInfluence
from qrcore.errors import HeadSetError, ScoreError
from qrcore.heads import Head
from qrcore.methods.attention_influence import build
from qrcore.models import load_language_model, open_model
from qrcore.shipped import embedded_folder

SETTINGS = InfluenceModel(
    "embedded", heads="1-0,1-2", device="cpu", method=(("controls", 2), ("max_tokens", 60), ("mask_mode", "zero"))
)
LONG = "word and word " * 60
ROWS: list[dict[str, Any]] = [
    {"doc_id": "a", "domain": "web", "text": "The river carries its water from the mountains to the sea."},
    {"doc_id": None, "domain": "web", "text": "No id."},
    {"doc_id": "c", "domain": None, "text": "Bees collect nectar from flowers. <end> is only text here."},
    {"doc_id": "a", "domain": "web", "text": "Again."},
    {"doc_id": "e", "domain": "web", "text": None},
    {"doc_id": "f", "domain": "web", "text": " \n"},
    {"doc_id": "g", "domain": "code", "text": LONG},
]


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def metrics(rows: int, errors: Sequence[ScoreError], tokens: int, started: float) -> UnitMetrics:
        return UnitMetrics(rows, rows - len(errors), len(errors), 0, tokens, {}, 0.0, "", "", 1, "here")

    monkeypatch.setattr(module, "unit_metrics", metrics)


@pytest.fixture(scope="module")
def worker() -> Iterator[InfluenceWorker]:
    yield InfluenceWorker(SETTINGS)


def _unit(rows: list[dict[str, Any]], first: int = 10, duplicates: frozenset[int] = frozenset({13})) -> UnitRows:
    return UnitRows(pa.Table.from_pylist(rows, schema=DOCUMENT_SCHEMA), "in.parquet", first, duplicates)


def test_every_row_comes_back_once_with_its_influence_or_its_reason(worker: InfluenceWorker) -> None:
    table, metrics = worker.answer(_unit(ROWS))
    assert table.schema.equals(INFLUENCE_SCHEMA)
    rows = table.to_pylist()
    assert [row["doc_id"] for row in rows] == ["a", None, "c", "a", "e", "f", "g"]
    assert [row["source"]["row"] for row in rows] == list(range(10, 17))
    codes = [row["error"] and row["error"]["code"] for row in rows]
    assert codes == [
        None, "null_doc_id", None, "duplicate_doc_id", "null_text", "empty_document", "context_too_long",
    ]  # fmt: skip
    assert all(row["influence"] is None for row in rows if row["error"])
    assert (metrics.rows, metrics.scored, metrics.failed) == (7, 2, 5)
    assert metrics.prompt_tokens == sum(row["n_tokens"] for row in rows if not row["error"])


def test_numbers_are_those_of_the_method_on_the_texts_tokens(worker: InfluenceWorker) -> None:
    row = worker.answer(_unit(ROWS))[0].to_pylist()[2]
    source = open_model("embedded")
    model = load_language_model(source, device="cpu")
    plain = model.decoder.tokenizer.backend_tokenizer
    plain.encode_special_tokens = True
    ids = plain.encode(ROWS[2]["text"], add_special_tokens=False).ids
    method = build((Head(1, 0), Head(1, 2)), controls=2, mask_mode="zero")
    (expected,) = method.score(model, [ids])
    assert isinstance(expected, DocumentInfluence)
    assert row["n_tokens"] == len(ids) and row["domain"] is None
    assert row["influence"] == pytest.approx(expected.influence, abs=1e-5)
    assert row["control_influence"] == pytest.approx(list(expected.controls), abs=1e-5)
    assert row["loss_masked"] == pytest.approx(row["loss_base"] * (1 + row["influence"]), rel=1e-5)


def test_documents_that_do_not_fit_together_are_scored_alone(worker: InfluenceWorker) -> None:
    own = worker.method

    class Full:
        @property
        def settings(self) -> Mapping[str, Any]:
            return own.settings

        def score(self, model: Any, documents: Sequence[Sequence[int]]) -> Any:
            if len(documents) > 1 or len(documents[0]) > 20:
                raise ScoreError("oom", "memory: none left", stage="score")
            return own.score(model, documents)

    rows = [ROWS[0], {"doc_id": "z", "domain": "web", "text": "river " * 30}, ROWS[2]]
    worker.method = Full()  # type: ignore[assignment]
    try:
        found = worker.answer(_unit(rows, 0, frozenset()))[0].to_pylist()
    finally:
        worker.method = own
    assert [row["error"] and row["error"]["code"] for row in found] == [None, "oom", None]


def test_copying_heads_of_a_model_come_first(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(embedded_folder("embedded"), folder)
    own = probe(InfluenceModel(str(folder), device="cpu"))
    (folder / "copy_headset.json").write_text('{"name": "copies", "heads": ["3-1", "3-2"]}')
    copying = probe(InfluenceModel(str(folder), device="cpu"))
    assert copying.heads == ("3-1", "3-2") and copying.head_set_id.startswith("copies@")
    assert own.heads == probe(InfluenceModel(str(folder), heads=own.head_set_id.split("@")[0], device="cpu")).heads
    assert own.heads != copying.heads and own.setup_sha256 == copying.setup_sha256


def test_probing_tells_what_decides_the_output() -> None:
    facts = probe(SETTINGS)
    assert facts.heads == ("1-0", "1-2") and len(facts.controls) == 2
    assert facts.settings["mask_mode"] == "zero" and facts.settings["mask_scope"] == "all"
    assert facts.dtype == "float32" and len(facts.weights_sha256) == 64
    with pytest.raises(HeadSetError):
        probe(InfluenceModel("embedded", heads="99-0", device="cpu"))


# The contract of documents


def test_files_that_hold_no_documents_say_what_is_missing() -> None:
    text = pa.string()
    assert check_document_schema(DOCUMENT_SCHEMA) == []
    assert (
        check_document_schema(pa.schema([("doc_id", text), ("domain", pa.null()), ("text", pa.large_string())])) == []
    )
    found = check_document_schema(pa.schema([("doc_id", pa.int64()), ("text", text), ("text", text)]))
    assert len(found) == 3
    assert "doc_id" in found[0] and "int64" in found[0]
    assert "domain" in found[1] and "missing" in found[1]
    assert "text" in found[2] and "more than once" in found[2]


def test_rows_that_are_never_answered_keep_their_ids() -> None:
    table = pa.Table.from_pylist(ROWS[:2], schema=DOCUMENT_SCHEMA)
    error = ScoreError("row_too_large", "row: too large", stage="read")
    sources = [Source("in.parquet", row) for row in range(2)]
    rows = error_table(table, [error, error], sources, INFLUENCE_SCHEMA, ()).to_pylist()
    assert [row["doc_id"] for row in rows] == ["a", None]
    assert all(row["error"]["code"] == "row_too_large" and row["n_tokens"] is None for row in rows)
    assert contract_with(["doc_id", "influence"]) is DOCUMENTS and contract_with(["query_id", "doc_id"]) is QUERIES
