"""Prepare one unit: read source rows, let the recipe make shard rows of them, write shards, labels and a marker.

The marker is the unit's completion: a Parquet object put last and create-only, one row for everything that came of the
unit's source rows, with what was written in its footer.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from pydantic import BaseModel, ConfigDict

from pipelines.prepare.recipes import Tools, recipe
from pipelines.prepare.records import Prepared, Row, shard_row, shard_schema
from pipelines.prepare.sources import Part, SourceRow, read_part
from pipelines.prepare.splitters import SplitSettings, make_splitter
from pipelines.prepare.tables import Bm25Candidates, RunCandidates, named
from pipelines.rows import error_fields
from pipelines.schemas import ERROR, QRELS_SCHEMA, SOURCE
from pipelines.storage import FileInfo, Storage, StorageOptions, join
from qrcore.errors import RunError, ScoreError

MARKER_KEY: Final = b"qrbatch.prepare"
ANSWERS_SCHEMA: Final = pa.schema([("query_id", pa.string()), ("answers", pa.list_(pa.string()))])
#: One row for each row of a shard, each source row that failed, and each that a recipe left out.
MARKER_SCHEMA: Final = pa.schema(
    [
        ("source", SOURCE),
        ("query_id", pa.string()),
        ("candidates", pa.int32()),
        ("characters", pa.int64()),
        ("longest", pa.int64()),
        ("repeated_texts", pa.int32()),
        ("gold", pa.int32()),
        ("gold_missing", pa.int32()),
        ("left_out", pa.bool_()),
        ("error", ERROR),
    ]
)


class PreparedUnit(BaseModel):
    """Parts of source files that are prepared and committed as a whole."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    unit_id: str
    parts: tuple[Part, ...]

    @property
    def rows(self) -> int:
        """Source rows."""
        return sum(part.rows for part in self.parts)

    @property
    def tokens(self) -> int:
        """Tokens that a model will read: none here."""
        return 0


@dataclass(frozen=True, slots=True)
class Beside:
    """References to tables in the object store, as far as the recipe has them."""

    corpus: Any = None
    run: Any = None
    bm25: Any = None
    queries: Any = None
    gold: Any = None


@dataclass(frozen=True, slots=True)
class Work:
    """What every unit is told; small, because it travels to every task."""

    recipe: str
    split: SplitSettings
    granularity: str
    only_judged: bool
    depth: int | None
    columns: Mapping[str, str]
    carry: tuple[str, ...]
    shard_bytes: int
    format: str
    run_uri: str
    roots: tuple[str, ...]
    files: tuple[tuple[str, int, str], ...]
    beside: Beside
    storage: StorageOptions


def marker_uri(run_uri: str, unit_id: str) -> str:
    """Where a unit's marker stands; names that begin with ``_`` are no input of any job."""
    return join(run_uri, "_units", f"{unit_id}.parquet")


def prepare_unit(row: dict[str, Any], work: Work) -> dict[str, Any]:
    """Prepare one unit and put its objects; the footer of its marker as JSON."""
    unit = PreparedUnit.model_validate_json(row["unit"])
    writer = _UnitWriter(unit.unit_id, work)
    tools = _tools(work)
    for part in unit.parts:
        file = FileInfo(*work.files[part.file])
        for source in read_part(part, file, work.roots[part.file], work.storage):
            _prepare_row(source, file.uri, work, tools, writer)
    return {"footer": json.dumps(writer.finish(unit.rows))}


def _prepare_row(source: SourceRow, uri: str, work: Work, tools: Tools, writer: _UnitWriter) -> None:
    """All rows that come of a source row, or its error and none of them."""
    place = {"uri": uri, "row": source.number}
    if isinstance(source.content, ScoreError):
        writer.fail(place, source.content)
        return
    content = {**named(source.content, work.columns), "_source": f"{uri.rsplit('/', 1)[-1]}:{source.number}"}
    made = 0
    try:
        for prepared in recipe(work.recipe).prepare(content, tools):
            made += 1
            try:
                writer.add(place, prepared, shard_row(prepared, work.carry))
            except ScoreError as error:
                writer.fail(place, _of_query(error, prepared.query_id))
    except ScoreError as error:
        writer.fail(place, _of_query(error, _name_of(content)))
        return
    if not made:
        writer.leave_out(place)


def _name_of(content: Row) -> str | None:
    """What a row that cannot be read calls itself, as far as it does."""
    names = (content.get(key) for key in ("query_id", "question_id", "_id", "id", "document_id", "sample_id"))
    return next((str(name) for name in names if name is not None), None)


def _of_query(error: ScoreError, query_id: str | None) -> ScoreError:
    return ScoreError(error.code, str(error), stage="prepare", query_id=error.query_id or query_id)


def _tools(work: Work) -> Tools:
    return Tools(
        split=make_splitter(work.split),
        turns=work.split.turns,
        granularity=work.granularity,
        corpus=_corpus(work),
        queries=_fetched(work.beside.queries),
        gold=_fetched(work.beside.gold),
        only_judged=work.only_judged,
    )


def _corpus(work: Work) -> RunCandidates | Bm25Candidates | None:
    corpus = _fetched(work.beside.corpus)
    if corpus is None:
        return None
    if work.beside.run is not None:
        return RunCandidates(corpus, _fetched(work.beside.run), work.depth)
    return Bm25Candidates(corpus, _fetched(work.beside.bm25), work.depth or 100)


@lru_cache(maxsize=8)
def _fetched(reference: Any) -> Any:
    # A process prepares many units: what is not one flat buffer would be unpacked again for each of them.
    return None if reference is None else ray.get(reference)


