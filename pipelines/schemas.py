"""Arrow schemas of what goes in and what comes out, and their checks.

Input shard, one row per query: ``query_id: string``, ``query: string``, ``candidates: list<struct<doc_id: string,
title: string?, text: string, score: double?, rank: int32?>>``; other columns may be carried through.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import pyarrow as pa

from qrcore.errors import InputError

SCHEMA_VERSION: Final = "1.0"
SCHEMA_VERSION_KEY: Final = b"qrbatch.schema_version"

CANDIDATE: Final = pa.struct(
    [
        pa.field("doc_id", pa.string()),
        pa.field("title", pa.string()),
        pa.field("text", pa.string()),
        pa.field("score", pa.float64()),
        pa.field("rank", pa.int32()),
    ]
)
INPUT_SCHEMA: Final = pa.schema(
    [pa.field("query_id", pa.string()), pa.field("query", pa.string()), pa.field("candidates", pa.list_(CANDIDATE))],
    metadata={SCHEMA_VERSION_KEY: SCHEMA_VERSION.encode()},
)
QRELS_SCHEMA: Final = pa.schema(
    [pa.field("query_id", pa.string()), pa.field("doc_id", pa.string()), pa.field("relevance", pa.int32())],
    metadata={SCHEMA_VERSION_KEY: SCHEMA_VERSION.encode()},
)

SOURCE: Final = pa.struct([pa.field("uri", pa.string()), pa.field("row", pa.int64())])
ERROR: Final = pa.struct([pa.field(name, pa.string()) for name in ("code", "kind", "message", "stage")])
RANKED: Final = pa.struct(
    [
        pa.field("doc_id", pa.string()),
        pa.field("rank", pa.int32()),
        pa.field("score", pa.float32()),
        pa.field("input_rank", pa.int32()),
        pa.field("input_score", pa.float64()),
        pa.field("round", pa.int16()),
        pa.field("cut_tokens", pa.int32()),
    ]
)
RANKING_FIELDS: Final[tuple[pa.Field, ...]] = (
    pa.field("query_id", pa.string()),
    pa.field("ranking", pa.list_(RANKED)),
    pa.field("prompt_tokens", pa.int64()),
    pa.field("windows", pa.int32()),
    pa.field("flags", pa.list_(pa.string())),
    pa.field("source", SOURCE),
    pa.field("error", ERROR),
)

Carry = Literal["all", "none"] | Sequence[str]

_RESERVED: Final = frozenset({*INPUT_SCHEMA.names, *(field.name for field in RANKING_FIELDS)})


def check_input_schema(schema: pa.Schema) -> list[str]:
    """What keeps a file with this schema from being read as an input shard; empty if nothing does."""
    if doubled := _doubled(schema.names):
        return [f"column {doubled!r} stands there more than once: rename or drop one"]
    problems = [_text_problem(schema, name) for name in ("query_id", "query")]
    problems.append(_candidates_problem(schema))
    return [problem for problem in problems if problem]


def _doubled(names: Sequence[str]) -> str | None:
    return next((name for name in names if names.count(name) > 1), None)


def _text_problem(schema: pa.Schema, name: str) -> str:
    if name not in schema.names:
        return f"column {name!r} (string) is missing"
    kind = schema.field(name).type
    return "" if is_text(kind) else f"column {name!r} has type {kind}, expected string: cast it"


def _candidates_problem(schema: pa.Schema) -> str:
    if "candidates" not in schema.names:
        return "column 'candidates' (list of struct) is missing"
    kind = schema.field("candidates").type
    if not is_list(kind) or not pa.types.is_struct(kind.value_type):
        return f"column 'candidates' has type {kind}, expected list<struct<doc_id, title?, text, score?, rank?>>"
    return _struct_problem(kind.value_type)


def _struct_problem(struct: pa.StructType) -> str:
    if doubled := _doubled([field.name for field in struct.fields]):
        return f"candidates.{doubled} stands there more than once: rename or drop one"
    fields = {field.name: field.type for field in struct.fields}
    for name in ("doc_id", "text"):
        if name not in fields:
            return f"candidates.{name} (string) is missing"
    checks = {"doc_id": is_text, "text": is_text, "title": is_text, "score": _is_number, "rank": pa.types.is_integer}
    for name, check in checks.items():
        if name in fields and not check(fields[name]) and not pa.types.is_null(fields[name]):
            return f"candidates.{name} has type {fields[name]}, expected {CANDIDATE.field(name).type}: cast it"
    return ""


def is_text(kind: pa.DataType) -> bool:
    """Whether values of this type are strings, however they are stored."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_list(kind: pa.DataType) -> bool:
    """Whether values of this type are lists of variable length."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def carried_fields(schemas: Sequence[tuple[str, pa.Schema]], carry: Carry) -> tuple[pa.Field, ...]:
    """The columns carried from all input files ((uri, schema) pairs) into one output schema.

    A file without a carried column gives nulls. Raises :class:`InputError` for a name of the contract, a name that no
    file has, and a column whose type differs between files.
    """
    wanted = None if carry == "all" else set() if carry == "none" else set(carry)
    _check_names(wanted or set())
    for uri, problem in drifting_files(schemas, carry).items():
        raise InputError(f"carry: expected one type in all files; {uri}: {problem}, or leave the column out of carry.")
    fields: dict[str, pa.Field] = {}
    for uri, schema in schemas:
        for field in schema:
            if field.name in INPUT_SCHEMA.names or (wanted is not None and field.name not in wanted):
                continue
            _check_not_reserved(field.name, uri)
            fields.setdefault(field.name, field)
    _check_all_found(wanted, fields)
    return tuple(field.with_nullable(True).remove_metadata() for field in fields.values())


def drifting_files(schemas: Sequence[tuple[str, pa.Schema]], carry: Carry) -> dict[str, str]:
    """Files ((uri, schema) pairs) with a carried column of another type than the first file that has it, and why."""
    first: dict[str, tuple[str, pa.DataType]] = {}
    found: dict[str, str] = {}
    for uri, schema in schemas:
        carried = [field for field in schema if field.name not in INPUT_SCHEMA.names and _is_carried(field.name, carry)]
        for field in carried:
            first_uri, kind = first.get(field.name, (uri, field.type))
            if kind != field.type:
                found[uri] = f"column {field.name!r} has type {field.type}, expected {kind} as in {first_uri}: cast it"
        if uri not in found:
            first = {field.name: (uri, field.type) for field in carried} | first
    return found


def _is_carried(name: str, carry: Carry) -> bool:
    return carry != "none" and (carry == "all" or name in carry)


def _check_names(wanted: set[str]) -> None:
    reserved = sorted(wanted & _RESERVED)
    if reserved:
        raise InputError(
            f"carry: {', '.join(reserved)} are names of the contract and cannot be carried. Rename the columns (for "
            f"example to 'input_{reserved[0]}') and carry the new names."
        )


def _check_not_reserved(name: str, uri: str) -> None:
    if name in _RESERVED:
        raise InputError(
            f"{uri}: column {name!r} has the name of an output column and cannot be carried. "
            f"Rename it (for example to 'input_{name}'), or set carry to the names you need."
        )


def _check_all_found(wanted: set[str] | None, found: dict[str, Any]) -> None:
    missing = sorted((wanted or set()) - set(found))
    if missing:
        raise InputError(f"carry: no input file has {', '.join(missing)}. Correct the names.")


def ranking_schema(carried: Sequence[pa.Field]) -> pa.Schema:
    """The output schema of re-ranking: the ranking row and the carried columns."""
    return pa.schema([*RANKING_FIELDS, *carried], metadata={SCHEMA_VERSION_KEY: SCHEMA_VERSION.encode()})
