"""Columns of plain text from Parquet shards."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from pipelines.inputs import list_inputs
from pipelines.schemas import is_text
from pipelines.storage import Storage, StorageOptions
from pipelines.units import parquet_table
from qrcore.errors import InputError


def read_text_rows(
    uris: Sequence[str], needed: Sequence[str], options: StorageOptions, optional: Sequence[str] = ()
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Rows with the columns ``needed`` and those of ``optional`` that are there; SHA-256 of each file by its URI.

    Raises :class:`InputError` for columns that are missing, hold nulls or no strings.
    """
    rows: list[dict[str, Any]] = []
    digests: dict[str, str] = {}
    for info in list_inputs(uris, options) if uris else ():
        data = Storage(info.uri, options).read(info.uri)
        digests[info.uri] = hashlib.sha256(data).hexdigest()
        rows += _rows_of(info.uri, data, needed, optional)
    return rows, digests


def _rows_of(uri: str, data: bytes, needed: Sequence[str], optional: Sequence[str]) -> Iterator[dict[str, Any]]:
    try:
        table = parquet_table(data)
        present = [*needed, *(name for name in optional if name in table.column_names)]
        problem = _problem(table, needed, present)
        if not problem:
            return iter(table.select(present).to_pylist())
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        problem = str(error).splitlines()[0]
    raise InputError(
        f"{uri}: expected Parquet with {', '.join(needed)} as strings without nulls; {problem}. Correct it."
    )


def _problem(table: pa.Table, needed: Sequence[str], present: Sequence[str]) -> str:
    """What keeps these columns from being read; empty if nothing does."""
    if missing := [name for name in needed if name not in table.column_names]:
        return f"missing columns {', '.join(missing)}"
    for name in present:
        if not is_text(table.schema.field(name).type):
            return f"column {name!r} has type {table.schema.field(name).type}"
    for name in needed:
        if table[name].null_count:
            return f"column {name!r} is null in row {table[name].is_null().index(True).as_py()}"
    return ""
