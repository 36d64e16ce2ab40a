"""Around a run: verify names every damage, clean removes leftovers only, rollback and status tell the truth."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from jobs.cli import app
from pipelines.commit import load_manifest, manifest_rows, point_latest
from pipelines.job import RunResult
from pipelines.lease import Lease
from pipelines.storage import Storage, StorageOptions
from pipelines.verify import open_run, verify
from qrcore.errors import ErrorLimitError, InputError
from tests.shards import candidates, row, write_shard
from tests.stubs import run_stub, stub_settings

pytestmark = pytest.mark.usefixtures("local_ray")
OPTIONS = StorageOptions()


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200"}, catch_exceptions=False)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an input and a committed run over it; never changed."""
    folder = tmp_path_factory.mktemp("template")
    schema_rows = [row(f"q{i}", query="oom" if i == 5 else "good", candidates=candidates(3, i)) for i in range(10)]
    write_shard(folder / "in" / "1.parquet", schema_rows)
    run_stub(stub_settings(str(folder / "in"), str(folder / "out")))
    return folder


@pytest.fixture
def run(template: Path) -> Any:
    """The committed run, which is put back as it was when a test is over."""
    (folder,) = (template / "out").glob("stub-*")
    before = {path: (path.read_bytes(), path.stat()) for path in template.rglob("*") if path.is_file()}
    yield folder
    for path in template.rglob("*"):
        if path.is_file() and path not in before:
            path.unlink()
    for path, (content, stamp) in before.items():
        if not path.exists() or path.read_bytes() != content or path.stat().st_mtime_ns != stamp.st_mtime_ns:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


def _problems(run: Path, **how: bool) -> set[str]:
    with_input = how.get("with_input", True)
    return {problem.code for problem in verify(open_run(str(run), OPTIONS), with_input=with_input)}


def _objects(run: Path) -> list[Path]:
    manifest = json.loads((run / "_manifest.json").read_text())
    return [run / entry["path"] for entry in manifest["objects"]]


def _forge(run: Path, number: int, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    """Change an object's rows and let footer and manifest agree with it, so that only reading the rows can tell."""
    path = _objects(run)[number]
    table = pq.read_table(path)
    rows = change(table.to_pylist())
    footer = json.loads(table.schema.metadata[b"qrbatch.unit"])
    failed = sum(r["error"] is not None for r in rows)
    footer |= {"rows": len(rows), "failed": failed, "scored": len(rows) - failed}
    metadata = {**table.schema.metadata, b"qrbatch.unit": json.dumps(footer).encode()}
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema).replace_schema_metadata(metadata), path)
    _edit_manifest(
        run, number, size=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest(), **_counted(footer)
    )


def _counted(footer: dict[str, Any]) -> dict[str, int]:
    return {name: footer[name] for name in ("rows", "scored", "failed")}


def _edit_manifest(run: Path, number: int, **values: Any) -> None:
    manifest = json.loads((run / "_manifest.json").read_text())
    manifest["objects"][number] |= values
    (run / "_manifest.json").write_text(json.dumps(manifest))


