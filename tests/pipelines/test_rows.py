"""Rows as requests: first-stage order, ranks, and text that is not UTF-8."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from pipelines.rows import in_first_stage_order, query_id_of, read_input_rows, request_from_row
from pipelines.schemas import INPUT_SCHEMA
from qrcore import Document
from qrcore.errors import ScoreError
from qrcore.records import RankRequest
from tests.shards import row


def with_bytes_as_text(table: pa.Table, column: str, values: list[bytes]) -> pa.Table:
    """The table with a string column of bytes that nobody checked, as other writers may leave it."""
    unchecked = pa.Array.from_buffers(pa.string(), len(values), pa.array(values, pa.binary()).buffers())
    return table.set_column(table.schema.get_field_index(column), column, unchecked)


def _documents(*entries: tuple[float | None, int | None]) -> list[Document]:
    return [Document(str(i), "text", None, score, rank) for i, (score, rank) in enumerate(entries)]


@pytest.mark.parametrize(
    ("entries", "order"),
    [
        ([(9.0, 3), (8.0, 1), (7.0, 2)], "120"),
        ([(1.0, None), (3.0, None), (2.0, None)], "120"),
        ([(1.0, None), (2.0, None), (1.0, None), (2.0, None)], "1302"),
        ([(1.0, None), (None, None), (2.0, None)], "012"),
        ([(float("nan"), None), (1.0, None), (2.0, None)], "012"),
        ([(1.0, None), (2.0, 1), (3.0, 2)], "012"),
        ([(None, None), (None, None)], "01"),
    ],
)
def test_first_stage_order(entries: list[tuple[float | None, int | None]], order: str) -> None:
    assert "".join(document.doc_id for document in in_first_stage_order(_documents(*entries))) == order


@pytest.mark.parametrize("rank", [0, -1, 2**31, 2**40])
def test_a_rank_that_cannot_be_written_is_an_error(rank: int) -> None:
    answer = request_from_row(row("a", candidates=[{"doc_id": "d", "text": "t", "rank": rank}]))
    assert isinstance(answer, ScoreError)
    assert (answer.code, answer.kind, answer.query_id) == ("invalid_rank", "input", "a")


def test_the_largest_rank_is_a_rank() -> None:
    listed = [{"doc_id": "d", "text": "t", "rank": 2**31 - 1}, {"doc_id": "e", "text": "t", "rank": 1}]
    assert isinstance(request_from_row(row("a", candidates=listed)), RankRequest)


@pytest.mark.parametrize(("column", "ids"), [("query_id", ["a", None, "c"]), ("query", ["a", "b", "c"])])
def test_text_that_is_not_utf8_fails_its_row_only(column: str, ids: list[str | None]) -> None:
    rows: list[dict[str, Any]] = [row("a"), row("b"), row("c")]
    table = pa.Table.from_pylist(rows, schema=INPUT_SCHEMA)
    good = [entry[column].encode() for entry in rows]
    read = read_input_rows(with_bytes_as_text(table, column, [good[0], b"\xff\xfe", good[2]]))
    assert [query_id_of(entry) for entry in read] == ids
    assert isinstance(read[1], ScoreError)
    assert (read[1].code, read[1].kind) == ("invalid_text", "input")
    assert [read[0], read[2]] == [table.to_pylist()[0], table.to_pylist()[2]]


def test_rows_that_are_text_are_read_as_they_are() -> None:
    table = pa.Table.from_pylist([row("a", query=None), row(None)], schema=INPUT_SCHEMA)
    assert read_input_rows(table.append_column("more", pa.array([1, 2]))) == table.to_pylist()
