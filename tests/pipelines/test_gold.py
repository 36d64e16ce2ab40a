"""Relevant documents that are no candidates are counted query by query, however a writer names the parts of a list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.gold import missing_gold, missing_in_file, relevant_of
from pipelines.schemas import INPUT_SCHEMA
from pipelines.storage import FileInfo, Storage, StorageOptions
from qrcore.errors import InputError

GOLD = {"a": frozenset({"d0", "x", "y"}), "b": frozenset({"d1"}), "empty": frozenset({"d0"})}


def row(query_id: str | None, *names: str | None) -> dict[str, Any]:
    return {"query_id": query_id, "query": "?", "candidates": [{"doc_id": name, "text": "t"} for name in names]}


def shard(path: Path, rows: list[dict[str, Any]], **options: Any) -> FileInfo:
    pq.write_table(pa.Table.from_pylist(rows, schema=INPUT_SCHEMA), path, **options)
    return Storage(str(path)).info(str(path))


@pytest.mark.parametrize("compliant", [True, False])
def test_what_is_not_among_the_candidates(tmp_path: Path, compliant: bool) -> None:
    rows = [row("a", "d0", "d1"), row("other", "d9"), row(None, "d0"), row("empty"), row("b", None, "d1"), row("a")]
    rows[3]["candidates"] = None
    file = shard(tmp_path / "1.parquet", rows, use_compliant_nested_type=compliant, row_group_size=2)
    assert missing_in_file(file, GOLD, StorageOptions()) == {"a": 2, "empty": 1, "b": 0}


def test_names_that_are_no_text_match_nothing(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([row("a", "d0"), row("b", "d1")], schema=INPUT_SCHEMA)
    pq.write_table(table, tmp_path / "1.parquet", compression="none", use_dictionary=False)
    data = (tmp_path / "1.parquet").read_bytes()
    assert data.count(b"d0") >= 1
    (tmp_path / "1.parquet").write_bytes(data.replace(b"d0", b"\xff\xfe", 1))
    file = Storage(str(tmp_path)).info(str(tmp_path / "1.parquet"))
    assert missing_in_file(file, GOLD, StorageOptions())["b"] == 0


def test_relevant_is_what_has_a_grade() -> None:
    assert relevant_of({"a": 2, "b": 0, "c": -1, "d": 1}) == {"a", "d"}


@pytest.mark.usefixtures("local_ray")
def test_files_together(tmp_path: Path) -> None:
    files = [
        shard(tmp_path / "1.parquet", [row("a", "d0"), row("free", "d0")]),
        shard(tmp_path / "2.parquet", [row("a", "x", "y", "d0"), row("b")]),
    ]
    qrels = {"a": {"d0": 1, "x": 1}, "b": {"d1": 1}, "free": {"d0": 0}, "nowhere": {"d0": 1}}
    assert missing_gold(files, qrels, StorageOptions()) == {"a": 1, "b": 1}
    shard(tmp_path / "2.parquet", [row("b", "d1")])
    with pytest.raises(InputError, match=r"2\.parquet: expected the file as planned"):
        missing_gold(files, qrels, StorageOptions())
