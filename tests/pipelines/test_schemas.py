"""Which input schemas are accepted, and which columns can be carried."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pipelines.schemas import CANDIDATE, INPUT_SCHEMA, carried_fields, check_input_schema, ranking_schema
from qrcore.errors import InputError


def _schema(**changes: pa.DataType | None) -> pa.Schema:
    fields = {field.name: field.type for field in INPUT_SCHEMA}
    fields.update(changes)
    return pa.schema([(name, kind) for name, kind in fields.items() if kind is not None])


def _candidate(**changes: pa.DataType | None) -> pa.DataType:
    fields = {field.name: field.type for field in CANDIDATE.fields}
    fields.update(changes)
    return pa.list_(pa.struct([(name, kind) for name, kind in fields.items() if kind is not None]))


@pytest.mark.parametrize(
    "schema",
    [
        INPUT_SCHEMA,
        _schema(query_id=pa.large_string(), query=pa.dictionary(pa.int32(), pa.string())),
        _schema(query=pa.string_view()),
        _schema(candidates=pa.large_list(CANDIDATE)),
        _schema(candidates=_candidate(title=None, score=None, rank=None)),
        _schema(candidates=_candidate(score=pa.float32(), rank=pa.int64(), extra=pa.bool_())),
        _schema(candidates=_candidate(title=pa.null())),
    ],
)
def test_what_is_accepted(schema: pa.Schema) -> None:
    assert check_input_schema(schema) == []


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (_schema(query_id=None), "'query_id' .* missing"),
        (_schema(query_id=pa.int64()), "int64, expected string"),
        (_schema(query=pa.binary()), "binary, expected string"),
        (_schema(candidates=None), "'candidates' .* missing"),
        (_schema(candidates=pa.string()), "expected list<struct"),
        (_schema(candidates=pa.list_(pa.string())), "expected list<struct"),
        (_schema(candidates=_candidate(doc_id=None)), "doc_id .* missing"),
        (_schema(candidates=_candidate(text=None)), "text .* missing"),
        (_schema(candidates=_candidate(text=pa.list_(pa.string()))), "candidates.text has type"),
        (_schema(candidates=_candidate(doc_id=pa.int64())), "candidates.doc_id has type int64"),
        (_schema(candidates=_candidate(score=pa.string())), "candidates.score has type"),
        (_schema(candidates=_candidate(rank=pa.float64())), "candidates.rank has type"),
        (pa.schema([*INPUT_SCHEMA, pa.field("query", pa.string())]), "'query' stands there more than once"),
        (
            _schema(candidates=pa.list_(pa.struct([*CANDIDATE.fields, pa.field("text", pa.string())]))),
            "candidates.text stands there more than once",
        ),
    ],
)
def test_what_is_refused(schema: pa.Schema, message: str) -> None:
    problems = check_input_schema(schema)
    assert len(problems) == 1
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(problems[0])


def test_carry_all_none_and_names() -> None:
    one = ("a.parquet", _schema(lang=pa.string(), year=pa.int32()))
    two = ("b.parquet", _schema(lang=pa.string(), extra=pa.float64()))
    assert [field.name for field in carried_fields([one, two], "all")] == ["lang", "year", "extra"]
    assert carried_fields([one, two], "none") == ()
    assert [field.name for field in carried_fields([one, two], ["extra"])] == ["extra"]


def test_carry_refuses_what_would_be_lost_or_confused() -> None:
    with pytest.raises(InputError, match="Rename it"):
        carried_fields([("a", _schema(ranking=pa.string()))], "all")
    assert carried_fields([("a", _schema(ranking=pa.string()))], "none") == ()
    with pytest.raises(InputError, match=r"(?s)query.*names of the contract.*Rename"):
        carried_fields([("a", _schema())], ["query"])
    with pytest.raises(InputError, match="one type in all files"):
        carried_fields([("a", _schema(year=pa.int32())), ("b", _schema(year=pa.string()))], "all")
    with pytest.raises(InputError, match="no input file has nope"):
        carried_fields([("a", _schema())], ["nope"])


def test_the_output_schema_has_the_contract_and_the_carried_columns() -> None:
    schema = ranking_schema([pa.field("lang", pa.string())])
    assert schema.names == ["query_id", "ranking", "prompt_tokens", "windows", "flags", "source", "error", "lang"]
    assert schema.metadata == {b"qrbatch.schema_version": b"1.0"}
