"""Gold answers beside the rows: ``answers(query_id, answers)`` as Parquet or as JSON Lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.inputs import list_inputs
from pipelines.labels import decoded
from pipelines.storage import Storage, StorageOptions, absolute
from pipelines.units import parquet_table
from qrcore.errors import InputError

#: Accepted answers by query.
Answers = dict[str, list[str]]


class _Line(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    query_id: str
    answers: list[str]


def load_answers(uri: str, options: StorageOptions) -> Answers:
    """Accepted answers by query; files of a folder are joined. Raises :class:`InputError`, also for a query that has
    several rows."""
    answers: Answers = {}
    for where, row in _rows(uri, options):
        try:
            line = _Line.model_validate(row)
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(map(str, problem["loc"])) or "row"
            raise InputError(
                f"answers {where}: expected query_id (text) and answers (a list of texts); {place}: {problem['msg']}. "
                "Correct it."
            ) from error
        if line.query_id in answers:
            raise InputError(
                f"answers {where}: expected each query once, got {line.query_id!r} again. Put its answers in one list."
            )
        answers[line.query_id] = line.answers
    return answers


def _rows(uri: str, options: StorageOptions) -> Iterator[tuple[str, Any]]:
    """Rows with where they stand."""
    storage, place = Storage(uri, options), absolute(uri)
    if not uri.endswith(".parquet") and storage.exists(place) and not storage.is_folder(place):
        yield from _lines(uri, decoded(uri, storage.read(place)))
        return
    for file in list_inputs((uri,), options):
        for number, row in enumerate(_table_rows(file.uri, storage)):
            yield f"{file.uri}, row {number}", row


def _lines(uri: str, text: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                yield f"{uri}, line {number}", json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(
                    f"answers {uri}, line {number}: expected JSON, got {error.msg}. Correct it."
                ) from error


def _table_rows(uri: str, storage: Storage) -> list[dict[str, Any]]:
    try:
        return list(parquet_table(storage.read(uri), ("query_id", "answers")).to_pylist())
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"answers {uri}: expected Parquet with query_id and answers; {str(error).splitlines()[0]}. Correct it."
        ) from error
