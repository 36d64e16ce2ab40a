"""Input files: find them, look at them once for the plan, and read a range of rows later."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.contracts import QUERIES, RowContract
from pipelines.storage import FileInfo, Storage, StorageOptions, absolute, join
from qrcore.errors import InputError

_REQUESTS_AT_ONCE: Final = 16
_ROWS_AT_ONCE: Final = 256
_FEWEST_ROWS_AT_ONCE: Final = 16
#: What pyarrow raises for damage: its own errors, OSError for some, and names in a footer that are no text. A stream of
#: ours never raises these.
DAMAGE: Final = (pa.ArrowException, OSError, UnicodeDecodeError)
#: Decoded bytes that are held at once while a file is read; a larger single row is held alone.
_BYTES_AT_ONCE: Final = 16 * 2**20
_ID_BYTES: Final = 16
_NO_IDS: Final = np.zeros((0, 2), dtype=np.uint64)
_BYTES_PER_TOKEN: Final = 4  # English text under common vocabularies; an estimate for balancing only


@dataclass(frozen=True, slots=True, eq=False)
class FileSurvey:
    """What one pass over an input file tells the plan.

    Kept for every file of a plan, so it holds arrays and no objects a row. ``row_bytes``: decoded bytes of text a row;
    ``id_digests``: (rows, 2), 16 bytes of each row's id, zeros for a null id; ``list_digests``: of titles and texts of
    its candidates, so that rows over the same documents have the same, empty for rows that list none; ``problem``: why
    the file cannot be read, with everything else empty; ``damage``: why some of its rows cannot, which then count no
    bytes and have no ids.
    """

    file: FileInfo
    schema: pa.Schema | None
    row_bytes: np.ndarray
    id_digests: np.ndarray
    has_first_stage: bool
    problem: str = ""
    damage: str = ""
    list_digests: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.uint64))

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


def unchanged_files(files: Sequence[FileInfo], options: StorageOptions) -> tuple[FileInfo, ...]:
    """The same files. Raises :class:`InputError` if one is not there any more as it was."""
    with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as threads:
        found = threads.map(lambda file: Storage(file.uri, options).info(file.uri), files)
        for file, now in zip(files, found, strict=True):
            check_unchanged(file, now)
    return tuple(files)


def check_unchanged(planned: FileInfo, now: FileInfo) -> None:
    """Raise :class:`InputError` if a file is not the one that was planned."""
    if now.etag != planned.etag:
        raise InputError(
            f"{planned.uri}: expected the file as planned (tag {planned.etag}), it has changed (tag {now.etag}). "
            "Run the command again to plan the new content, as a run of its own."
        )


def survey_file(file: FileInfo, options: StorageOptions, contract: RowContract = QUERIES) -> FileSurvey:
    """One streaming pass over a file of rows that follow ``contract``: schema, rows, decoded bytes and ids; texts are
    not kept.

    Content that is no Parquet becomes the survey's ``problem``; a store that fails raises :class:`StorageError`, for
    it says nothing about the file.
    """
    with Storage(file.uri, options).open(file.uri) as stream:
        try:
            return _survey(file, pq.ParquetFile(stream), contract)
        except DAMAGE as error:
            return _unreadable(file, f"not readable as Parquet ({str(error).splitlines()[0]})")


def _survey(file: FileInfo, parquet: pq.ParquetFile, contract: RowContract) -> FileSurvey:
    problems = contract.check(parquet.schema_arrow)
    if problems:
        return _unreadable(file, "; ".join(problems))
    row_bytes: list[np.ndarray] = []
    lists: list[np.ndarray] = []
    ids: list[np.ndarray] = []
    has_first_stage, damage = False, ""
    for group in range(parquet.num_row_groups):
        rows = parquet.metadata.row_group(group).num_rows
        done = 0
        try:
            for batch in _survey_batches(parquet, group, contract):
                row_bytes.append(_text_bytes(batch, contract))
                if contract.lists_candidates:
                    lists.append(_list_digests(batch))
                ids.append(_id_digests(batch.column(contract.id_column)))
                done += len(batch)
                has_first_stage = has_first_stage or _has_first_stage(batch)
        except DAMAGE as error:
            damage = damage or damage_of(group, done, error)
            row_bytes.append(np.zeros(rows - done, dtype=np.int64))
            if contract.lists_candidates:
                lists.append(np.zeros(rows - done, dtype=np.uint64))
            ids.append(np.zeros((rows - done, 2), dtype=np.uint64))
    return FileSurvey(
        file,
        parquet.schema_arrow.remove_metadata(),
        np.concatenate([np.zeros(0, dtype=np.int64), *row_bytes]),
        np.concatenate([_NO_IDS, *ids]),
        has_first_stage,
        damage=damage,
        list_digests=np.concatenate([np.zeros(0, dtype=np.uint64), *lists]),
    )


def damage_of(group: int, row: int, error: Exception) -> str:
    """What to say of a row group that cannot be decoded from a row on, behind a footer that can."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return f"not readable as Parquet in row group {group} from its row {row} on ({reason})"


