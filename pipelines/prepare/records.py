"""What a recipe makes of a source row, how it stands in a shard, and what keeps it out of one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa

from pipelines.rows import request_from_row
from pipelines.schemas import CANDIDATE, INPUT_SCHEMA, SCHEMA_VERSION, SCHEMA_VERSION_KEY
from qrcore.errors import ScoreError

Row = dict[str, Any]

#: A candidate with the place that it was cut from: characters ``start`` to ``stop`` of the document ``source_id``.
PIECE: Final = pa.struct(
    [
        *CANDIDATE.fields,
        pa.field("source_id", pa.string()),
        pa.field("start", pa.int64()),
        pa.field("stop", pa.int64()),
    ]
)
#: What recipes carry beside the contract: accepted answers, the query's date, its kind, what it belongs to.
CARRIED: Final = (
    pa.field("answers", pa.list_(pa.string())),
    pa.field("date", pa.string()),
    pa.field("kind", pa.string()),
    pa.field("group", pa.string()),
)


@dataclass(frozen=True, slots=True)
class Piece:
    """One candidate; ``start`` and ``stop`` are characters of the document ``source_id``, where it was cut from one."""

    doc_id: str
    text: str
    title: str | None = None
    score: float | None = None
    rank: int | None = None
    source_id: str | None = None
    start: int | None = None
    stop: int | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """One row of a shard. ``gold``: relevance by doc_id, None where nobody judged the query."""

    query_id: str
    query: str
    pieces: Sequence[Piece]
    answers: tuple[str, ...] | None = None
    date: str | None = None
    kind: str | None = None
    group: str | None = None
    gold: Mapping[str, int] | None = None
    carried: Mapping[str, Any] = field(default_factory=dict)


def shard_schema(carry: Sequence[str]) -> pa.Schema:
    """The schema of every shard: the input contract, where pieces come from, and the carried columns as strings."""
    fields = [*list(INPUT_SCHEMA)[:2], pa.field("candidates", pa.list_(PIECE)), *CARRIED]
    fields += [pa.field(name, pa.string()) for name in carry]
    return pa.schema(fields, metadata={SCHEMA_VERSION_KEY: SCHEMA_VERSION.encode()})


def shard_row(prepared: Prepared, carry: Sequence[str]) -> Row:
    """The row of a shard. Raises :class:`ScoreError` for one that the next job could not answer."""
    row: Row = {
        "query_id": prepared.query_id,
        "query": prepared.query,
        "candidates": [_candidate(piece) for piece in prepared.pieces],
        "answers": None if prepared.answers is None else list(prepared.answers),
        "date": prepared.date,
        "kind": prepared.kind,
        "group": prepared.group,
        **{name: as_text(prepared.carried.get(name)) for name in carry},
    }
    _check(row)
    return row


def _candidate(piece: Piece) -> Row:
    return {
        "doc_id": piece.doc_id,
        "title": piece.title,
        "text": piece.text,
        "score": piece.score,
        "rank": piece.rank,
        "source_id": piece.source_id,
        "start": piece.start,
        "stop": piece.stop,
    }


def _check(row: Row) -> None:
    request = request_from_row(row)
    if isinstance(request, ScoreError):
        raise request
    if repeated := _repeated(document.doc_id for document in request.documents):
        raise ScoreError(
            "duplicate_doc_id",
            f"candidates: expected each doc_id once, got {repeated!r} again. Rename or remove one.",
            stage="prepare",
            query_id=row["query_id"],
        )
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ScoreError(
            "invalid_text",
            f"row: expected text that UTF-8 can write, got half a surrogate pair ({error.reason}). Re-encode it.",
            stage="prepare",
        ) from error


def _repeated(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def as_text(value: Any) -> str | None:
    """A carried value as a string: texts as they are, null as null, everything else as JSON."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def text_of(row: Row, name: str, *, optional: bool = False) -> str:
    """A column that has to hold text; numbers are taken as written. Raises :class:`ScoreError`.

    ``optional``: '' for a missing one.
    """
    value = row.get(name)
    if value is None and optional:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise invalid(f"{name}: expected text, got {_shown(value)}. Correct it, or map a column with columns.{name}.")
    return str(value)


def list_of(row: Row, name: str) -> list[Any]:
    """A column that has to hold a list. Raises :class:`ScoreError`."""
    value = row.get(name)
    if not isinstance(value, list):
        raise invalid(f"{name}: expected a list, got {_shown(value)}. Correct it, or map a column with columns.{name}.")
    return value


def struct_of(value: Any, name: str) -> Row:
    """A value that has to be an object with named fields. Raises :class:`ScoreError`."""
    if not isinstance(value, dict):
        raise invalid(f"{name}: expected an object, got {_shown(value)}. Correct the row.")
    return value


def invalid(message: str) -> ScoreError:
    """The error of a row that does not have the shape that its recipe reads."""
    return ScoreError("invalid_row", message, stage="prepare")


def _shown(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"
