"""A unit of work on its way through the stages, and tables as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.storage import join


@dataclass(frozen=True, slots=True, eq=False)
class UnitRows:
    """Input rows of one unit, where they come from, and which repeat an earlier ``query_id``."""

    table: pa.Table
    uri: str
    first_row: int
    duplicates: frozenset[int]


def unit_uri(run_uri: str, unit_id: str) -> str:
    """Where a unit's object stands."""
    return join(run_uri, "data", f"{unit_id}.parquet")


def to_ipc(table: pa.Table) -> bytes:
    """A table as an Arrow IPC stream: nested columns stay what they are between stages."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def from_ipc(data: bytes) -> pa.Table:
    """The table of an Arrow IPC stream, without copying."""
    return pa.ipc.open_stream(pa.py_buffer(data)).read_all()


def parquet_table(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """A whole Parquet object in memory as a table.

    Here and wherever a run reads Parquet: no data set and no threads of Arrow's. They may let go of Python's buffers
    only when the interpreter is already ending, and abort a process whose run is committed. Parallel work is Ray's.
    """
    parquet = pq.ParquetFile(pa.BufferReader(data))
    return parquet.read(columns=list(columns) if columns is not None else None, use_threads=False)