class _UnitWriter:
    """Collects rows, puts a shard whenever enough came together, and the marker at the end."""

    def __init__(self, unit_id: str, work: Work) -> None:
        self._unit_id, self._work, self._started = unit_id, work, time.monotonic()
        self._storage = Storage(work.run_uri, work.storage)
        self._schema = shard_schema(work.carry)
        self._rows: list[Row] = []
        self._bytes = 0
        self._objects: list[dict[str, Any]] = []
        self._judgements: list[Row] = []
        self._answers: list[Row] = []
        self._notes: list[Row] = []
        self._counts: Counter[str] = Counter(prepared=0, failed=0, left_out=0)
        self._errors: Counter[str] = Counter()

    def add(self, place: Row, prepared: Prepared, row: Row) -> None:
        """Take in one row of a shard."""
        size = _text_bytes(row)
        if self._rows and self._bytes + size > self._work.shard_bytes:
            self._put_shard()
        self._rows.append(row)
        self._bytes += size
        self._counts["prepared"] += 1
        self._notes.append({**_measures(prepared), "source": place, "left_out": False, "error": None})
        self._judgements += [
            {"query_id": prepared.query_id, "doc_id": doc_id, "relevance": relevance}
            for doc_id, relevance in (prepared.gold or {}).items()
        ]
        if prepared.answers is not None:
            self._answers.append({"query_id": prepared.query_id, "answers": list(prepared.answers)})

    def fail(self, place: Row, error: ScoreError) -> None:
        """Take in the error of a source row, or of one row of several that come of it."""
        self._counts["failed"] += 1
        self._errors[error.code] += 1
        note = {"source": place, "left_out": False, "error": error_fields(error)}
        self._notes.append({**note, "query_id": _writable(error.query_id)})

    def leave_out(self, place: Row) -> None:
        """Note a source row of which the recipe makes nothing on purpose."""
        self._counts["left_out"] += 1
        self._notes.append({"source": place, "left_out": True, "error": None})

    def finish(self, source_rows: int) -> dict[str, Any]:
        """Put what is left and the marker; its footer."""
        if self._rows:
            self._put_shard()
        footer = {
            "unit_id": self._unit_id,
            "source_rows": source_rows,
            **self._counts,
            "errors": dict(self._errors),
            "prepare_s": time.monotonic() - self._started,
            "objects": self._objects,
            "labels": [
                *self._labels("qrels", self._judgements, QRELS_SCHEMA),
                *self._labels("answers", self._answers, ANSWERS_SCHEMA),
            ],
        }
        table = pa.Table.from_pylist(self._notes, schema=MARKER_SCHEMA)
        data = _parquet(table.replace_schema_metadata({MARKER_KEY: json.dumps(footer).encode()}))
        self._storage.create(marker_uri(self._work.run_uri, self._unit_id), data)
        return footer

    def _labels(self, kind: str, rows: list[Row], schema: pa.Schema) -> Iterator[str]:
        if rows:
            path = f"labels/{kind}/{self._unit_id}.parquet"
            self._put(path, _parquet(pa.Table.from_pylist(rows, schema=schema)))
            yield path

    def _put_shard(self) -> None:
        suffix = "jsonl" if self._work.format == "jsonl" else "parquet"
        path = f"data/{self._unit_id}-{len(self._objects):04d}.{suffix}"
        self._rows = side_by_side(self._rows)
        data = _json_lines(self._rows) if suffix == "jsonl" else _parquet(self._table())
        self._put(path, data)
        sha256 = hashlib.sha256(data).hexdigest()
        self._objects.append({"path": path, "size": len(data), "sha256": sha256, "rows": len(self._rows)})
        self._rows, self._bytes = [], 0

    def _table(self) -> pa.Table:
        return pa.Table.from_pylist(self._rows, schema=self._schema)

    def _put(self, path: str, data: bytes) -> None:
        uri = join(self._work.run_uri, path)
        if not self._storage.create(uri, data) and self._storage.read(uri) != data:
            raise RunError(
                f"{uri}: expected the object that an earlier attempt at this unit wrote, found another. Something else "
                "wrote here; use another output."
            )


def side_by_side(rows: Sequence[Row]) -> list[Row]:
    """The same rows, those over the same candidates next to each other, in the order of the first of them.

    The jobs that score keep neighbours in one unit, where they share a forward pass over their documents.
    """
    firsts: dict[bytes, int] = {}
    places = [firsts.setdefault(_candidates_digest(row), place) for place, row in enumerate(rows)]
    return [rows[place] for place in sorted(range(len(rows)), key=places.__getitem__)]


def _candidates_digest(row: Row) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for entry in row["candidates"]:
        digest.update(f"{entry['title'] or ''}\0{entry['text']}\0".encode("utf-8", "surrogatepass"))
    return digest.digest()


def _text_bytes(row: Row) -> int:
    return len(row["query"].encode()) + sum(
        len(entry["text"].encode()) + len(entry["doc_id"].encode()) + len((entry["title"] or "").encode())
        for entry in row["candidates"]
    )


def _measures(prepared: Prepared) -> Row:
    lengths = [len(piece.text) for piece in prepared.pieces]
    texts = {(piece.title, piece.text) for piece in prepared.pieces}
    relevant = {doc_id for doc_id, relevance in (prepared.gold or {}).items() if relevance > 0}
    return {
        "query_id": prepared.query_id,
        "candidates": len(lengths),
        "characters": sum(lengths),
        "longest": max(lengths, default=0),
        "repeated_texts": len(lengths) - len(texts),
        "gold": len(relevant),
        "gold_missing": len(relevant - {piece.doc_id for piece in prepared.pieces}),
    }


def _writable(name: str | None) -> str | None:
    return None if name is None else name.encode(errors="replace").decode()


def _json_lines(rows: Sequence[Row]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
