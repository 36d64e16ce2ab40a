"""Ranges of rows of input files, read so that memory follows the range and not its row groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.contracts import id_column_of
from pipelines.inputs import DAMAGE, check_unchanged, damage_of, rows_within
from pipelines.storage import FileInfo, Storage, StorageOptions
from qrcore.errors import InputError

_BYTES_AT_ONCE: Final = 16 * 2**20
_BATCH_ROWS: Final = 256


@dataclass(frozen=True, slots=True, eq=False)
class RowRange:
    """Rows of a file. ``damaged``: places in the table whose rows cannot be decoded, and why; they hold nulls, and
    their ``query_id`` where that can be read."""

    table: pa.Table
    damaged: dict[int, str]


def read_rows(file: FileInfo, start: int, stop: int, columns: Sequence[str], options: StorageOptions) -> pa.Table:
    """Rows ``start`` to ``stop`` of a file; columns that the file lacks are left out.

    Raises :class:`InputError` if the file changed since it was planned, or cannot be decoded.
    """
    found = read_range(file, start, stop, columns, options)
    for reason in found.damaged.values():
        raise InputError(
            f"{file.uri}: expected pages that can be decoded, it is {reason}. Restore the file, or set "
            "input.on_bad_file to skip, which makes error rows of what cannot be read."
        )
    return found.table


def read_range(
    file: FileInfo, start: int, stop: int, columns: Sequence[str], options: StorageOptions, largest_row: int = 0
) -> RowRange:
    """Rows ``start`` to ``stop`` of a file, damaged ones included; ``largest_row``: decoded bytes of the file's.

    Raises :class:`InputError` if the file changed since it was planned.
    """
    storage = Storage(file.uri, options)
    check_unchanged(file, storage.info(file.uri))
    with storage.open(file.uri) as stream:
        try:
            parquet = pq.ParquetFile(stream)
            schema = pa.schema([field for field in parquet.schema_arrow if field.name in columns])
        except DAMAGE as error:
            raise InputError(f"{file.uri}: expected Parquet, its footer is broken ({error}). Restore it.") from error
        present = [name for name in columns if name in schema.names]
        rows_at_once = rows_within(_BYTES_AT_ONCE, largest_row or 1)
        batches: list[pa.RecordBatch] = []
        damaged: dict[int, str] = {}
        for segment in _segments(parquet.metadata, start, stop):
            done = sum(len(batch) for batch in batches)
            try:
                _decode(parquet, segment, present, min(rows_at_once, max(stop - start, 16)), batches)
            except DAMAGE as error:
                got = sum(len(batch) for batch in batches) - done
                reason = damage_of(segment.group, segment.first + got, error)
                batches.append(_stand_in(parquet, segment, got, schema))
                damaged |= {done + place: reason for place in range(got, segment.rows)}
        return RowRange(pa.Table.from_batches(batches, schema=schema), damaged)


def read_batches(file: FileInfo, start: int, stop: int, options: StorageOptions) -> Iterator[pa.RecordBatch]:
    """All columns of rows ``start`` to ``stop`` of a file, one batch at a time.

    Raises :class:`InputError` if the file changed since it was planned, or cannot be decoded.
    """
    storage = Storage(file.uri, options)
    check_unchanged(file, storage.info(file.uri))
    with storage.open(file.uri) as stream:
        try:
            parquet = pq.ParquetFile(stream)
            for segment in _segments(parquet.metadata, start, stop):
                yield from _batches(parquet, segment, parquet.schema_arrow.names, _BATCH_ROWS)
        except DAMAGE as error:
            raise InputError(
                f"{file.uri}: expected Parquet that can be decoded ({error}). Restore the file."
            ) from error


@dataclass(frozen=True, slots=True)
class _Segment:
    """The part of a range that lies in one row group: ``rows`` from its row ``first`` on."""

    group: int
    first: int
    rows: int


def _segments(metadata: Any, start: int, stop: int) -> Iterator[_Segment]:
    position = 0
    for group in range(metadata.num_row_groups):
        end = position + metadata.row_group(group).num_rows
        first, last = max(start, position), min(stop, end)
        if first < last:
            yield _Segment(group, first - position, last - first)
        position = end


def _decode(
    parquet: pq.ParquetFile,
    segment: _Segment,
    columns: Sequence[str],
    rows_at_once: int,
    batches: list[pa.RecordBatch],
) -> None:
    """Append a segment's batches to ``batches`` as they are decoded, so that those before a damage are kept."""
    for batch in _batches(parquet, segment, columns, rows_at_once):
        batches.append(batch.replace_schema_metadata(None))


def _batches(
    parquet: pq.ParquetFile, segment: _Segment, columns: Sequence[str], rows_at_once: int
) -> Iterator[pa.RecordBatch]:
    position, stop = 0, segment.first + segment.rows
    for batch in parquet.iter_batches(
        rows_at_once, row_groups=[segment.group], columns=list(columns), use_threads=False
    ):
        first, last = max(segment.first - position, 0), min(stop - position, len(batch))
        if first < last:
            yield batch.slice(first, last - first)
        position += len(batch)
        if position >= stop:
            return


def _stand_in(parquet: pq.ParquetFile, segment: _Segment, got: int, schema: pa.Schema) -> pa.RecordBatch:
    rows = segment.rows - got
    nulls = {field.name: pa.nulls(rows, field.type) for field in schema}
    id_column = id_column_of(schema.names)
    if id_column in schema.names:
        rest = _Segment(segment.group, segment.first + got, rows)
        ids: list[pa.RecordBatch] = []
        try:
            _decode(parquet, rest, [id_column], 256, ids)
            nulls[id_column] = pa.concat_arrays([batch.column(0) for batch in ids])
        except DAMAGE:
            nulls[id_column] = pa.nulls(rows, schema.field(id_column).type)
    return pa.RecordBatch.from_arrays([nulls[field.name] for field in schema], schema=schema.remove_metadata())
