"""Files that break off, change or lie; rows that are too large; ids that try to be paths. No model is needed."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.commit import manifest_rows
from pipelines.inputs import survey_file
from pipelines.job import RunResult
from pipelines.ranges import read_range, read_rows
from pipelines.storage import Storage, StorageOptions
from pipelines.verify import open_run, verify
from qrcore.errors import InputError
from tests.shards import row, write_shard
from tests.stubs import Quiet, run_stub, stub_settings

OPTIONS = StorageOptions()


def _damage(path: Path, column: str, group: int = 0) -> None:
    """Overwrite a column's first page in a row group; the footer stays good."""
    metadata = pq.ParquetFile(path).metadata.row_group(group)
    for index in range(metadata.num_columns):
        chunk = metadata.column(index)
        if chunk.path_in_schema.split(".")[0] == column:
            start = chunk.dictionary_page_offset or chunk.data_page_offset
            data = bytearray(path.read_bytes())
            data[start : start + 16] = b"\xff" * 16
            path.write_bytes(bytes(data))
            return
    raise AssertionError(column)


def _shard(path: Path, rows: int = 12, **more: Any) -> Path:
    schema = pa.Table.from_pylist([row("a")]).schema.append(pa.field("lang", pa.string()))
    table = pa.Table.from_pylist([row(f"q{i}", lang=f"l{i}", **more) for i in range(rows)], schema=schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=4)
    return path


def _places(folder: Path) -> tuple[str, str]:
    return str(folder / "in"), str(folder / "out")


def _codes(result: RunResult) -> list[str | None]:
    return [r["error"] and r["error"]["code"] for r in manifest_rows(result.run_uri)]


def _skip(folder: Path) -> Any:
    return stub_settings(*_places(folder), input={"on_bad_file": "skip"}, units={"max_rows": 3})


@pytest.mark.usefixtures("local_ray")
def test_a_damaged_page_ends_the_run_by_name_or_makes_error_rows(tmp_path: Path) -> None:
    _damage(_shard(tmp_path / "in" / "1.parquet"), "candidates", group=1)
    with pytest.raises(InputError, match=r"1\.parquet: not readable as Parquet in row group 1 from its row 0"):
        run_stub(stub_settings(*_places(tmp_path)))
    assert not list((tmp_path / "out").glob("*/_plan.json"))
    result = run_stub(_skip(tmp_path))
    assert _codes(result) == [*[None] * 4, *["unreadable_input"] * 4, *[None] * 4]
    assert [r["query_id"] for r in manifest_rows(result.run_uri)] == [f"q{i}" for i in range(12)]
    assert list(verify(open_run(result.run_uri, OPTIONS), with_input=True)) == []


@pytest.mark.usefixtures("local_ray")
def test_a_page_that_only_the_work_reads_does_not_loop(tmp_path: Path) -> None:
    _damage(_shard(tmp_path / "in" / "1.parquet"), "lang", group=2)  # planning does not read carried columns
    with pytest.raises(InputError, match=r"1\.parquet: expected pages that can be decoded.*row group 2"):
        run_stub(stub_settings(*_places(tmp_path), units={"max_rows": 3}))
    assert not list((tmp_path / "out").glob("*/_manifest.json"))
    result = run_stub(_skip(tmp_path))
    assert _codes(result) == [*[None] * 8, *["unreadable_input"] * 4]
    assert [r["lang"] for r in manifest_rows(result.run_uri)] == [*(f"l{i}" for i in range(8)), *[None] * 4]


@pytest.mark.usefixtures("local_ray")
def test_a_row_above_the_largest_is_an_error_and_its_text_is_not_read(tmp_path: Path) -> None:
    rows = [row("a"), row("b", candidates=[{"doc_id": "d", "text": "x" * 50_000}]), row("c")]
    write_shard(tmp_path / "in" / "1.parquet", rows)
    result = run_stub(stub_settings(*_places(tmp_path), units={"max_row_bytes": 40_000}))
    assert _codes(result) == [None, "row_too_large", None]
    (message,) = [r["error"]["message"] for r in manifest_rows(result.run_uri) if r["error"]]
    assert re.search(r"at most units.max_row_bytes of text, got 500\d\d bytes", message)


