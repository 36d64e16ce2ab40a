"""Surveys of input files, units cut from them, and a plan that is stored once."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileOpener
from hypothesis import given
from hypothesis import strategies as st

from pipelines.inputs import FileSurvey, list_inputs, survey_file
from pipelines.plan import Plan, cut_units, encode_schema, store_plan, usable_surveys
from pipelines.ranges import read_rows
from pipelines.schemas import INPUT_SCHEMA, ranking_schema
from pipelines.storage import FileInfo, Storage, StorageOptions
from pipelines.units import from_ipc, to_ipc
from qrcore.errors import InputError, PlanConflictError, StorageError
from tests.pipelines.test_rows import with_bytes_as_text
from tests.shards import candidates, row, write_shard

OPTIONS = StorageOptions()


def _survey(path: Path) -> FileSurvey:
    return survey_file(Storage(str(path)).info(str(path)), OPTIONS)


def test_a_survey_counts_decoded_bytes_of_all_text(tmp_path: Path) -> None:
    rows = [
        row("a", query="four", candidates=[{"doc_id": "d", "title": "ab", "text": "zwölf"}]),
        row("b", query=None, candidates=None),
    ]
    rows.append(row("c", query="q", candidates=[{"doc_id": "d", "text": None}, None]))
    survey = _survey(write_shard(tmp_path / "x.parquet", rows))
    assert survey.problem == ""
    assert survey.row_bytes.tolist() == [4 + 1 + 2 + 6, 0, 1 + 1]
    assert not survey.has_first_stage


def test_a_small_file_may_decode_to_much(tmp_path: Path) -> None:
    rows = [row(str(i), candidates=[{"doc_id": "d", "text": "word " * 20_000}]) for i in range(20)]
    path = write_shard(tmp_path / "x.parquet", rows)
    survey = _survey(path)
    assert survey.row_bytes.sum() > 20 * path.stat().st_size
    assert len(cut_units([survey], "c", max_bytes=300_000, max_rows=1000)) == 10


@pytest.mark.parametrize("column", ["score", "rank"])
def test_first_stage_is_seen_by_score_or_rank(tmp_path: Path, column: str) -> None:
    listed: list[dict[str, Any]] = [{"doc_id": "d", "text": "t", column: 1}]
    assert _survey(write_shard(tmp_path / "x.parquet", [row("a", candidates=listed)])).has_first_stage


def test_unreadable_files_are_named_together_or_skipped(tmp_path: Path) -> None:
    good = write_shard(tmp_path / "good.parquet", [row("a")])
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 but not really")
    pq.write_table(pa.table({"query_id": [1]}), tmp_path / "wrong.parquet")
    surveys = [_survey(path) for path in (good, tmp_path / "broken.parquet", tmp_path / "wrong.parquet")]
    with pytest.raises(InputError, match=r"(?s)2 of 3.*broken.parquet.*wrong.parquet"):
        usable_surveys(surveys, skip_bad_files=False)
    usable, skipped = usable_surveys(surveys, skip_bad_files=True)
    assert [s.file.uri for s in usable] == [str(good)]
    assert [Path(s.uri).name for s in skipped] == ["broken.parquet", "wrong.parquet"]
    assert "int64, expected string" in skipped[1].reason


def test_a_file_whose_carried_column_has_another_type_is_bad_where_that_column_is_carried(tmp_path: Path) -> None:
    kinds = {"a": pa.int64(), "b": pa.string(), "c": pa.int64()}
    for name, kind in kinds.items():
        write_shard(tmp_path / f"{name}.parquet", [row(name)], INPUT_SCHEMA.append(pa.field("year", kind)))
    surveys = [_survey(tmp_path / f"{name}.parquet") for name in kinds]
    with pytest.raises(
        InputError, match=r"1 of 3 do not:\n.*b\.parquet: column 'year' has type string, expected int64"
    ):
        usable_surveys(surveys, skip_bad_files=False, carry="all")
    usable, (skipped,) = usable_surveys(surveys, skip_bad_files=True, carry=("year",))
    assert [Path(one.file.uri).stem for one in usable] == ["a", "c"]
    assert Path(skipped.uri).stem == "b"
    for carry in ("none", ("lang",)):
        assert usable_surveys(surveys, skip_bad_files=False, carry=carry) == (surveys, ())


def test_truncated_and_damaged_files_are_bad(tmp_path: Path) -> None:
    whole = write_shard(tmp_path / "x.parquet", [row(str(i)) for i in range(50)]).read_bytes()
    start = pq.ParquetFile(tmp_path / "x.parquet").metadata.row_group(0).column(0).data_page_offset
    damaged = whole[:start] + b"\xff" * 40 + whole[start + 40 :]  # a page: the footer stands, reading fails
    path = tmp_path / "bad.parquet"
    for content in (b"", whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(content)
        assert _survey(path).problem.startswith("not readable as Parquet")
    path.write_bytes(damaged)
    survey = _survey(path)
    assert survey.problem == ""
    assert survey.damage.startswith("not readable as Parquet in row group 0 from its row 0 on")
    assert len(survey.row_bytes) == 50
    with pytest.raises(InputError, match=r"1 of 1 do not:\n.*bad\.parquet: not readable"):
        usable_surveys([survey], skip_bad_files=False)
    assert usable_surveys([survey], skip_bad_files=True) == ([survey], ())


@pytest.mark.parametrize("error", [OSError(errno.EIO, "io"), PermissionError(errno.EACCES, "no"), TimeoutError()])
@pytest.mark.parametrize("reads_before", [0, 1])
def test_a_failing_store_says_nothing_about_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, reads_before: int
) -> None:
    path = write_shard(tmp_path / "x.parquet", [row("a")])
    info = Storage(str(path)).info(str(path))
    reads = iter([LocalFileOpener.read] * reads_before)

    def read(stream: LocalFileOpener, size: int = -1) -> bytes:
        for original in reads:
            return bytes(original(stream, size))
        raise error

    monkeypatch.setattr(LocalFileOpener, "read", read, raising=False)
    with pytest.raises(StorageError, match="expected to read it"):
        survey_file(info, OPTIONS)


def test_ids_that_are_not_utf8_are_surveyed_and_told_apart(tmp_path: Path) -> None:
    table = with_bytes_as_text(
        pa.Table.from_pylist([row("a"), row("b"), row("c")]), "query_id", [b"\xff", b"\xfe", b"\xff"]
    )
    pq.write_table(table, tmp_path / "x.parquet")
    survey = _survey(tmp_path / "x.parquet")
    assert survey.problem == ""
    assert [unit.duplicates for unit in cut_units([survey], "c", 10**9, 10**9)] == [(2,)]


def _survey_of(sizes: list[int], lists: list[int]) -> FileSurvey:
    """A file whose rows have these bytes, and the same candidates where ``lists`` has the same number."""
    return _survey_with(list(range(1, len(sizes) + 1)), sizes, lists)


def _survey_with(ids: list[int], sizes: list[int], lists: list[int]) -> FileSurvey:
    """A file whose rows have the same id where ``ids`` has the same number, and none where it is zero."""
    digests = np.array([[number, number * 2] for number in ids], dtype=np.uint64).reshape(-1, 2)
    row_bytes, list_digests = np.array(sizes, dtype=np.int64), np.array(lists, dtype=np.uint64)
    return FileSurvey(FileInfo("f", 1, "e"), INPUT_SCHEMA, row_bytes, digests, False, list_digests=list_digests)


@given(
    sizes=st.lists(st.integers(0, 50), max_size=40),
    max_bytes=st.integers(1, 60),
    max_rows=st.integers(1, 10),
)
def test_units_cover_every_row_once_within_limits(sizes: list[int], max_bytes: int, max_rows: int) -> None:
    units = cut_units([_survey_of(sizes, [])], "c", max_bytes, max_rows)
    assert [i for unit in units for i in range(unit.start, unit.stop)] == list(range(len(sizes)))
    for unit in units:
        assert unit.rows <= max_rows
        assert unit.rows == 1 or sum(sizes[unit.start : unit.stop]) <= max_bytes
    assert len({unit.unit_id for unit in units}) == len(units)


@given(
    runs=st.lists(st.tuples(st.integers(1, 6), st.integers(0, 9)), max_size=15),
    max_bytes=st.integers(1, 60),
    max_rows=st.integers(1, 8),
)
def test_rows_over_the_same_candidates_stay_together_where_a_unit_can_hold_them(
    runs: list[tuple[int, int]], max_bytes: int, max_rows: int
) -> None:
    lists = [number for number, (rows, _) in enumerate(runs) for _ in range(rows)]
    sizes = [size for rows, size in runs for _ in range(rows)]
    units = cut_units([_survey_of(sizes, lists)], "c", max_bytes, max_rows)
    assert [i for unit in units for i in range(unit.start, unit.stop)] == list(range(len(sizes)))
    assert all(unit.rows <= max_rows and (unit.rows == 1 or unit.bytes <= max_bytes) for unit in units)
    for number, (rows, size) in enumerate(runs):
        if rows <= max_rows and rows * size <= max_bytes:
            assert sum(number in lists[unit.start : unit.stop] for unit in units) == 1


def test_what_no_unit_can_hold_is_cut_as_if_its_candidates_differed() -> None:
    sizes, lists = [5] * 6, [0, 1, 1, 1, 1, 1]
    assert [(unit.start, unit.stop) for unit in cut_units([_survey_of(sizes, lists)], "c", 15, 10)] == [(0, 3), (3, 6)]
    assert [(unit.start, unit.stop) for unit in cut_units([_survey_of(sizes, lists)], "c", 99, 4)] == [(0, 4), (4, 6)]


def test_rows_over_the_same_candidates_are_known_by_titles_and_texts(tmp_path: Path) -> None:
    one, other = candidates(3, seed=1), candidates(3, seed=2)
    renamed = [{**entry, "doc_id": f"x{entry['doc_id']}", "score": 0.0} for entry in one]
    retitled = [{**entry, "title": "another"} for entry in one]
    shuffled = list(reversed(one))
    listed = [one, one, renamed, other, retitled, shuffled, [], []]
    rows = [row(f"q{number}", candidates=entries) for number, entries in enumerate(listed)]
    path = write_shard(tmp_path / "x.parquet", rows)
    digests = _survey(path).list_digests.tolist()
    assert digests[0] == digests[1] == digests[2] and digests[6] == digests[7]
    assert len(set(digests)) == 5
    table = pq.read_table(path)
    pq.write_table(table, tmp_path / "small.parquet", row_group_size=2)
    assert _survey(tmp_path / "small.parquet").list_digests.tolist() == digests


def test_repeated_query_ids_are_marked_after_the_first_across_files(tmp_path: Path) -> None:
    one = _survey(write_shard(tmp_path / "1.parquet", [row("a"), row("b"), row("a"), row(None)]))
    two = _survey(write_shard(tmp_path / "2.parquet", [row(None), row("b"), row("c")]))
    units = cut_units([one, two], "c", 10**9, max_rows=2)
    marked = [(unit.file, duplicate) for unit in units for duplicate in unit.duplicates]
    assert marked == [(0, 2), (1, 1)]


@given(
    files=st.lists(st.lists(st.integers(0, 9), max_size=12), max_size=6),
    max_rows=st.integers(1, 5),
)
def test_repeated_ids_are_those_that_a_row_by_row_search_finds(files: list[list[int]], max_rows: int) -> None:
    surveys = [_survey_with(ids, [1] * len(ids), []) for ids in files]
    seen: set[int] = set()
    expected = []
    for index, ids in enumerate(files):
        for place, number in enumerate(ids):
            if number and number in seen:
                expected.append((index, place))
            seen.add(number)
    units = cut_units(surveys, "c", 10**9, max_rows)
    assert [(unit.file, row) for unit in units for row in unit.duplicates] == expected
    assert all(unit.start <= row < unit.stop for unit in units for row in unit.duplicates)


def test_unit_ids_depend_on_settings_file_and_range(tmp_path: Path) -> None:
    survey = _survey(write_shard(tmp_path / "1.parquet", [row("a"), row("b")]))
    one = cut_units([survey], "c", 10**9, 1)
    assert one == cut_units([survey], "c", 10**9, 1)
    assert {u.unit_id for u in one}.isdisjoint(u.unit_id for u in cut_units([survey], "other", 10**9, 1))


def test_rows_are_read_from_any_range_and_row_group(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    table = pa.Table.from_pylist([row(str(i)) for i in range(10)], schema=INPUT_SCHEMA)
    pq.write_table(table, path, row_group_size=3)
    info = Storage(str(path)).info(str(path))
    for start in range(10):
        for stop in range(start + 1, 11):
            read = read_rows(info, start, stop, ["query_id", "not_there"], OPTIONS)
            assert read["query_id"].to_pylist() == [str(i) for i in range(start, stop)]


def test_reading_a_range_does_not_decode_what_comes_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_shard(tmp_path / "x.parquet", [row(str(i), candidates=[]) for i in range(3000)])
    info = Storage(str(path)).info(str(path))
    decoded = []
    iterate = pq.ParquetFile.iter_batches

    def counted(*arguments: Any, **settings: Any) -> Iterator[pa.RecordBatch]:
        for batch in iterate(*arguments, **settings):
            decoded.append(len(batch))
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    assert read_rows(info, 100, 120, ["query_id"], OPTIONS)["query_id"][0].as_py() == "100"
    assert sum(decoded) == 120
    assert max(decoded) == 20


def test_ranges_keep_types_and_dictionaries(tmp_path: Path) -> None:
    coded = pa.array([f"text {i % 7}" for i in range(600)]).dictionary_encode()
    table = pa.Table.from_pylist([row(str(i)) for i in range(600)], schema=INPUT_SCHEMA).append_column("lang", coded)
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=250)
    info = Storage(str(tmp_path)).info(str(tmp_path / "x.parquet"))
    read = from_ipc(to_ipc(read_rows(info, 100, 590, [*table.schema.names, "nope"], OPTIONS)))
    assert read.to_pylist() == table.slice(100, 490).to_pylist()
    assert read.schema.types == pq.read_schema(tmp_path / "x.parquet").types


def test_a_folder_may_be_named_like_a_file(tmp_path: Path) -> None:
    write_shard(tmp_path / "in.parquet" / "part-0.parquet", [row("a")])
    (tmp_path / "in.parquet" / "_SUCCESS").write_bytes(b"")
    assert [Path(f.uri).name for f in list_inputs([str(tmp_path / "in.parquet")], OPTIONS)] == ["part-0.parquet"]


def test_a_file_that_changed_since_the_plan_is_refused(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "x.parquet", [row("a")])
    info = Storage(str(path)).info(str(path))
    write_shard(path, [row("a"), row("b")])
    with pytest.raises(InputError, match="has changed"):
        read_rows(info, 0, 1, ["query_id"], OPTIONS)


def test_inputs_are_files_folders_and_committed_runs(tmp_path: Path) -> None:
    one = write_shard(tmp_path / "in" / "1.parquet", [row("a")])
    two = write_shard(tmp_path / "in" / "deep" / "2.parquet", [row("b")])
    write_shard(tmp_path / "in" / "_old" / "3.parquet", [row("c")])
    assert [f.uri for f in list_inputs([str(one)], OPTIONS)] == [str(one)]
    assert [f.uri for f in list_inputs([str(tmp_path / "in"), str(one)], OPTIONS)] == [str(one), str(two)]
    with pytest.raises(InputError, match="found none"):
        list_inputs([str(tmp_path / "nothing")], OPTIONS)
    write_shard(tmp_path / "run" / "data" / "u.parquet", [row("a")])
    write_shard(tmp_path / "run" / "data" / "stray.parquet", [row("x")])
    (tmp_path / "run" / "_plan.json").write_text("{}")
    with pytest.raises(InputError, match="without a manifest"):
        list_inputs([str(tmp_path / "run")], OPTIONS)
    (tmp_path / "run" / "_manifest.json").write_text('{"objects": [{"path": "data/u.parquet"}]}')
    assert [Path(f.uri).name for f in list_inputs([str(tmp_path / "run")], OPTIONS)] == ["u.parquet"]


def _plan(**changes: Any) -> Plan:
    values: dict[str, Any] = {
        "run_id": "r-1",
        "job": "rerank",
        "name": "r",
        "config_hash": "c",
        "input_hash": "i",
        "config": {},
        "provenance": {},
        "order": "as_given",
        "files": (),
        "skipped_files": (),
        "units": (),
        "schema_ipc": encode_schema(ranking_schema([pa.field("lang", pa.string())])),
        "carried": ("lang",),
    }
    return Plan(**{**values, **changes})


def test_the_first_plan_counts_and_another_one_is_a_conflict(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    first = store_plan(storage, str(tmp_path), _plan())
    assert store_plan(storage, str(tmp_path), _plan(order="reversed")) == first
    assert first.carried == ("lang",)
    with pytest.raises(PlanConflictError, match="not"):
        store_plan(storage, str(tmp_path), _plan(config_hash="other"))
