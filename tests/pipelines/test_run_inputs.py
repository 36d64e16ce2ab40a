"""Files and types as users have them, on the rails of every run: read alike, named, skipped, or an error a row.

The job is a stub, since what is tested is the run.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.schemas import INPUT_SCHEMA
from qrcore.errors import InputError
from tests.pipelines.reranking import rows_of
from tests.pipelines.test_rows import with_bytes_as_text
from tests.shards import candidates, row, write_shard
from tests.stubs import run_stub, stub_settings

pytestmark = pytest.mark.usefixtures("local_ray")


def test_types_that_mean_the_same_are_read_alike(tmp_path: Path) -> None:
    struct = pa.struct(
        [("doc_id", pa.large_string()), ("text", pa.large_string()), ("score", pa.float32()), ("rank", pa.int64())]
    )
    schema = pa.schema([("query_id", pa.large_string()), ("query", pa.string()), ("candidates", pa.large_list(struct))])
    plain = [{k: v for k, v in c.items() if k != "title"} for c in candidates(3)]
    write_shard(tmp_path / "in" / "1.parquet", [row("a", candidates=plain)], schema)
    result = run_stub(stub_settings(str(tmp_path / "in"), str(tmp_path / "out")))
    assert len(rows_of(result)[0]["ranking"]) == 3


def test_bad_files_are_refused_or_skipped(tmp_path: Path) -> None:
    write_shard(tmp_path / "in" / "1.parquet", [row("a")])
    (tmp_path / "in" / "2.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match=r"2\.parquet: not readable as Parquet"):
        run_stub(stub_settings(str(tmp_path / "in"), str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()
    skipping = stub_settings(str(tmp_path / "in"), str(tmp_path / "out"), input={"on_bad_file": "skip"})
    result = run_stub(skipping)
    assert [Path(s.uri).name for s in result.manifest.skipped_files] == ["2.parquet"]
    assert result.manifest.rows == 1


def test_a_file_that_drifted_is_skipped_and_named(tmp_path: Path) -> None:
    for name, kind, year in (("1", pa.int64(), 1999), ("2", pa.string(), "MCMXCIX")):
        schema = INPUT_SCHEMA.append(pa.field("year", kind))
        write_shard(tmp_path / "in" / f"{name}.parquet", [row(name, year=year)], schema)
    with pytest.raises(
        InputError, match=r"2\.parquet: column 'year' has type string, expected int64 as in .*1\.parquet"
    ):
        run_stub(stub_settings(str(tmp_path / "in"), str(tmp_path / "out")))
    skipping = stub_settings(str(tmp_path / "in"), str(tmp_path / "out"), input={"on_bad_file": "skip"})
    result = run_stub(skipping)
    assert [Path(s.uri).name for s in result.manifest.skipped_files] == ["2.parquet"]
    assert [one["year"] for one in rows_of(result)] == [1999]


def test_an_input_without_rows_commits_an_empty_run(tmp_path: Path) -> None:
    write_shard(tmp_path / "in" / "1.parquet", [])
    result = run_stub(stub_settings(str(tmp_path / "in"), str(tmp_path / "out")))
    assert result.manifest.rows == 0
    assert rows_of(result) == []


def test_text_that_is_not_utf8_and_ranks_that_are_none_fail_their_rows_only(tmp_path: Path) -> None:
    struct = pa.struct([("doc_id", pa.string()), ("text", pa.string()), ("rank", pa.int64())])
    schema = pa.schema([("query_id", pa.string()), ("query", pa.string()), ("candidates", pa.list_(struct))])
    listed = [[{"doc_id": "d", "text": "t", "rank": rank}] for rank in (1, 1, 1, 2**40)]
    rows = [row(name, candidates=entry) for name, entry in zip("abcd", listed, strict=True)]
    table = with_bytes_as_text(pa.Table.from_pylist(rows, schema=schema), "query_id", [b"a", b"\xff", b"c", b"d"])
    table = with_bytes_as_text(table, "query", [b"x", b"y", b"\xfe\xfe", b"z"])
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in" / "1.parquet")
    out = rows_of(run_stub(stub_settings(str(tmp_path / "in"), str(tmp_path / "out"))))
    assert [(r["query_id"], r["error"] and r["error"]["code"], r["source"]["row"]) for r in out] == [
        ("a", None, 0),
        (None, "invalid_text", 1),
        ("c", "invalid_text", 2),
        ("d", "invalid_rank", 3),
    ]
