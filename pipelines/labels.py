"""Judgements: ``qrels(query_id, doc_id, relevance)`` as Parquet, or as TREC or BEIR text."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from pipelines.schemas import QRELS_SCHEMA
from pipelines.storage import Storage, StorageOptions, absolute
from pipelines.trec import read_qrels
from pipelines.units import parquet_table
from qrcore.errors import InputError

Qrels = dict[str, dict[str, int]]


def load_qrels(uri: str, options: StorageOptions) -> Qrels:
    """Relevance by query and document; several files of a folder are joined. Raises :class:`InputError`.

    A file that does not end in ``.parquet`` is read as text: TREC's four columns, or BEIR's three with a header.
    """
    storage = Storage(uri, options)
    if not uri.endswith(".parquet") and storage.exists(absolute(uri)) and not storage.is_folder(absolute(uri)):
        return read_qrels(uri, decoded(uri, storage.read(absolute(uri))))
    files = _files_of(absolute(uri), storage)
    if not files:
        raise InputError(f"qrels {uri}: expected a Parquet file or a folder of them, found none. Check the URI.")
    qrels: Qrels = {}
    for file in files:
        for row in _rows_of(file, storage):
            qrels.setdefault(row["query_id"], {})[row["doc_id"]] = row["relevance"]
    return qrels


def decoded(uri: str, data: bytes) -> str:
    """A file's text. Raises :class:`InputError` if it is not UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{uri}: expected UTF-8 text, got bytes that are not ({error}). Re-encode it.") from error


def _files_of(uri: str, storage: Storage) -> list[str]:
    if uri.endswith(".parquet") and not storage.is_folder(uri):  # Spark names folders like files
        return [uri] if storage.exists(uri) else []
    return [file.uri for file in storage.list_files(uri, ".parquet")]


def _rows_of(uri: str, storage: Storage) -> list[dict[str, Any]]:
    table = _read(uri, storage)
    for name in table.schema.names:
        if table[name].null_count:
            row = table[name].is_null().index(True).as_py()
            raise InputError(f"qrels {uri}: expected no nulls, column {name!r} has one in row {row}. Correct the file.")
    try:
        return list(table.to_pylist())
    except UnicodeDecodeError as error:
        raise InputError(
            f"qrels {uri}: expected UTF-8 text, got bytes that are not ({error}). Re-encode it."
        ) from error


def _read(uri: str, storage: Storage) -> pa.Table:
    data = storage.read(uri)
    try:
        table = parquet_table(data)
        missing = [name for name in QRELS_SCHEMA.names if name not in table.schema.names]
        if not missing:
            return table.select(QRELS_SCHEMA.names).cast(pa.schema(list(QRELS_SCHEMA)))
        problem = f"missing columns {', '.join(missing)}"
    except (pa.ArrowException, OSError) as error:
        problem = str(error).splitlines()[0]
    raise InputError(
        f"qrels {uri}: expected columns query_id: string, doc_id: string, relevance: int32; {problem}. "
        "Correct the file."
    )