@pytest.mark.usefixtures("local_ray")
def test_a_shard_that_is_replaced_during_the_run_ends_it(tmp_path: Path) -> None:
    path = _shard(tmp_path / "in" / "1.parquet", query="sleep:0.05")
    replace_it = Quiet(lambda done: _shard(path, 11) if done == 1 else None)  # type: ignore[arg-type, return-value]
    with pytest.raises(InputError, match=r"1\.parquet: expected the file as planned.*has changed"):
        run_stub(stub_settings(*_places(tmp_path), units={"max_rows": 1}), observer=replace_it)


@pytest.mark.usefixtures("local_ray")
def test_ids_never_become_paths_and_logs_hold_no_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ids = ["../../escaped", "/absolute", "%2e%2e%2fencoded", "a\\b", "..", ""]
    secret = "a text that no log may hold"
    rows = [row(name, query=secret, candidates=[{"doc_id": name or "d", "text": secret}]) for name in ids]
    write_shard(tmp_path / "in" / "1.parquet", [*rows, row("k", query=f"kill-once:{tmp_path / 'once'}")])
    before = {path for path in tmp_path.rglob("*")}
    with caplog.at_level(logging.DEBUG):
        result = run_stub(stub_settings(*_places(tmp_path)))
    written = {path for path in tmp_path.rglob("*") if path.is_file()} - before - {tmp_path / "once"}
    latest = tmp_path / "out" / "stub.latest.json"
    assert all(path == latest or Path(result.run_uri) in path.parents for path in written)
    assert [r["query_id"] for r in manifest_rows(result.run_uri)] == [*ids, "k"]
    assert secret not in caplog.text
    plain = [path for path in written if path.suffix in (".json", ".jsonl")]
    assert plain
    assert not any(secret in path.read_text() for path in plain)


def test_small_pages_of_large_rows_are_surveyed_in_small_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        row(f"q{i}", candidates=[{"doc_id": "d", "text": "word " * (200_000 if i >= 40 else 2)}]) for i in range(80)
    ]
    path = write_shard(tmp_path / "1.parquet", rows)
    assert path.stat().st_size < 100_000
    held: list[int] = []
    iterate = pq.ParquetFile.iter_batches

    def counted(*arguments: Any, **how: Any) -> Iterator[pa.RecordBatch]:
        for batch in iterate(*arguments, **how):
            held.append(batch.nbytes)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    survey = survey_file(Storage(str(path)).info(str(path)), OPTIONS)
    assert survey.row_bytes.tolist() == [len(r["query"]) + 1 + len(r["candidates"][0]["text"]) for r in rows]
    assert max(held) < 80 * 2**20
    held.clear()
    largest = int(survey.row_bytes.max())
    read_range(survey.file, 41, 50, ["query_id", "candidates"], OPTIONS, largest)
    assert max(held) <= 17 * 2**20


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_byte_is_damaged_no_row_is_lost_or_changed(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "whole.parquet"
    if not path.exists():
        _shard(path, 8)
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    flip = data.draw(st.integers(1, 255))
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
    survey = survey_file(Storage(str(broken)).info(str(broken)), OPTIONS)
    if survey.problem:
        return
    columns = ["query_id", "query", "candidates"]
    try:
        found = read_range(survey.file, 0, len(survey.row_bytes), columns, OPTIONS)
    except InputError:
        return
    # Parquet has no checksums here: a flipped bit may change a text unseen, but never the number of rows.
    assert len(found.table) == len(survey.row_bytes)
    assert set(found.damaged) <= set(range(len(found.table)))


def test_a_damaged_range_is_refused_where_nobody_asked_for_parts(tmp_path: Path) -> None:
    path = _shard(tmp_path / "1.parquet")
    _damage(path, "query", group=1)
    info = Storage(str(path)).info(str(path))
    assert len(read_rows(info, 0, 4, ["query"], OPTIONS)) == 4
    with pytest.raises(InputError, match="row group 1"):
        read_rows(info, 3, 5, ["query"], OPTIONS)
    found = read_range(info, 3, 9, ["query_id", "query"], OPTIONS)
    assert sorted(found.damaged) == [1, 2, 3, 4]
    assert len(found.table) == 6
