"""A real run on a real local Ray, over several shards with two actors."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import s3fs
from ray.data import DataContext
from rich.console import Console

from jobs.console import show_result
from pipelines.job import RunResult
from pipelines.rerank import RerankSettings
from pipelines.schemas import QRELS_SCHEMA
from pipelines.scorers import on_requested_device
from pipelines.work import PoolSettings
from qrcore import Document, load_scorer
from qrcore.errors import ConfigError, HeadSetError
from qrcore.memory import PassMemory
from tests.pipelines.reranking import Recorder, finish, rows_of, settings_for, side_file, three_shards
from tests.services import SECRET
from tests.shards import HEADS, MODEL, candidates, row, write_shard

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return three_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def committed(shards: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[RerankSettings, RunResult, Recorder]:
    settings = settings_for(shards, str(tmp_path_factory.mktemp("output")))
    return (settings, *finish(settings))


def test_every_row_comes_out_once_in_input_order(committed: tuple[RerankSettings, RunResult, Recorder]) -> None:
    _, result, _ = committed
    rows = rows_of(result)
    assert [r["query_id"] for r in rows] == [f"q{shard}{i}" for shard in range(3) for i in range(4)]
    assert [(Path(r["source"]["uri"]).name, r["source"]["row"]) for r in rows] == [
        (f"part-{shard}.parquet", i) for shard in range(3) for i in range(4)
    ]
    assert (result.manifest.rows, result.manifest.scored, result.manifest.failed) == (12, 12, 0)


def test_rankings_are_those_of_the_scorer_with_the_best_document_last(
    committed: tuple[RerankSettings, RunResult, Recorder],
) -> None:
    scorer = load_scorer(MODEL, heads=HEADS, order="reversed")
    for out in rows_of(committed[1])[:3]:
        given = row(out["query_id"])
        documents = [Document(c["doc_id"], c["text"], c["title"], c["score"], c["rank"]) for c in given["candidates"]]
        expected = scorer.rank(given["query"], documents)
        assert out["prompt_tokens"] == expected.prompt_tokens
        for got, want in zip(out["ranking"], expected.documents, strict=True):
            assert (got["doc_id"], got["rank"], got["input_rank"]) == (want.doc_id, want.rank, want.input_rank)
            assert got["score"] == pytest.approx(want.score, abs=1e-6)
            assert got["input_score"] == want.input_score
            assert got["round"] == 1


def test_two_actors_share_the_work_outside_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Both actors must be up before the first unit, and units long enough that one actor cannot take them all.
    monkeypatch.setattr(DataContext.get_current(), "wait_for_min_actors_s", 240)
    long = [{**c, "text": " ".join([c["text"]] * 25)} for c in candidates(8)]
    write_shard(tmp_path / "in" / "1.parquet", [row(f"q{i}", candidates=long) for i in range(8)])
    settings = settings_for(str(tmp_path / "in"), str(tmp_path / "out"), actors={"count": 2}, units={"max_rows": 1})
    result, _ = finish(settings)
    footers = [_footer(result, entry.path) for entry in result.manifest.objects]
    pids = {footer["actor_pid"] for footer in footers}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert sum(footer["rows"] for footer in footers) == 8


def _footer(result: RunResult, path: str) -> dict[str, Any]:
    metadata = pq.read_schema(f"{result.run_uri}/{path}").metadata
    assert json.loads(metadata[b"qrbatch.provenance"])["model"]["id"] == MODEL
    assert metadata[b"qrbatch.schema_version"] == b"1.0"
    footer: dict[str, Any] = json.loads(metadata[b"qrbatch.unit"])
    return footer


def test_the_manifest_tells_where_everything_came_from(committed: tuple[RerankSettings, RunResult, Recorder]) -> None:
    settings, result, recorder = committed
    manifest = json.loads(Path(result.run_uri, "_manifest.json").read_text())
    assert manifest["provenance"]["head_set"]["heads"] == HEADS.split(",")
    assert manifest["provenance"]["prompt"]["name"] == "qrhead-llama3"
    assert manifest["provenance"]["model"]["kept_layers"] == 3
    assert {"torch", "ray", "transformers", "python"} <= manifest["provenance"]["packages"].keys()
    assert manifest["config_hash"] == recorder.plan.config_hash  # type: ignore[union-attr]
    latest = json.loads(Path(settings.run.output, "rerank.latest.json").read_text())
    assert latest["manifest"] == f"{manifest['run_id']}/_manifest.json"
    assert all(Path(result.run_uri, path).stat().st_size >= 0 for path in manifest["side_files"])


def test_the_report_adds_up(committed: tuple[RerankSettings, RunResult, Recorder]) -> None:
    _, result, _ = committed
    report = json.loads(side_file(result, "report.json"))
    assert report["result"]["rows"] == report["result"]["scored"] == report["asked"]["rows"] == 12
    assert report["throughput"]["prompt_tokens"] == sum(r["prompt_tokens"] for r in rows_of(result))
    assert sum(map(sum, report["movement"]["counts"])) == 12 * 4
    assert sum(report["distributions"]["candidates"]["counts"]) == 12
    scorer = load_scorer(MODEL, heads=HEADS, device="cpu")
    weights = PassMemory.of(scorer.model.source.config, scorer.heads.head_list).weights
    (actor,) = report["memory"]
    assert min(actor["predicted_bytes"], actor["measured_bytes"]) > weights and not actor["on_gpu"]
    assert "<svg" in side_file(result, "report.html")


def test_without_a_first_stage_the_order_is_as_given(tmp_path: Path) -> None:
    bare = [{"doc_id": c["doc_id"], "text": c["text"]} for c in candidates(3)]
    write_shard(tmp_path / "in" / "1.parquet", [row("a", candidates=bare)])
    result, recorder = finish(settings_for(str(tmp_path / "in"), str(tmp_path / "out")))
    assert recorder.plan is not None
    assert recorder.plan.order == "as_given"
    assert json.loads(side_file(result, "report.json"))["movement"] is None


def test_labels_give_a_quality_table(tmp_path: Path) -> None:
    write_shard(tmp_path / "in" / "1.parquet", [row("a"), row("b")])
    labels = [{"query_id": q, "doc_id": "d0", "relevance": 1} for q in ("a", "b")]
    write_shard(tmp_path / "qrels.parquet", labels, QRELS_SCHEMA)
    settings = settings_for(str(tmp_path / "in"), str(tmp_path / "out"), qrels=str(tmp_path / "qrels.parquet"))
    report = json.loads(side_file(finish(settings)[0], "report.json"))
    units = [unit["started_at"] for unit in report["units"]]
    assert report["run"]["started_at"] < min(units) < report["run"]["finished_at"]
    measure = report["quality"]["measures"][0]
    assert measure["name"] == "nDCG@10"
    assert measure["first_stage"] == 1.0
    assert measure["low"] <= measure["difference"] == measure["reranked"] - 1.0 <= measure["high"]
    assert [example["query"] for example in report["examples"]] == [
        row(e["query_id"])["query"] for e in report["examples"]
    ]


def test_a_report_without_examples_holds_no_text(shards: str, tmp_path: Path) -> None:
    result, _ = finish(settings_for(shards, str(tmp_path), report={"examples": False}))
    texts = {row(f"q{shard}{i}")["query"] for shard in range(3) for i in range(4)}
    for name in ("report.json", "report.html"):
        content = side_file(result, name)
        assert not any(text in content for text in texts)


def test_a_head_set_that_does_not_fit_is_refused_before_any_work(shards: str, tmp_path: Path) -> None:
    with pytest.raises(HeadSetError, match="9-0"):
        finish(settings_for(shards, str(tmp_path / "out"), model={"heads": "9-0"}))
    assert not (tmp_path / "out").exists()


def test_a_pool_that_would_starve_reading_is_refused(shards: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Use fewer actors"):
        finish(settings_for(shards, str(tmp_path), actors={"count": 64}))
    with pytest.raises(ConfigError, match="GPUs"):
        finish(settings_for(shards, str(tmp_path), actors={"gpus": 1}))


def test_a_run_over_s3(s3_environment: str, tmp_path: Path) -> None:
    s3 = s3fs.S3FileSystem(skip_instance_cache=True)
    s3.mkdir("rerank-bucket")
    for shard in range(2):
        s3.put_file(
            str(write_shard(tmp_path / f"{shard}.parquet", [row(f"s{shard}"), row(f"t{shard}", query=None)])),
            f"rerank-bucket/in/{shard}.parquet",
        )
    settings = settings_for("s3://rerank-bucket/in", "s3://rerank-bucket/out", units={"max_rows": 1})
    result, _ = finish(settings)
    assert [r["query_id"] for r in rows_of(result)] == ["s0", "t0", "s1", "t1"]
    assert result.manifest.failed == 2
    again, recorder = finish(replace(settings, run=replace(settings.run, pool=replace(settings.run.pool, actors=1))))
    assert again.already_committed
    assert recorder.footers == []
    stored = b"".join(s3.cat_file(path) for path in s3.find("rerank-bucket/out"))
    assert SECRET.encode() not in stored


def test_a_pool_without_gpus_scores_on_the_cpu_wherever_it_runs(shards: str, tmp_path: Path) -> None:
    scorer = settings_for(shards, str(tmp_path)).scorer
    assert on_requested_device(scorer, PoolSettings()).device == "cpu"
    assert on_requested_device(scorer, PoolSettings(gpus_per_actor=0.5)).device == "cuda"
    assert on_requested_device(replace(scorer, device="cuda:1"), PoolSettings(gpus_per_actor=0.5)).device == "cuda:1"


def test_prompts_much_longer_than_those_of_detection_are_told_of(shards: str, tmp_path: Path) -> None:
    heads = {"name": "short", "heads": HEADS.split(","), "prompt_tokens": {"p50": 3, "p95": 4}}
    (tmp_path / "heads.json").write_text(json.dumps(heads))
    settings = settings_for(shards, str(tmp_path / "out"), model={"heads": str(tmp_path / "heads.json")})
    result, _ = finish(settings)
    (said,) = result.manifest.warnings
    assert "12 of 12 prompts have more than 4 times" in said and "p95 of them 4" in said
    (report,) = (tmp_path / "out").glob("*/commit/*/report.json")
    assert json.loads(report.read_text())["warnings"][-1] == said
    console = Console(file=io.StringIO(), width=300)
    show_result(console, result)
    assert said in console.file.getvalue()  # type: ignore[attr-defined]


def test_tokenising_ahead_changes_nothing_but_who_does_it(tmp_path: Path) -> None:
    rows = [
        row("q0"),
        row("q1", query=None),
        row("q2"),
        row("q2"),
        row("twice", candidates=candidates(1) * 2),
        row("q3"),
    ]
    shard = str(write_shard(tmp_path / "in" / "a.parquet", rows))
    here, _ = finish(settings_for(shard, str(tmp_path / "here"), actors={"cpus": 0.5}))
    ahead, told = finish(settings_for(shard, str(tmp_path / "ahead"), actors={"cpus": 0.5, "tokenisers": 1}))
    assert ahead.manifest.run_id == here.manifest.run_id
    assert rows_of(ahead) == rows_of(here)
    assert [one["error"] and one["error"]["code"] for one in rows_of(ahead)] == [
        None, "null_query", None, "duplicate_query_id", "duplicate_doc_id", None,
    ]  # fmt: skip
    assert all(footer["tokenise_s"] > 0 for footer in told.footers)


def test_what_the_memory_budget_does_not_allow_is_an_error_row_or_no_run_at_all(tmp_path: Path) -> None:
    rows = [row("q0"), row("q1", candidates=candidates(400))]
    shard = str(write_shard(tmp_path / "in" / "a.parquet", rows))
    scorer = load_scorer(MODEL, heads=HEADS, device="cpu")
    memory = PassMemory.of(scorer.model.source.config, scorer.heads.head_list)
    allowed = memory.predict(2000).total
    result, _ = finish(settings_for(shard, str(tmp_path / "out"), engine={"memory_bytes": allowed}))
    assert [one["error"] and one["error"]["code"] for one in rows_of(result)] == [None, "oom"]
    with pytest.raises(ConfigError, match=r"more than the \d+ bytes that the weights take"):
        finish(settings_for(shard, str(tmp_path / "none"), engine={"memory_bytes": memory.weights}))
