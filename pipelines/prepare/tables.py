"""Tables beside the input: a corpus by id or by BM25, runs, queries and judgements.

They are read in tasks and kept in Ray's object store, where the processes of a node share one copy: a corpus has to
fit there (it spills to disk), never into the driver. Ids are found through sorted 64-bit hashes, since a dictionary
would be copied into every process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.bm25 import Bm25Index
from pipelines.labels import decoded
from pipelines.prepare.records import Piece, text_of
from pipelines.prepare.sources import Part, SourceRow, kind_of, list_sources, read_part
from pipelines.storage import FileInfo, Storage, StorageOptions, absolute
from pipelines.trec import read_run
from pipelines.units import parquet_table
from qrcore.errors import InputError, ScoreError

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True, eq=False)
class IdIndex:
    """Positions by id: ``hashes`` ascending, ``positions`` beside them; found ones are compared with the id itself."""

    hashes: np.ndarray
    positions: np.ndarray
    ids: pa.ChunkedArray

    @classmethod
    def of(cls, ids: pa.ChunkedArray) -> IdIndex:
        """An index of these ids, in which each may stand once; see :meth:`repeated`."""
        hashes = np.fromiter((hash_of(one.as_py()) for one in ids), dtype=np.uint64, count=len(ids))
        order = np.argsort(hashes, kind="stable")
        return cls(hashes[order], order, ids)

    def find(self, name: str) -> int | None:
        """The position of an id, None where there is none."""
        place = int(np.searchsorted(self.hashes, hash_of(name)))
        while place < len(self.hashes) and self.hashes[place] == hash_of(name):
            position = int(self.positions[place])
            if self.ids[position].as_py() == name:
                return position
            place += 1
        return None

    def repeated(self) -> str | None:
        """An id that stands more than once, if there is one."""
        for place in np.flatnonzero(self.hashes[1:] == self.hashes[:-1]).tolist():
            first, second = (self.ids[int(self.positions[place + step])].as_py() for step in (0, 1))
            if first == second:
                return str(first)
        return None


def hash_of(name: str) -> np.uint64:
    """64 bits of an id that are the same in every process."""
    return np.uint64(int.from_bytes(hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest()))


@dataclass(frozen=True, slots=True, eq=False)
class CorpusTable:
    """Documents (``doc_id``, ``title``, ``text``) and their index."""

    table: pa.Table
    index: IdIndex

    @property
    def mean_bytes(self) -> int:
        """Mean size of a document's text."""
        return int((pc.sum(pc.binary_length(self.table["text"])).as_py() or 0) // max(len(self.table), 1))

    def piece(self, position: int, rank: int, score: float | None) -> Piece:
        """The document at a position as a candidate."""
        row = {name: self.table[name][position].as_py() for name in self.table.column_names}
        return Piece(row["doc_id"], row["text"], row["title"], score, rank)


@dataclass(frozen=True, slots=True, eq=False)
class RunTable:
    """Lines of a run, each query's together and by rank; ``index`` finds a query's ``starts`` and ``stops``."""

    table: pa.Table
    index: IdIndex
    starts: np.ndarray
    stops: np.ndarray

    def lines(self, query_id: str) -> list[dict[str, object]]:
        """A query's lines, best first; none where the run lacks the query."""
        place = self.index.find(query_id)
        if place is None:
            return []
        start, stop = int(self.starts[place]), int(self.stops[place])
        return list(self.table.slice(start, stop - start).to_pylist())


def load_corpus(uris: Sequence[str], names: Mapping[str, str], options: StorageOptions) -> CorpusTable:
    """A corpus of ``doc_id``, ``text`` and optionally ``title``, from files of any usual kind.

    Raises :class:`InputError` for a row that is no document and for an id that stands twice.
    """
    schema = pa.schema([("doc_id", pa.large_string()), ("title", pa.large_string()), ("text", pa.large_string())])
    batches, rows = [], []
    for file, row in table_rows("corpus", uris, options):
        rows.append(_document(file, row, names))
        if len(rows) == _ROWS_AT_ONCE:
            batches.append(pa.RecordBatch.from_pylist(rows, schema=schema))
            rows = []
    batches.append(pa.RecordBatch.from_pylist(rows, schema=schema))
    table = pa.Table.from_batches(batches, schema=schema).combine_chunks()
    corpus = CorpusTable(table, IdIndex.of(table["doc_id"]))
    if repeated := corpus.index.repeated():
        raise InputError(f"corpus: expected each doc_id once, got {repeated!r} again. Remove or rename one.")
    return corpus


def _document(file: str, row: SourceRow, names: Mapping[str, str]) -> dict[str, str | None]:
    content = named(row.content, names) if isinstance(row.content, dict) else row.content
    try:
        if isinstance(content, ScoreError):
            raise content
        doc_id = text_of(content, "doc_id") if "doc_id" in content else text_of(content, "_id")
        return {
            "doc_id": doc_id,
            "title": text_of(content, "title", optional=True) or None,
            "text": text_of(content, "text"),
        }
    except ScoreError as error:
        raise InputError(f"corpus {file}, row {row.number}: {error}") from error


def named(row: dict[str, object], names: Mapping[str, str]) -> dict[str, object]:
    """A row with the user's columns under the names that recipes read (``names``: ours to theirs)."""
    renamed = {ours: row[theirs] for ours, theirs in names.items() if theirs in row}
    return {**{name: value for name, value in row.items() if name not in names.values()}, **renamed}


def table_rows(what: str, uris: Sequence[str], options: StorageOptions) -> Iterator[tuple[str, SourceRow]]:
    """Every row of a table beside the input, with its file."""
    try:
        files = list_sources(uris, options)
    except InputError as error:
        raise InputError(f"{what}: {error}") from error
    for number, file in enumerate(files):
        for part in _whole(number, file, options):
            for row in read_part(part, file, "", options):
                yield file.uri, row


def _whole(number: int, file: FileInfo, options: StorageOptions) -> list[Part]:
    from pipelines.prepare.sources import cut_file

    return cut_file(number, file, 64 * 2**20, 2**31, options) if kind_of(file.uri) != "text" else []


def load_run(uri: str, options: StorageOptions) -> RunTable:
    """A run from a TREC file, or from Parquet with ``query_id``, ``doc_id``, ``rank`` and optionally ``score``.

    Raises :class:`InputError`.
    """
    storage = Storage(uri, options)
    place = absolute(uri)
    if not storage.exists(place):
        raise InputError(f"run {uri}: expected a TREC run file or Parquet, found nothing. Check the URI.")
    data = storage.read(place)
    table = _parquet_run(uri, data) if uri.endswith(".parquet") else _trec_run(uri, decoded(uri, data))
    table = table.sort_by([("query_id", "ascending"), ("rank", "ascending")]).combine_chunks()
    codes = table["query_id"].combine_chunks().dictionary_encode()
    numbers = codes.indices.to_numpy(zero_copy_only=False)
    starts = np.flatnonzero(np.diff(numbers, prepend=-1)) if len(numbers) else np.zeros(0, dtype=np.int64)
    return RunTable(
        table, IdIndex.of(pa.chunked_array([codes.dictionary])), starts, np.append(starts[1:], len(numbers))
    )


def _trec_run(uri: str, text: str) -> pa.Table:
    lines = [line._asdict() for found in read_run(uri, text).values() for line in found]
    return pa.Table.from_pylist(lines, schema=_RUN)


def _parquet_run(uri: str, data: bytes) -> pa.Table:
    try:
        table = parquet_table(data)
        if "score" not in table.column_names:
            table = table.append_column("score", pa.nulls(len(table), pa.float64()))
        return table.select(_RUN.names).cast(_RUN)
    except (pa.ArrowException, KeyError, OSError) as error:
        raise InputError(
            f"run {uri}: expected columns query_id: string, doc_id: string, rank: int and score: double "
            f"({str(error).splitlines()[0]}). Correct the file."
        ) from error


_RUN = pa.schema(
    [("query_id", pa.large_string()), ("doc_id", pa.large_string()), ("rank", pa.int32()), ("score", pa.float64())]
)


def load_queries(
    uris: Sequence[str], names: Mapping[str, str], options: StorageOptions
) -> dict[str, list[tuple[str, str]]]:
    """Queries (``query_id``, ``query``) by ``document_id``; those without one under ''. Raises :class:`InputError`."""
    queries: dict[str, list[tuple[str, str]]] = {}
    for file, row in table_rows("queries", uris, options):
        try:
            if isinstance(row.content, ScoreError):
                raise row.content
            content = named(row.content, names)
            asked = (text_of(content, "query_id"), text_of(content, "query"))
            queries.setdefault(text_of(content, "document_id", optional=True), []).append(asked)
        except ScoreError as error:
            raise InputError(f"queries {file}, row {row.number}: {error}") from error
    return queries


@dataclass(frozen=True, slots=True, eq=False)
class RunCandidates:
    """The first stage is a run; ``depth`` bounds its lists, None takes them whole."""

    corpus: CorpusTable
    run: RunTable
    depth: int | None

    def candidates(self, query_id: str, query: str) -> list[Piece]:
        """A query's candidates by rank. Raises :class:`ScoreError` for none, and for documents that do not exist."""
        lines = self.run.lines(query_id)[: self.depth]
        if not lines:
            raise ScoreError(
                "no_candidates",
                f"query {query_id!r}: expected lines in the run, found none. Add them, or leave the query out.",
                stage="prepare",
                query_id=query_id,
            )
        found = [(line, self.corpus.index.find(str(line["doc_id"]))) for line in lines]
        if missing := [str(line["doc_id"]) for line, position in found if position is None]:
            raise ScoreError(
                "missing_documents",
                f"query {query_id!r}: expected the run's documents in the corpus, {len(missing)} of {len(lines)} are "
                f"not there ({', '.join(missing[:3])}). Complete the corpus.",
                stage="prepare",
                query_id=query_id,
            )
        return [
            self.corpus.piece(position, rank, line["score"])  # type: ignore[arg-type]
            for rank, (line, position) in enumerate(found, start=1)
            if position is not None
        ]


@dataclass(frozen=True, slots=True, eq=False)
class Bm25Candidates:
    """The first stage is BM25 over the corpus, its ``depth`` best."""

    corpus: CorpusTable
    index: Bm25Index
    depth: int

    def candidates(self, query_id: str, query: str) -> list[Piece]:
        """A query's candidates by score. Raises :class:`ScoreError` if no document shares a word with it."""
        hits = self.index.top(query, self.depth)
        if not hits:
            raise ScoreError(
                "no_candidates",
                f"query {query_id!r}: expected documents that share a word with it, BM25 found none. Give a run for "
                "such queries.",
                stage="prepare",
                query_id=query_id,
            )
        return [self.corpus.piece(hit.position, rank, hit.score) for rank, hit in enumerate(hits, start=1)]


def index_corpus(corpus: CorpusTable) -> Bm25Index:
    """BM25 over title and text."""
    titles, texts = corpus.table["title"].to_pylist(), corpus.table["text"].to_pylist()
    return Bm25Index([f"{title or ''} {text}" for title, text in zip(titles, texts, strict=True)])
