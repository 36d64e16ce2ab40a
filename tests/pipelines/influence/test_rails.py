"""The stages of a run over documents, one by one in this process: survey, plan, read, write, commit, verify."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.influence import InfluenceConfig, pipeline_settings
from jobs.settings import validate
from pipelines.commit import _read_object, commit, load_manifest, make_manifest, manifest_rows, side_object
from pipelines.contracts import CONTRACTS, DOCUMENT_SCHEMA, DOCUMENTS
from pipelines.influence import run as module
from pipelines.influence.ranking import RankingSettings, _rank_group, _slim_rows
from pipelines.influence.rows import INFLUENCE_SCHEMA, influence_row, influence_table
from pipelines.influence.run import InfluenceFiles, InfluenceJob
from pipelines.inputs import survey_file
from pipelines.job import contract_of
from pipelines.metrics import UnitMetrics
from pipelines.plan import Plan, Unit, cut_units, encode_schema, planned_files, store_plan, usable_surveys
from pipelines.report.parts import CommonParts
from pipelines.rows import Source, duplicate_query_id, error_table, read_input_rows
from pipelines.storage import Storage, StorageOptions
from pipelines.units import from_ipc, to_ipc, unit_uri
from pipelines.verify import open_run, verify
from pipelines.work import _read_unit, _Work, _write_unit
from qrcore.contracts.influence import DocumentInfluence
from qrcore.errors import ScoreError
from tests.pipelines.test_bad_input import _damage
from tests.shards import write_shard

OPTIONS = StorageOptions()
ROWS: list[dict[str, Any]] = [
    {"doc_id": "a", "domain": "web", "text": "one"},
    {"doc_id": "b", "domain": None, "text": "two two"},
    {"doc_id": "a", "domain": "web", "text": "doubled"},
    {"doc_id": "d", "domain": "web", "text": "x" * 500},
    {"doc_id": "e", "domain": "web", "text": "five five five"},
]


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def rank(settings: RankingSettings, unit_ids: Sequence[str]) -> list[dict[str, Any]]:
        slim = _slim_rows(pa.table({"unit_id": list(unit_ids)}), settings)
        groups = [slim.filter(pa.compute.equal(slim["domain_key"], key)) for key in set(slim["domain_key"].to_pylist())]
        told = [json.loads(_rank_group(group, settings)["summary"][0].as_py()) for group in groups]
        return sorted(told, key=lambda domain: domain["domain"] or "")

    monkeypatch.setattr(module, "rank_documents", rank)


def _settings(folder: Path) -> Any:
    base = {"input": {"uris": [str(folder)]}, "output": {"uri": str(folder / "out")}, "selection": {"fraction": 0.5}}
    return pipeline_settings(validate(InfluenceConfig, base))


def _plan(path: Path) -> Plan:
    survey = survey_file(Storage(str(path)).info(str(path)), OPTIONS, DOCUMENTS)
    usable, _ = usable_surveys([survey], skip_bad_files=False)
    return Plan(
        run_id="influence-0123456789ab",
        job="influence",
        name="influence",
        contract=DOCUMENTS.name,
        config_hash="c",
        input_hash="i",
        config={},
        provenance={
            "head_set": {"id": "heads@1"}, "settings": {"mask_mode": "uniform", "mask_scope": "all"},
            "fraction": 0.5, "warnings": ["not recorded"],
        },
        order="as_given",
        files=planned_files(usable),
        skipped_files=(),
        units=cut_units(usable, "c", 400, 2, largest_row=100),
        schema_ipc=encode_schema(INFLUENCE_SCHEMA),
    )  # fmt: skip


def _work(plan: Plan, run_uri: str) -> _Work:
    return _Work(
        run_uri=run_uri,
        config_hash=plan.config_hash,
        provenance=json.dumps(plan.provenance),
        files=tuple((file.uri, file.size, file.etag) for file in plan.files),
        largest_rows=tuple(file.largest_row for file in plan.files),
        contract=plan.contract,
        columns=(*CONTRACTS[plan.contract].columns, *plan.carried),
        storage=OPTIONS,
        skip_bad_files=False,
    )


def _answer(read: Mapping[str, Any], unit: Unit) -> pa.Table:
    """What an actor would give back: influence is the number of words."""
    table, failed = from_ipc(read["table"]), json.loads(read["failed"])
    sources = [Source(read["uri"], unit.start + place) for place in range(len(table))]
    if failed:
        error = ScoreError(*failed["0"], stage="read")
        return error_table(table, [error], sources, INFLUENCE_SCHEMA, ())
    rows = []
    for row, source in zip(read_input_rows(table), sources, strict=True):
        assert isinstance(row, dict)
        words = len(row["text"].split())
        found = DocumentInfluence(words, words, 1, 1.0, 1.0 + words, float(words), (0.0,), 0.0, 0.0)
        answer = duplicate_query_id(row) if source.row in unit.duplicates else found
        rows.append(influence_row(row["doc_id"], row["domain"], answer, source))
    return influence_table(rows)


def _metrics(table: pa.Table) -> UnitMetrics:
    codes = [error["code"] for error in table["error"].to_pylist() if error]
    counts = {code: codes.count(code) for code in codes}
    scored, now = len(table) - len(codes), "2026-11-25T00:00:00+00:00"
    return UnitMetrics(len(table), scored, len(codes), 0, 7, counts, 0.1, now, now, 1, "here")


def test_documents_go_from_files_to_a_run_that_verifies(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "in" / "0.parquet", ROWS, DOCUMENT_SCHEMA)
    plan, run_uri = _plan(path), str(tmp_path / "out" / "influence-0123456789ab")
    assert [(unit.start, unit.stop, unit.too_large) for unit in plan.units] == [
        (0, 2, False), (2, 3, False), (3, 4, True), (4, 5, False),
    ]  # fmt: skip
    assert plan.units[1].duplicates == (2,) and plan.files[0].largest_row == 500
    storage = Storage(str(tmp_path / "out"), OPTIONS)
    assert store_plan(storage, run_uri, plan) == plan
    work = _work(plan, run_uri)
    for unit in plan.units:
        read = _read_unit({"unit": unit.model_dump_json()}, work)
        table = _answer(read, unit)
        row = {**read, "table": to_ipc(table), "metrics": json.dumps(asdict(_metrics(table)))}
        assert _write_unit({**row, "killers": "{}"}, work)["footer"]
        assert storage.exists(unit_uri(run_uri, unit.unit_id))
    job = InfluenceJob(_settings(tmp_path))
    files = InfluenceFiles(CommonParts(plan, job.started_at), job.settings)
    stored = [_read_object(unit, run_uri, INFLUENCE_SCHEMA.names, OPTIONS) for unit in plan.units]
    objects = [one.entry for one in files.watch(stored)]
    paths = files.write(storage, run_uri, "driver", False, {})
    entries = [side_object(storage, run_uri, one) for one in paths]
    commit(storage, str(tmp_path / "out"), run_uri, make_manifest(plan, objects, "driver", entries, files.warnings))
    manifest = load_manifest(storage, run_uri)
    assert manifest is not None and (manifest.rows, manifest.scored, manifest.failed) == (5, 3, 2)
    assert manifest.warnings == ("not recorded",)
    assert [one for one in verify(open_run(run_uri, OPTIONS), with_input=True)] == []
    rows = list(manifest_rows(run_uri))
    assert [row["doc_id"] for row in rows] == ["a", "b", "a", "d", "e"]
    assert [row["error"] and row["error"]["code"] for row in rows] == [
        None, None, "duplicate_doc_id", "row_too_large", None,
    ]  # fmt: skip
    (report,) = (Path(run_uri) / "commit" / "driver").glob("report.json")
    told = json.loads(report.read_text())
    assert told["result"] == {"rows": 5, "scored": 3, "failed": 2}
    assert [(one["domain"], one["documents"], one["selected"]) for one in told["domains"]] == [
        (None, 1, 1),
        ("web", 2, 1),
    ]
    assert told["run"]["job"] == "influence" and told["asked"]["rows"] == 5
    assert {one["code"]: one["examples"][0]["query_id"] for one in told["errors"]} == {
        "duplicate_doc_id": "a",
        "row_too_large": "d",
    }
    assert len(told["pace"]["units"]) == 4 and told["pace"]["throughput"]["seconds"]["wall"] >= 0
    page = report.with_name("report.html").read_text()
    assert "How it ran" in page and "row_too_large" in page and "documents / s" in page
    lines = [json.loads(line) for line in report.with_name("errors.jsonl").read_text().splitlines()]
    assert [line["doc_id"] for line in lines] == ["a", "d"]


def test_documents_of_a_damaged_file_keep_their_places_and_none_are_kept_together(tmp_path: Path) -> None:
    rows = [{"doc_id": f"d{number}", "domain": None, "text": "same words"} for number in range(6)]
    path = tmp_path / "0.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=DOCUMENT_SCHEMA), path, row_group_size=3)
    _damage(path, "text", group=1)
    survey = survey_file(Storage(str(path)).info(str(path)), OPTIONS, DOCUMENTS)
    assert "row group 1" in survey.damage and survey.row_bytes.tolist() == [10, 10, 10, 0, 0, 0]
    assert len(survey.id_digests) == 6 and not len(survey.list_digests)
    units = cut_units([replace(survey, damage="")], "c", 10_000, 4, largest_row=100)
    assert [(unit.start, unit.stop) for unit in units] == [(0, 4), (4, 6)]


def test_a_changed_id_is_found_when_a_run_is_verified(tmp_path: Path) -> None:
    """The comparison with the input looks at doc_id, as it does at query_id elsewhere."""
    from pipelines.verify import RunToVerify, _against_input

    path = write_shard(tmp_path / "in" / "0.parquet", ROWS, DOCUMENT_SCHEMA)
    plan = _plan(path)
    unit = plan.units[0]
    answers = [{"doc_id": name, "source": {"uri": str(path), "row": row}} for row, name in enumerate(("a", "other"))]
    run = RunToVerify("u", plan, None, Storage(str(tmp_path), OPTIONS), OPTIONS)  # type: ignore[arg-type]
    found = list(_against_input(run, unit, pa.table({}), answers))
    assert [code for code, _ in found] == ["swapped_id"]


def test_the_job_names_its_contract_and_others_keep_theirs(tmp_path: Path) -> None:
    from pipelines.contracts import QUERIES

    assert contract_of(InfluenceJob(_settings(tmp_path))) is DOCUMENTS
    assert contract_of(object()) is QUERIES
