"""Input files: find them, look at them once for the plan, and read a range of rows later."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.schemas import INPUT_SCHEMA, check_input_schema
from pipelines.storage import FileInfo, Storage, StorageOptions, absolute, join
from qrcore.errors import IncompleteRunError, InputError

_ROWS_AT_ONCE: Final = 256
_FEWEST_ROWS_AT_ONCE: Final = 16
_BYTES_PER_TOKEN: Final = 4  # English text under common vocabularies; an estimate for balancing only


@dataclass(frozen=True, slots=True, eq=False)
class FileSurvey:
    """What one pass over an input file tells the plan.

    ``row_bytes``: decoded bytes of text a row; ``id_digests``: 16 bytes a row (null ids: empty); ``problem``: why
    the file cannot be read, with everything else empty.
    """

    file: FileInfo
    schema: pa.Schema | None
    row_bytes: np.ndarray
    id_digests: list[bytes]
    has_first_stage: bool
    problem: str = ""

    @property
    def row_tokens(self) -> np.ndarray:
        """Estimated prompt tokens a row."""
        return self.row_bytes // _BYTES_PER_TOKEN


def list_inputs(uris: Sequence[str], options: StorageOptions) -> list[FileInfo]:
    """The Parquet files of every URI: a file, a folder of them, or a committed run. Raises :class:`InputError`."""
    files: dict[str, FileInfo] = {}
    for uri in uris:
        found = _files_of(absolute(uri), Storage(uri, options))
        if not found:
            raise InputError(f"input {uri}: expected a Parquet file or a folder of them, found none. Check the URI.")
        files.update({info.uri: info for info in found})
    return list(files.values())


def _files_of(uri: str, storage: Storage) -> list[FileInfo]:
    if uri.endswith(".parquet") and not storage.is_folder(uri):  # Spark names folders like files
        return [storage.info(uri)] if storage.exists(uri) else []
    if storage.exists(join(uri, "_manifest.json")):
        manifest = json.loads(storage.read(join(uri, "_manifest.json")))
        return [storage.info(join(uri, entry["path"])) for entry in manifest["objects"]]
    if storage.exists(join(uri, "_plan.json")):
        raise InputError(
            f"input {uri}: expected a committed run, got one without a manifest. Finish it by running its command "
            "again, then use it as input."
        )
    return storage.list_files(uri, suffix=".parquet")


def survey_file(file: FileInfo, options: StorageOptions) -> FileSurvey:
    """One streaming pass over a file: schema, rows, decoded bytes and ids; texts are not kept.

    Content that is no Parquet becomes the survey's ``problem``; a store that fails raises :class:`StorageError`, for
    it says nothing about the file.
    """
    with Storage(file.uri, options).open(file.uri) as stream:
        try:
            return _survey(file, pq.ParquetFile(stream))
        except (pa.ArrowException, OSError) as error:  # pyarrow names some damage OSError; the stream never does
            return _unreadable(file, f"not readable as Parquet ({str(error).splitlines()[0]})")


def _survey(file: FileInfo, parquet: pq.ParquetFile) -> FileSurvey:
    problems = check_input_schema(parquet.schema_arrow)
    if problems:
        return _unreadable(file, "; ".join(problems))
    row_bytes, digests, has_first_stage = [], [], False
    for batch in parquet.iter_batches(_ROWS_AT_ONCE, columns=list(INPUT_SCHEMA.names), use_threads=False):
        row_bytes.append(_text_bytes(batch))
        digests += [_digest(query_id) for query_id in _as_binary(batch.column("query_id")).to_pylist()]
        has_first_stage = has_first_stage or _has_first_stage(batch)
    sizes = np.concatenate(row_bytes) if row_bytes else np.zeros(0, dtype=np.int64)
    return FileSurvey(file, parquet.schema_arrow, sizes, digests, has_first_stage)


def _unreadable(file: FileInfo, problem: str) -> FileSurvey:
    return FileSurvey(file, None, np.zeros(0, dtype=np.int64), [], False, problem)


def _as_binary(texts: pa.Array) -> pa.Array:
    # Parquet does not check that a string is UTF-8; as bytes it can be looked at whatever it is.
    return texts.cast(pa.large_string()).cast(pa.large_binary())


def _digest(query_id: bytes | None) -> bytes:
    return b"" if query_id is None else hashlib.blake2b(query_id, digest_size=16).digest()


def _text_bytes(batch: pa.RecordBatch) -> np.ndarray:
    lists = batch.column("candidates")
    parents = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)
    structs = pc.list_flatten(lists)
    names = [field.name for field in structs.type.fields if field.name in ("doc_id", "title", "text")]
    lengths = sum(_byte_lengths(pc.struct_field(structs, name)) for name in names)
    sizes: np.ndarray = np.bincount(parents, weights=lengths, minlength=len(batch)).astype(np.int64)
    total: np.ndarray = sizes + _byte_lengths(batch.column("query"))
    return total


def _byte_lengths(texts: pa.Array) -> np.ndarray:
    lengths = pc.fill_null(pc.binary_length(_as_binary(texts)), 0)
    return np.asarray(lengths.to_numpy(zero_copy_only=False), dtype=np.int64)


def _has_first_stage(batch: pa.RecordBatch) -> bool:
    structs = pc.list_flatten(batch.column("candidates"))
    names = {field.name for field in structs.type.fields} & {"score", "rank"}
    return any(pc.struct_field(structs, name).null_count < len(structs) for name in names)


def read_rows(file: FileInfo, start: int, stop: int, columns: Sequence[str], options: StorageOptions) -> pa.Table:
    """Rows ``start`` to ``stop`` of a file, streamed, so that memory follows the range and not its row groups.

    Columns that the file lacks are left out. Raises :class:`IncompleteRunError` if the file changed since it was
    planned.
    """
    with _unchanged(file, options) as parquet:
        present = [name for name in columns if name in parquet.schema_arrow.names]
        schema = pa.schema([field for field in parquet.schema_arrow if field.name in present])
        batches = [batch.replace_schema_metadata(None) for batch in _batches_of(parquet, start, stop, present)]
        return pa.Table.from_batches(batches, schema=schema)


def read_batches(file: FileInfo, start: int, stop: int, options: StorageOptions) -> Iterator[pa.RecordBatch]:
    """All columns of rows ``start`` to ``stop`` of a file, one batch at a time; raises as :func:`read_rows` does."""
    with _unchanged(file, options) as parquet:
        yield from _batches_of(parquet, start, stop, parquet.schema_arrow.names)


@contextmanager
def _unchanged(file: FileInfo, options: StorageOptions) -> Iterator[pq.ParquetFile]:
    storage = Storage(file.uri, options)
    now = storage.info(file.uri)
    if now.etag != file.etag:
        raise IncompleteRunError(
            f"{file.uri}: expected the file as planned (tag {file.etag}), it has changed (tag {now.etag}). "
            "Run the command again to plan the new content."
        )
    with storage.open(file.uri) as stream:
        yield pq.ParquetFile(stream)


def _batches_of(parquet: pq.ParquetFile, start: int, stop: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    groups, position = _groups_of(parquet.metadata, start, stop)
    rows_at_once = min(max(stop - start, _FEWEST_ROWS_AT_ONCE), _ROWS_AT_ONCE)
    for batch in parquet.iter_batches(rows_at_once, row_groups=groups, columns=list(columns), use_threads=False):
        first, last = max(start - position, 0), min(stop - position, len(batch))
        if first < last:
            yield batch.slice(first, last - first)
        position += len(batch)
        if position >= stop:
            return


def _groups_of(metadata: Any, start: int, stop: int) -> tuple[list[int], int]:
    """Row groups that hold a range of rows, and the first row of the first of them."""
    groups: list[int] = []
    first_row = position = 0
    for index in range(metadata.num_row_groups):
        end = position + metadata.row_group(index).num_rows
        if end > start and position < stop:
            if not groups:
                first_row = position
            groups.append(index)
        position = end
    return groups, first_row
