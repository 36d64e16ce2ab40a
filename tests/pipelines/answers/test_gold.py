"""Gold answers of a file: as Parquet or lines, refused with their place where they are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.answers.gold import load_answers
from pipelines.storage import StorageOptions
from qrcore.errors import InputError
from tests.shards import write_shard

SCHEMA = pa.schema([("query_id", pa.string()), ("answers", pa.list_(pa.string())), ("more", pa.int32())])


def load(path: Path) -> dict[str, list[str]]:
    return load_answers(str(path), StorageOptions())


def rows(*ids: str) -> list[dict[str, Any]]:
    return [{"query_id": name, "answers": [name, "x"], "more": 1} for name in ids]


def test_answers_are_read_from_parquet_folders_and_lines(tmp_path: Path) -> None:
    write_shard(tmp_path / "answers" / "1.parquet", rows("a"), SCHEMA)
    write_shard(tmp_path / "answers" / "2.parquet", rows("b"), SCHEMA)
    expected = {"a": ["a", "x"], "b": ["b", "x"]}
    assert load(tmp_path / "answers") == expected
    lines = tmp_path / "answers.jsonl"
    lines.write_text('{"query_id": "a", "answers": ["a", "x"]}\n\n{"query_id": "b", "answers": ["b", "x"], "n": 1}\n')
    assert load(lines) == expected
    assert load(tmp_path / "answers" / "2.parquet") == {"b": ["b", "x"]}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"query_id": "a"}', "line 2: expected query_id .*; answers: Field required"),
        ('{"query_id": 7, "answers": ["a"]}', "line 2: .*query_id: Input should be a valid string"),
        ('{"query_id": "b", "answers": "a"}', "line 2: .*answers: Input should be a valid list"),
        ('{"query_id": "a", "answers": ["a"]}', "line 2: expected each query once, got 'a' again"),
        ("{", "line 2: expected JSON"),
    ],
)
def test_lines_that_are_no_answers_are_refused_with_their_place(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text('{"query_id": "a", "answers": ["a"]}\n' + line + "\n")
    with pytest.raises(InputError, match=said):
        load(path)


def test_files_that_hold_no_answers_are_refused(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.parquet", [{"query_id": None, "answers": ["x"]}], SCHEMA)
    with pytest.raises(InputError, match=r"row 0: .*query_id"):
        load(path)
    path = write_shard(tmp_path / "b.parquet", [{"more": 1}], pa.schema([("more", pa.int32())]))
    with pytest.raises(InputError, match=r"row 0: .*Field required"):
        load(path)
    (tmp_path / "c.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(InputError, match="expected Parquet with query_id and answers"):
        load(tmp_path / "c.parquet")
    with pytest.raises(InputError, match="found none"):
        load(tmp_path / "nothing.parquet")
