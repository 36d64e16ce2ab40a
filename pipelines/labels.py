"""Judgements: ``qrels(query_id, doc_id, relevance)`` as Parquet."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.schemas import QRELS_SCHEMA
from pipelines.storage import Storage, StorageOptions
from qrcore.errors import InputError

Qrels = dict[str, dict[str, int]]


def load_qrels(uri: str, options: StorageOptions) -> Qrels:
    """Relevance by query and document; several files of a folder are joined. Raises :class:`InputError`."""
    storage = Storage(uri, options)
    files = [uri] if uri.endswith(".parquet") else [file.uri for file in storage.list_files(uri, ".parquet")]
    if not files or not storage.exists(files[0]):
        raise InputError(f"qrels {uri}: expected a Parquet file or a folder of them, found none. Check the URI.")
    qrels: Qrels = {}
    for file in files:
        for row in _read(file, storage).to_pylist():
            qrels.setdefault(row["query_id"], {})[row["doc_id"]] = row["relevance"]
    return qrels


def _read(uri: str, storage: Storage) -> pa.Table:
    try:
        table = pq.read_table(pa.BufferReader(storage.read(uri)))
        missing = [name for name in QRELS_SCHEMA.names if name not in table.schema.names]
        if not missing:
            return table.select(QRELS_SCHEMA.names).cast(pa.schema(list(QRELS_SCHEMA)))
        problem = f"missing columns {', '.join(missing)}"
    except pa.ArrowException as error:
        problem = str(error).splitlines()[0]
    raise InputError(
        f"qrels {uri}: expected columns query_id: string, doc_id: string, relevance: int32; {problem}. "
        "Correct the file."
    )
