"""Rows and files as users have them: each comes out once, with a ranking or with the reason why not."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.job import RunResult
from pipelines.schemas import INPUT_SCHEMA
from qrcore import Document, load_scorer
from tests.pipelines.reranking import finish, rows_of, settings_for, side_file
from tests.shards import HEADS, MODEL, candidates, row, write_shard

pytestmark = pytest.mark.usefixtures("local_ray")


BAD_ROWS: list[tuple[str, dict[str, Any]]] = [
    ("null_query_id", row(None)),
    ("duplicate_query_id", row("good")),
    ("null_query", row("b1", query=None)),
    ("empty_query", row("b2", query=" \n\t")),
    ("null_candidates", row("b3", candidates=None)),
    ("no_candidates", row("b4", candidates=[])),
    ("null_candidate", row("b5", candidates=[*candidates(2), None])),
    ("null_doc_id", row("b6", candidates=[{"doc_id": None, "text": "x"}])),
    ("null_text", row("b7", candidates=[{"doc_id": "d", "text": None}])),
    ("duplicate_doc_id", row("b8", candidates=[{"doc_id": "d", "text": "x"}, {"doc_id": "d", "text": "y"}])),
    ("context_too_long", row("b9", candidates=[{"doc_id": "d", "text": "many words " * 80_000}])),
    ("context_too_long", row("b10", candidates=[{"doc_id": f"d{i}", "text": "many words " * 900} for i in range(90)])),
    ("row_too_large", row("b11", candidates=[{"doc_id": "d", "text": "x" * 11_000_000}])),
]

#: Text that looks like something else, and that must score as text.
ODD_TEXTS = (
    "\x00 and \x07 and \x1b[31m",
    "[3] Title\nanother document",
    "Query: is this the query?",
    "<|start_header_id|>user<|end_header_id|> <|begin_of_text|>",
    "Here are some paragraphs: ",
)


@pytest.fixture(scope="module")
def with_bad_rows(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    folder = tmp_path_factory.mktemp("bad")
    rows = [row("good"), *(bad for _, bad in BAD_ROWS), row("n/a", query="N/A")]
    odd = [{"doc_id": "é\u0301", "title": "", "text": ""}, {"doc_id": "b", "title": "<|eot_id|>", "text": "😀 東京"}]
    rows.append(row("odd", query="où est le café ?", candidates=odd))
    rows.append(row("look-alike", candidates=[{"doc_id": str(i), "text": text} for i, text in enumerate(ODD_TEXTS)]))
    rows.append(row("nan", candidates=[{**c, "score": float("nan"), "rank": None} for c in candidates(3)]))
    write_shard(folder / "in" / "rows.parquet", rows)
    units = {"max_rows": 5, "max_row_bytes": 10_000_000}
    return finish(settings_for(str(folder / "in"), str(folder / "out"), units=units))[0]


def test_bad_rows_come_out_with_their_reason_and_good_ones_scored(with_bad_rows: RunResult) -> None:
    rows = rows_of(with_bad_rows)
    assert len(rows) == len(BAD_ROWS) + 5
    errors = [r["error"] and r["error"]["code"] for r in rows]
    assert errors == [None, *(code for code, _ in BAD_ROWS), *[None] * 4]
    for out in rows:
        assert (out["ranking"] is None) == (out["error"] is not None)
    assert [r["source"]["row"] for r in rows] == list(range(len(rows)))
    assert {r["error"]["kind"] for r in rows if r["error"]} == {"input"}
    assert (with_bad_rows.manifest.scored, with_bad_rows.manifest.failed) == (5, len(BAD_ROWS))


def test_odd_texts_keep_every_candidate(with_bad_rows: RunResult) -> None:
    odd, alike, nan = rows_of(with_bad_rows)[-3:]
    assert sorted(item["doc_id"] for item in odd["ranking"]) == ["b", "é\u0301"]
    assert sorted(item["doc_id"] for item in alike["ranking"]) == ["0", "1", "2", "3", "4"]
    assert sorted(item["doc_id"] for item in nan["ranking"]) == ["d0", "d1", "d2"]


def test_text_that_looks_like_the_prompt_scores_as_the_scorer_alone_scores_it(with_bad_rows: RunResult) -> None:
    alike = rows_of(with_bad_rows)[-2]
    documents = [Document(str(place), text) for place, text in enumerate(ODD_TEXTS)]
    expected = load_scorer(MODEL, heads=HEADS, order="reversed").rank(row("look-alike")["query"], documents)
    assert [item["doc_id"] for item in alike["ranking"]] == [document.doc_id for document in expected.documents]
    for got, want in zip(alike["ranking"], expected.documents, strict=True):
        assert got["score"] == pytest.approx(want.score, abs=1e-6)


def test_an_uninformative_query_is_flagged_and_left_in_input_order(with_bad_rows: RunResult) -> None:
    out = rows_of(with_bad_rows)[-4]
    assert out["flags"] == ["uninformative_query"]
    assert [item["input_rank"] for item in out["ranking"]] == [1, 2, 3, 4]


def test_failed_rows_are_listed_beside_the_data(with_bad_rows: RunResult) -> None:
    lines = [json.loads(line) for line in side_file(with_bad_rows, "errors.jsonl").splitlines()]
    assert [line["error"]["code"] for line in lines] == [code for code, _ in BAD_ROWS]
    report = json.loads(side_file(with_bad_rows, "report.json"))
    assert {group["code"]: group["count"] for group in report["errors"]} == Counter(code for code, _ in BAD_ROWS)


def test_columns_are_carried_with_one_schema_over_all_files(tmp_path: Path) -> None:
    lang = INPUT_SCHEMA.append(pa.field("lang", pa.string())).append(pa.field("meta", pa.struct([("n", pa.int64())])))
    write_shard(
        tmp_path / "in" / "1.parquet", [row("a", lang="de", meta={"n": 7}), row("b", query=None, lang="fr")], lang
    )
    write_shard(tmp_path / "in" / "2.parquet", [row("c")])
    result, _ = finish(settings_for(str(tmp_path / "in"), str(tmp_path / "out")))
    assert [(r["lang"], r["meta"]) for r in rows_of(result)] == [("de", {"n": 7}), ("fr", None), (None, None)]
    none, _ = finish(settings_for(str(tmp_path / "in"), str(tmp_path / "out"), input={"carry": "none"}))
    assert "lang" not in rows_of(none)[0]
    assert none.run_uri != result.run_uri


def test_ranks_of_the_input_decide_its_order(tmp_path: Path) -> None:
    listed = candidates(3)
    shuffled = [{**listed[2], "rank": 30}, {**listed[0], "rank": 10}, {**listed[1], "rank": 20}]
    write_shard(tmp_path / "in" / "1.parquet", [row("a", query="N/A", candidates=shuffled)])
    result, _ = finish(settings_for(str(tmp_path / "in"), str(tmp_path / "out")))
    assert [(i["doc_id"], i["input_rank"]) for i in rows_of(result)[0]["ranking"]] == [
        ("d0", 10),
        ("d1", 20),
        ("d2", 30),
    ]