def _survey_batches(parquet: pq.ParquetFile, group: int, contract: RowContract) -> Iterator[pa.RecordBatch]:
    """A row group in batches of bounded size. Footers do not tell how much text pages decode to, so the first rows do;
    where later ones are much larger, the group is begun again with smaller batches and what was seen is left out."""
    rows_at_once, seen, may_grow = 1, 0, True
    total = parquet.metadata.row_group(group).num_rows
    while seen < total:
        position, again = 0, False
        for batch in parquet.iter_batches(
            rows_at_once, row_groups=[group], columns=list(contract.columns), use_threads=False
        ):
            unseen = batch.slice(max(0, seen - position))
            position += len(batch)
            if not len(unseen):
                continue
            yield unseen
            seen = position
            fitting = rows_within(_BYTES_AT_ONCE, batch.nbytes / len(batch))
            too_many = fitting < rows_at_once / 4
            if seen < total and (too_many or (may_grow and fitting > 8 * rows_at_once)):
                rows_at_once, again = min(fitting, 16 * rows_at_once), True
                may_grow = may_grow and not too_many  # each new beginning decodes again what was seen
                break
        if not again:
            return


def rows_within(size: int, row_bytes: float) -> int:
    """How many rows of a size to decode at once."""
    return int(min(max(size // max(row_bytes, 1), 1), _ROWS_AT_ONCE))


def _unreadable(file: FileInfo, problem: str) -> FileSurvey:
    return FileSurvey(file, None, np.zeros(0, dtype=np.int64), _NO_IDS, False, problem)


def _as_binary(texts: pa.Array) -> pa.Array:
    # Parquet does not check that a string is UTF-8; as bytes it can be looked at whatever it is.
    return texts.cast(pa.large_string()).cast(pa.large_binary())


def _id_digests(ids: pa.Array) -> np.ndarray:
    digests = b"".join(_digest(row_id) for row_id in _as_binary(ids).to_pylist())
    return np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)


def _digest(row_id: bytes | None) -> bytes:
    return bytes(_ID_BYTES) if row_id is None else hashlib.blake2b(row_id, digest_size=_ID_BYTES).digest()


def _text_bytes(batch: pa.RecordBatch, contract: RowContract) -> np.ndarray:
    total = np.zeros(len(batch), dtype=np.int64)
    for name in contract.texts:
        total = total + _byte_lengths(batch.column(name))
    return total + _candidate_bytes(batch) if contract.lists_candidates else total


def _candidate_bytes(batch: pa.RecordBatch) -> np.ndarray:
    lists = batch.column("candidates")
    parents = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)
    structs = pc.list_flatten(lists)
    names = [field.name for field in structs.type.fields if field.name in ("doc_id", "title", "text")]
    lengths = sum(_byte_lengths(pc.struct_field(structs, name)) for name in names)
    sizes: np.ndarray = np.bincount(parents, weights=lengths, minlength=len(batch)).astype(np.int64)
    return sizes


def _list_digests(batch: pa.RecordBatch) -> np.ndarray:
    """8 bytes a row, of the titles and texts of its candidates."""
    lists = batch.column("candidates")
    ends = np.cumsum(pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False))
    structs = pc.list_flatten(lists)
    names = [field.name for field in structs.type.fields if field.name in ("title", "text")]
    texts = [_as_binary(pc.struct_field(structs, name)) for name in names]
    digests = []
    for start, end in pairwise([0, *ends.tolist()]):
        digest = hashlib.blake2b(digest_size=8)
        for column in texts:
            digest.update(_bytes_between(column, start, end))
        digests.append(int.from_bytes(digest.digest(), "little"))
    return np.array(digests, dtype=np.uint64)


def _bytes_between(texts: pa.Array, start: int, end: int) -> memoryview:
    """The bytes of neighbouring texts as they lie in memory, without copying."""
    _, offsets, data = texts.buffers()
    if data is None or start == end:
        return memoryview(b"")
    places = np.frombuffer(offsets, dtype=np.int64)[texts.offset :]
    return memoryview(data)[places[start] : places[end]]


def _byte_lengths(texts: pa.Array) -> np.ndarray:
    lengths = pc.fill_null(pc.binary_length(_as_binary(texts)), 0)
    return np.asarray(lengths.to_numpy(zero_copy_only=False), dtype=np.int64)


def _has_first_stage(batch: pa.RecordBatch) -> bool:
    if "candidates" not in batch.schema.names:
        return False
    structs = pc.list_flatten(batch.column("candidates"))
    names = {field.name for field in structs.type.fields} & {"score", "rank"}
    return any(pc.struct_field(structs, name).null_count < len(structs) for name in names)
