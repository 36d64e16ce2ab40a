"""A unit of work on its way through the stages, and tables as bytes."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.storage import join
from qrcore.errors import ScoreError

if TYPE_CHECKING:
    from pipelines.plan import Unit
    from qrcore.encoding import EncodedRequest  # transformers, which reading and writing do not need


#: What each row asks in tokens, or why it cannot be answered, in order.
Encoded = tuple["EncodedRequest | ScoreError", ...]


@dataclass(frozen=True, slots=True, eq=False)
class UnitRows:
    """Input rows of one unit, where they come from, and which repeat an earlier ``query_id``; ``encoded``: the rows in
    tokens, where they were tokenised ahead."""

    table: pa.Table
    uri: str
    first_row: int
    duplicates: frozenset[int]
    encoded: Encoded | None = None

    def part(self, start: int, stop: int) -> UnitRows:
        """The rows from ``start`` to ``stop``, counted within the unit."""
        if (start, stop) == (0, len(self.table)):
            return self
        encoded = None if self.encoded is None else self.encoded[start:stop]
        return UnitRows(
            self.table.slice(start, stop - start), self.uri, self.first_row + start, self.duplicates, encoded
        )


def unit_rows(row: dict[str, Any], unit: Unit) -> UnitRows:
    """The rows of a unit on its way between two stages."""
    # Pickled by EncodeUnit a moment ago; nothing that was stored anywhere comes here.
    encoded = pickle.loads(row["encoded"]) if "encoded" in row else None
    return UnitRows(from_ipc(row["table"]), row["uri"], unit.start, frozenset(unit.duplicates), encoded)


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