def _swap(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows[0]["query_id"], rows[1]["query_id"] = rows[1]["query_id"], rows[0]["query_id"]
    return rows


def _lose_candidate(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows[0]["ranking"].pop()
    return rows


def _turn_around(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    items = rows[0]["ranking"][::-1]
    rows[0]["ranking"] = [{**item, "rank": rank} for rank, item in enumerate(items, start=1)]
    return rows


def _ranks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows[0]["ranking"][0]["rank"] = 2
    return rows


def _nan(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows[0]["ranking"][0]["score"] = float("nan")
    return rows


def _both(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows[0]["error"] = {"code": "oom", "kind": "transient", "message": "m", "stage": "score"}
    return rows


def test_a_whole_run_has_no_problem(run: Path) -> None:
    assert _problems(run) == set()
    result = invoke("verify", str(run))
    assert result.exit_code == 0
    assert "10 rows = 9 scored + 1 failed" in result.output


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda rows: rows[:-1], "lost_row"),
        (lambda rows: [*rows, rows[0]], "doubled_row"),
        (lambda rows: rows[::-1], "wrong_row_order"),
        (_swap, "swapped_id"),
        (_lose_candidate, "lost_candidate"),
        (_turn_around, "wrong_order"),
        (_ranks, "wrong_ranks"),
        (_nan, "non_finite_score"),
        (_both, "error_and_answer"),
    ],
)
def test_damaged_rows_are_named_even_where_every_hash_agrees(run: Path, change: Any, code: str) -> None:
    _forge(run, 0, change)
    assert code in _problems(run)


def test_a_flipped_byte_is_named(run: Path) -> None:
    path = _objects(run)[1]
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(bytes(data))
    assert "changed_file" in _problems(run)
    result = invoke("verify", str(run))
    assert result.exit_code == 1
    assert f"data/{path.name}" in result.output


def test_missing_and_foreign_and_edited_files_are_named(run: Path) -> None:
    first, second = _objects(run)[:2]
    content = second.read_bytes()
    second.unlink()
    assert _problems(run) == {"missing_file"}
    second.write_bytes(first.read_bytes())
    assert {"changed_file", "foreign_unit", "foreign_row"} <= _problems(run)
    second.write_bytes(content)
    (run / "data" / "0123456789abcdef.parquet").write_bytes(content)
    assert _problems(run) == {"foreign_unit"}
    (run / "data" / "0123456789abcdef.parquet").unlink()
    (report,) = run.glob("commit/*/report.json")
    report.write_text(report.read_text().replace('"failed": 1', '"failed": 0'))
    assert _problems(run) == {"changed_file"}
    report.unlink()
    assert _problems(run) == {"missing_file"}


def test_a_wrong_count_is_named(run: Path) -> None:
    _edit_manifest(run, 1, scored=4, failed=0)
    assert _problems(run) == {"wrong_count"}


def test_a_changed_input_is_named_unless_it_is_not_looked_at(run: Path, template: Path) -> None:
    write_shard(template / "in" / "1.parquet", [row("other")])
    assert _problems(run) == {"changed_input"}
    assert _problems(run, with_input=False) == set()
    assert invoke("verify", str(run), "--no-input").exit_code == 0


def test_a_changed_carried_column_is_named(tmp_path: Path) -> None:
    schema = pa.Table.from_pylist([row("a")]).schema.append(pa.field("lang", pa.string()))
    write_shard(tmp_path / "in" / "1.parquet", [row("a", lang="de"), row("b", lang=None)], schema)
    result = run_stub(stub_settings(str(tmp_path / "in"), str(tmp_path / "out")))
    assert _problems(Path(result.run_uri)) == set()
    _forge(Path(result.run_uri), 0, lambda rows: [{**r, "lang": "fr"} for r in rows])
    assert _problems(Path(result.run_uri)) == {"changed_column"}


def test_status_tells_units_rows_errors_and_who_committed(run: Path) -> None:
    output = invoke("status", str(run)).output
    manifest = load_manifest(Storage(str(run)), str(run))
    assert manifest is not None
    for text in ("units 3/3, rows 10/10", "error rows 1: 1 oom", f"by driver {manifest.driver}", "rows/s"):
        assert text in output
    (run / "_manifest.json").unlink()
    _objects_left = sorted((run / "data").iterdir())
    _objects_left[0].unlink()
    output = invoke("status", str(run)).output
    assert "not committed" in output
    assert "units 2/3" in output
    assert "to go" in output
    nothing = invoke("status", str(run.parent))
    assert nothing.exit_code == 2
    assert "expected a run" in nothing.output


def test_cleaning_lists_first_and_never_touches_what_the_manifest_names(run: Path) -> None:
    kept = {path for path in run.rglob("*") if path.is_file() and "_attempts" not in path.parts}
    litter = [
        run / "data" / ".u.parquet.0123",
        run / "data" / "0123456789abcdef.parquet",
        run / "commit" / "another" / "report.json",
    ]
    for path in litter:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    listed = invoke("clean", str(run))
    assert listed.exit_code == 0
    assert all(str(path) in listed.output for path in litter)
    assert "_manifest.json" not in listed.output.replace("object that the manifest", "")
    assert all(path.exists() for path in litter)
    assert invoke("clean", str(run), "--yes").exit_code == 0
    assert {path for path in run.rglob("*") if path.is_file()} == kept
    assert _problems(run) == set()


def test_cleaning_refuses_while_a_driver_works(run: Path) -> None:
    (run / "_leases").mkdir(exist_ok=True)
    (run / "_leases" / "d.json").write_text(Lease.of_this_process("d").model_dump_json())
    result = invoke("clean", str(run), "--yes")
    assert result.exit_code == 6
    assert f"process {os.getpid()}" in result.output


def test_units_with_errors_of_an_uncommitted_run_are_scored_again(tmp_path: Path) -> None:
    flag = tmp_path / "once"
    rows = [row(f"q{i}", query="oom" if i < 3 else "good") for i in range(8)]
    write_shard(tmp_path / "in" / "1.parquet", rows)
    result = run_stub(stub_settings(str(tmp_path / "in"), str(tmp_path / "out")))
    run = Path(result.run_uri)
    committed = invoke("clean", str(run), "oom", "--units-with-errors")
    assert committed.exit_code == 2
    assert "--rows-from" in committed.output
    (run / "_manifest.json").unlink()
    assert "0 to remove" not in invoke("clean", str(run), "--units-with-errors").output
    none = invoke("clean", str(run), "non_finite", "--units-with-errors")
    assert "unit with errors" not in none.output
    done = invoke("clean", str(run), "oom", "--units-with-errors", "--yes")
    assert "3 oom" in done.output
    assert len(list((run / "data").iterdir())) == 1
    assert not flag.exists()
    assert not run_stub(stub_settings(str(tmp_path / "in"), str(tmp_path / "out"))).already_committed
    assert len(list((run / "data").iterdir())) == 2


def _committed(folder: Path, content: str) -> RunResult:
    write_shard(folder / "in" / "1.parquet", [row(content)])
    return run_stub(stub_settings(str(folder / "in"), str(folder / "out")))


def test_rolling_back_holds_until_a_later_run_commits(tmp_path: Path) -> None:
    first, second = _committed(tmp_path, "a"), _committed(tmp_path, "b")
    output, storage = str(tmp_path / "out"), Storage(str(tmp_path))

    def latest() -> str:
        return str(json.loads((tmp_path / "out" / "stub.latest.json").read_text())["run_id"])

    assert latest() == second.manifest.run_id
    wrong = invoke("rollback", output, "other", first.manifest.run_id)
    assert wrong.exit_code == 2
    assert invoke("rollback", output, "stub", first.manifest.run_id).exit_code == 0
    assert latest() == first.manifest.run_id
    point_latest(storage, output, second.manifest)  # the same command as before finds its run committed
    assert latest() == first.manifest.run_id
    assert invoke("rollback", output, "stub").exit_code == 2  # what stood before the first one is not known
    third = second.manifest.model_copy(update={"run_id": "stub-3", "committed_at": "2999-01-01T00:00:00+00:00"})
    point_latest(storage, output, third)
    assert latest() == "stub-3"
    assert f"points at {first.manifest.run_id}" in invoke("rollback", output, "stub").output
    assert latest() == first.manifest.run_id


def test_failed_rows_of_a_committed_run_make_a_child(run: Path, template: Path) -> None:
    settings = stub_settings(str(run), str(template / "out2"), input={"rows_from": f"{run}/errors"})
    child = run_stub(settings_from(settings, f"{run}/errors"))
    assert child.manifest.parent == run.name
    (out,) = list(manifest_rows(child.run_uri))
    assert (out["query_id"], out["source"]["row"], out["error"]["code"]) == ("q5", 5, "oom")
    assert _problems(Path(child.run_uri)) == set()
    again = run_stub(settings_from(settings, str(run)))
    assert again.already_committed
    write_shard(template / "in" / "1.parquet", [row("other")])
    with pytest.raises(InputError, match="has changed"):
        run_stub(settings_from(settings, str(run)))


def settings_from(settings: Any, rows_from: str) -> Any:
    from dataclasses import replace

    return replace(settings, rows_from=rows_from)


def test_a_rate_of_errors_is_judged_over_enough_rows(tmp_path: Path) -> None:
    places = (str(tmp_path / "in"), str(tmp_path / "out"))
    write_shard(tmp_path / "in" / "1.parquet", [row(f"q{i}", query="oom" if i % 10 == 0 else "x") for i in range(210)])
    with pytest.raises(ErrorLimitError, match=r"at most 5\.00% to fail"):
        run_stub(stub_settings(*places, units={"max_rows": 70}))
    assert not list((tmp_path / "out").glob("*/_manifest.json"))
    with pytest.raises(ErrorLimitError, match="qrbatch clean"):  # at the commit, with nothing left to do
        run_stub(stub_settings(*places, units={"max_rows": 70}))
    result = run_stub(stub_settings(*places, units={"max_rows": 70, "max_error_rate": 0.2}))
    assert result.manifest.failed == 21
