"""Rows into requests and answers into rows; one row in, one row out."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from pipelines.contracts import contract_with, id_column_of
from pipelines.units import UnitRows
from qrcore.errors import ScoreError
from qrcore.records import Document, Ranking, RankRequest

Row = dict[str, Any]

_LARGEST_RANK: Final = 2**31 - 1  # ranks are int32 where they are written


@dataclass(frozen=True, slots=True)
class Source:
    """Where a row comes from: its identity even where ``query_id`` is null or doubled."""

    uri: str
    row: int


def read_input_rows(table: pa.Table) -> list[Row | ScoreError]:
    """The rows of an input table; a row with text that is not UTF-8 is an error with its ``query_id`` if readable.

    Parquet and Arrow carry any bytes in a string column, so this is noticed only where text is needed.
    """
    wanted = table.select(contract_with(table.schema.names).columns)
    try:
        return list(wanted.to_pylist())
    except UnicodeDecodeError:
        return [_read_row(wanted.slice(place, 1)) for place in range(len(wanted))]


def _read_row(row: pa.Table) -> Row | ScoreError:
    query_id = None
    try:
        query_id = row[id_column_of(row.schema.names)][0].as_py()
        return dict(row.to_pylist()[0])
    except UnicodeDecodeError as error:
        return _error(
            query_id, "invalid_text", f"row: expected UTF-8 text, got bytes that are not ({error}). Re-encode it."
        )


def query_id_of(row: Row | ScoreError) -> str | None:
    """The id of a row, null where it has none that can be read."""
    return row.query_id if isinstance(row, ScoreError) else row[id_column_of(row)]


def request_from_row(row: Row) -> RankRequest | ScoreError:
    """The request that a row of an input shard means, or why it cannot be one."""
    try:
        return _request(row)
    except ScoreError as error:
        return error


def _request(row: Row) -> RankRequest:
    query_id = row["query_id"]
    if query_id is None:
        raise _error(None, "null_query_id", "query_id: expected a string, got null. Give the row an id.")
    if row["query"] is None:
        raise _error(query_id, "null_query", "query: expected a string, got null. Fill in the query.")
    if not row["query"].strip():
        raise _error(query_id, "empty_query", "query: expected text, got white space only. Fill in the query.")
    if row["candidates"] is None:
        raise _error(query_id, "null_candidates", "candidates: expected a list, got null. Add the candidates.")
    if not row["candidates"]:
        raise _error(query_id, "no_candidates", "candidates: expected at least one, got none. Add candidates.")
    documents = [_document(query_id, place, entry) for place, entry in enumerate(row["candidates"], start=1)]
    return RankRequest(row["query"], tuple(in_first_stage_order(documents)), query_id)


def _document(query_id: str, place: int, entry: Row | None) -> Document:
    if entry is None:
        raise _error(query_id, "null_candidate", f"candidate {place}: expected a struct, got null. Remove it.")
    if entry["doc_id"] is None:
        raise _error(query_id, "null_doc_id", f"candidate {place}: expected a doc_id, got null. Give it an id.")
    if entry["text"] is None:
        raise _error(
            query_id, "null_text", f"candidate {entry['doc_id']!r}: expected text, got null. Use '' for no text."
        )
    rank = entry.get("rank")
    if rank is not None and not 1 <= rank <= _LARGEST_RANK:
        raise _error(
            query_id,
            "invalid_rank",
            f"candidate {entry['doc_id']!r}: expected a rank from 1 to {_LARGEST_RANK}, got {rank}. "
            "Correct it, or leave it null.",
        )
    return Document(
        doc_id=entry["doc_id"], text=entry["text"], title=entry.get("title"), score=entry.get("score"), rank=rank
    )


def in_first_stage_order(documents: Sequence[Document]) -> list[Document]:
    """Best first: by rank where every document has one, by score where every one has that and none a rank.

    Else as stored: half an order would be neither the first stage's nor the writer's.
    """
    if all(document.rank is not None for document in documents):
        return sorted(documents, key=lambda document: document.rank or 0)
    unranked = [Document(d.doc_id, d.text, d.title, d.score) for d in documents]
    if all(document.rank is None and _is_score(document.score) for document in documents):
        return sorted(unranked, key=lambda document: -(document.score or 0.0))
    return unranked


def _is_score(score: float | None) -> bool:
    return score is not None and not math.isnan(score)


def request_of(row: Row | ScoreError, unit: UnitRows, place: int) -> RankRequest | ScoreError:
    """What the row at ``place`` of a unit asks, or why it cannot be answered."""
    if isinstance(row, ScoreError):
        return row
    return duplicate_query_id(row) if unit.first_row + place in unit.duplicates else request_from_row(row)


def duplicate_query_id(row: Row) -> ScoreError:
    """The error of a row whose id stood in an earlier row of the same run."""
    column = id_column_of(row)
    return _error(
        row[column],
        f"duplicate_{column}",
        f"{column}: expected each id once in a run, got {row[column]!r} again. Rename or remove this row.",
    )


def _error(query_id: str | None, code: str, message: str) -> ScoreError:
    return ScoreError(code, message, stage="validate", query_id=query_id)


def error_fields(error: ScoreError) -> Row:
    """The column ``error`` of a row that could not be answered."""
    return {"code": error.code, "kind": error.kind, "message": str(error), "stage": error.stage}


def row_from_answer(query_id: str | None, answer: Ranking | ScoreError, source: Source) -> Row:
    """An output row (without carried columns) from a ranking or an error."""
    row: Row = {
        "query_id": query_id,
        "ranking": None,
        "prompt_tokens": None,
        "windows": None,
        "flags": None,
        "source": {"uri": source.uri, "row": source.row},
        "error": None,
    }
    if isinstance(answer, ScoreError):
        row["error"] = error_fields(answer)
        return row
    row["ranking"] = [
        {
            "doc_id": document.doc_id,
            "rank": document.rank,
            "score": document.score,
            "input_rank": document.input_rank,
            "input_score": document.input_score,
            "round": document.round,
            "cut_tokens": document.cut_tokens,
        }
        for document in answer.documents
    ]
    row["prompt_tokens"], row["windows"] = answer.prompt_tokens, answer.windows
    row["flags"] = list(answer.flags)
    return row


def carried_columns(table: pa.Table, schema: pa.Schema, own: Collection[str]) -> pa.Table:
    """The columns of ``schema`` that are not a job's ``own``, in its types; null where ``table`` has no such column."""
    names = [name for name in schema.names if name not in own]
    columns = [
        table.column(name) if name in table.schema.names else pa.nulls(len(table), schema.field(name).type)
        for name in names
    ]
    return pa.Table.from_arrays(columns, schema=pa.schema([schema.field(name) for name in names]))


def error_table(
    table: pa.Table, errors: Sequence[ScoreError], sources: Sequence[Source], schema: pa.Schema, carried: Sequence[str]
) -> pa.Table:
    """Output rows in ``schema`` for input rows of which none was answered; ``carried``: columns kept as they are."""
    own = [name for name in schema.names if name not in carried]
    rows = [
        dict.fromkeys(own)
        | {
            id_column_of(own): query_id_of(row),
            "source": {"uri": source.uri, "row": source.row},
            "error": error_fields(error),
        }
        for row, error, source in zip(read_input_rows(table), errors, sources, strict=True)
    ]
    return table_from_rows(rows, carried_columns(table, schema, own), schema)


def table_from_rows(rows: Sequence[Row], carried: pa.Table, schema: pa.Schema) -> pa.Table:
    """Output rows beside the carried columns of the same input rows, in ``schema``."""
    own = pa.schema([schema.field(name) for name in schema.names if name not in carried.schema.names])
    table = pa.Table.from_pylist(list(rows), schema=own)
    for name in carried.schema.names:
        table = table.append_column(schema.field(name), carried.column(name))
    return table.select(schema.names).cast(schema)
