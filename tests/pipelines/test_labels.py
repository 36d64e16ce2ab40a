"""Judgements as Parquet: joined over files, refused with their place where they are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.labels import load_qrels
from pipelines.schemas import QRELS_SCHEMA
from pipelines.storage import StorageOptions
from qrcore.errors import InputError
from tests.pipelines.test_rows import with_bytes_as_text
from tests.shards import write_shard

GOOD: dict[str, Any] = {"query_id": "q", "doc_id": "d", "relevance": 1}


def _load(path: Path) -> dict[str, dict[str, int]]:
    return load_qrels(str(path), StorageOptions())


def test_files_of_a_folder_are_joined_even_if_it_is_named_like_a_file(tmp_path: Path) -> None:
    write_shard(tmp_path / "qrels.parquet" / "1.parquet", [GOOD, {**GOOD, "doc_id": "e", "relevance": 0}], QRELS_SCHEMA)
    write_shard(tmp_path / "qrels.parquet" / "2.parquet", [{**GOOD, "query_id": "r"}], QRELS_SCHEMA)
    assert _load(tmp_path / "qrels.parquet") == {"q": {"d": 1, "e": 0}, "r": {"d": 1}}
    assert _load(tmp_path / "qrels.parquet" / "2.parquet") == {"r": {"d": 1}}


@pytest.mark.parametrize("column", ["query_id", "doc_id", "relevance"])
def test_nulls_are_refused_with_their_place(tmp_path: Path, column: str) -> None:
    path = write_shard(tmp_path / "qrels.parquet", [GOOD, {**GOOD, column: None}], QRELS_SCHEMA)
    with pytest.raises(InputError, match=f"'{column}' has one in row 1"):
        _load(path)


def test_labels_that_are_no_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found none"):
        _load(tmp_path / "nothing.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(InputError, match="Correct the file"):
        _load(tmp_path / "broken.parquet")
    pq.write_table(pa.table({"query_id": ["q"]}), tmp_path / "short.parquet")
    with pytest.raises(InputError, match="missing columns doc_id, relevance"):
        _load(tmp_path / "short.parquet")
    table = pa.Table.from_pylist([GOOD], schema=QRELS_SCHEMA)
    pq.write_table(with_bytes_as_text(table, "doc_id", [b"\xff"]), tmp_path / "bytes.parquet")
    with pytest.raises(InputError, match="UTF-8"):
        _load(tmp_path / "bytes.parquet")
