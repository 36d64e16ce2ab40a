"""Source files of any usual kind as rows: Parquet, JSON Lines, one JSON array or object, and plain text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.prepare.json_ranges import ByteRange, element_ranges, line_ranges
from pipelines.ranges import read_batches
from pipelines.storage import FileInfo, Storage, StorageOptions, absolute, join
from qrcore.errors import IncompleteRunError, InputError, ScoreError

Row = dict[str, Any]

_CHUNK_BYTES: Final = 2**20
_ROWS_AT_ONCE: Final = 64
_KINDS: Final = {
    ".parquet": "parquet",
    ".jsonl": "lines",
    ".ndjson": "lines",
    ".json": "array",
    ".txt": "text",
    ".md": "text",
}


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of a source file: rows ``start`` to ``stop`` of a Parquet file, bytes of any other.

    ``first_row``: the number of its first row in the file; ``bytes``: what the rows take, as far as that is known.
    """

    file: int
    start: int
    stop: int
    first_row: int
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row as it stands in a file, or why it cannot be read."""

    number: int
    content: Row | ScoreError


def list_sources(uris: Sequence[str], options: StorageOptions) -> list[FileInfo]:
    """The readable files of every URI: a file, a folder of them, or a committed run. Raises :class:`InputError`."""
    files: dict[str, FileInfo] = {}
    for uri in uris:
        found = _files_of(absolute(uri), Storage(uri, options))
        if not found:
            raise InputError(
                f"input {uri}: expected a file or a folder of files ending in {', '.join(_KINDS)}, found none. "
                "Check the URI."
            )
        files.update({info.uri: info for info in found})
    return list(files.values())


def _files_of(uri: str, storage: Storage) -> list[FileInfo]:
    if storage.is_folder(uri):
        if storage.exists(join(uri, "_manifest.json")):
            manifest = json.loads(storage.read(join(uri, "_manifest.json")))
            return [storage.info(join(uri, entry["path"])) for entry in manifest["objects"]]
        return [info for info in storage.list_files(uri) if _kind_or_none(info.uri)]
    if not storage.exists(uri):
        return []
    kind_of(uri)
    return [storage.info(uri)]


def kind_of(uri: str) -> str:
    """How a file is read: ``parquet``, ``lines``, ``array`` or ``text``. Raises :class:`InputError`."""
    kind = _kind_or_none(uri)
    if kind is None:
        raise InputError(
            f"input {uri}: expected a file ending in {', '.join(_KINDS)}. Convert it, or unpack it if it is compressed."
        )
    return kind


def _kind_or_none(uri: str) -> str | None:
    return next((kind for suffix, kind in _KINDS.items() if uri.lower().endswith(suffix)), None)


def cut_file(number: int, file: FileInfo, max_bytes: int, max_rows: int, options: StorageOptions) -> list[Part]:
    """One streaming pass over a file: parts of at most ``max_bytes`` and ``max_rows`` rows; a larger row is alone.

    Raises :class:`InputError` for a file that is not what its name says.
    """
    rows = _parquet_sizes(file, options) if kind_of(file.uri) == "parquet" else _byte_sizes(file, options)
    parts: list[Part] = []
    start = stop = first_row = count = size = 0
    for begin, end, row_bytes in rows:
        if count and (size + row_bytes > max_bytes or count >= max_rows):
            parts.append(Part(number, start, stop, first_row, count, size))
            first_row, count, size = first_row + count, 0, 0
        if not count:
            start = begin
        stop, count, size = end, count + 1, size + row_bytes
    return [*parts, Part(number, start, stop, first_row, count, size)] if count else parts


def _parquet_sizes(file: FileInfo, options: StorageOptions) -> Iterator[tuple[int, int, int]]:
    position = 0
    with Storage(file.uri, options).open(file.uri) as stream:
        try:
            for batch in pq.ParquetFile(stream).iter_batches(_ROWS_AT_ONCE, use_threads=False):
                for place in range(len(batch)):
                    yield position + place, position + place + 1, batch.nbytes // len(batch)
                position += len(batch)
        except (pa.ArrowException, OSError) as error:
            raise InputError(
                f"input {file.uri}: expected Parquet, got a file that is not readable as it "
                f"({str(error).splitlines()[0]}). Correct or remove it."
            ) from error


def _byte_sizes(file: FileInfo, options: StorageOptions) -> Iterator[tuple[int, int, int]]:
    if kind_of(file.uri) == "text":
        yield 0, file.size, file.size
        return
    with Storage(file.uri, options).open(file.uri) as stream:
        chunks = iter(lambda: stream.read(_CHUNK_BYTES), b"")
        try:
            ranges = line_ranges(chunks) if kind_of(file.uri) == "lines" else element_ranges(chunks)
            yield from ((one.start, one.stop, one.stop - one.start) for one in ranges)
        except ValueError as error:
            raise InputError(f"input {file.uri}: expected one JSON array; {error}. Complete the file.") from error


def read_part(part: Part, file: FileInfo, root: str, options: StorageOptions) -> Iterator[SourceRow]:
    """The rows of a part, a few at a time. Raises :class:`IncompleteRunError` if the file changed since the plan."""
    if kind_of(file.uri) == "parquet":
        yield from _parquet_rows(part, file, options)
        return
    data = _read_bytes(part, file, options)
    if kind_of(file.uri) == "text":
        yield SourceRow(0, _text_row(data, file.uri, root))
        return
    for place, (start, stop) in enumerate(_ranges_in(data, kind_of(file.uri))):
        yield SourceRow(part.first_row + place, _json_row(data[start:stop]))


def _ranges_in(data: bytes, kind: str) -> Iterator[ByteRange]:
    if kind == "lines":
        yield from line_ranges([data])
        return
    # The bytes between two elements of the array: in brackets they are an array again, one byte further on.
    yield from (ByteRange(start - 1, stop - 1) for start, stop in element_ranges([b"[", data, b"]"]))


def _read_bytes(part: Part, file: FileInfo, options: StorageOptions) -> bytes:
    storage = Storage(file.uri, options)
    now = storage.info(file.uri)
    if now.etag != file.etag:
        raise IncompleteRunError(
            f"{file.uri}: expected the file as planned (tag {file.etag}), it has changed (tag {now.etag}). "
            "Run the command again to plan the new content."
        )
    with storage.open(file.uri) as stream:
        stream.seek(part.start)
        return bytes(stream.read(part.stop - part.start) or b"")


def _json_row(data: bytes) -> Row | ScoreError:
    try:
        row = json.loads(data)
    except (ValueError, RecursionError) as error:
        return _bad("invalid_json", f"row: expected a JSON object in UTF-8, got {data[:60]!r} ({error}). Correct it.")
    if not isinstance(row, dict):
        return _bad("invalid_row", f"row: expected a JSON object, got {type(row).__name__}. Correct it.")
    return row


def _text_row(data: bytes, uri: str, root: str) -> Row | ScoreError:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return _bad("invalid_text", f"file: expected UTF-8 text, got bytes that are not ({error}). Re-encode it.")
    name = uri[len(root) :].strip("/") if root and uri.startswith(root) else ""
    return {"document_id": (name or uri.rsplit("/", 1)[-1]).rsplit(".", 1)[0], "text": text}


def _parquet_rows(part: Part, file: FileInfo, options: StorageOptions) -> Iterator[SourceRow]:
    number = part.start
    for batch in read_batches(file, part.start, part.stop, options):
        for start in range(0, len(batch), _ROWS_AT_ONCE):
            for row in _python_rows(batch.slice(start, _ROWS_AT_ONCE)):
                yield SourceRow(number, row)
                number += 1


def _python_rows(table: pa.RecordBatch) -> list[Row | ScoreError]:
    try:
        return list(table.to_pylist())
    except UnicodeDecodeError:
        return [_python_row(table.slice(place, 1)) for place in range(len(table))]


def _python_row(table: pa.RecordBatch) -> Row | ScoreError:
    try:
        return dict(table.to_pylist()[0])
    except UnicodeDecodeError as error:
        return _bad("invalid_text", f"row: expected UTF-8 text, got bytes that are not ({error}). Re-encode it.")


def _bad(code: str, message: str) -> ScoreError:
    return ScoreError(code, message, stage="read")
