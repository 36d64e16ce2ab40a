"""A real run on a real local Ray, over several shards with two actors."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from ray.data import DataContext
from rich.console import Console

from jobs.config import RerankConfig
from jobs.console import show_result
from jobs.rerank import pipeline_settings
from jobs.settings import merge, validate
from pipelines import commit
from pipelines.commit import manifest_rows
from pipelines.job import RunResult
from pipelines.plan import Plan
from pipelines.rerank import RerankSettings, run
from pipelines.schemas import INPUT_SCHEMA, QRELS_SCHEMA
from pipelines.scorers import on_requested_device
from pipelines.storage import Storage
from pipelines.work import PoolSettings
from qrcore import Document, load_scorer
from qrcore.errors import ConfigError, HeadSetError, IncompleteRunError, InputError, RunError
from qrcore.memory import PassMemory
from tests.pipelines.test_rows import with_bytes_as_text
from tests.services import SECRET
from tests.shards import HEADS, MODEL, candidates, row, write_shard

pytestmark = pytest.mark.usefixtures("local_ray")


class Recorder:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.done_before = -1
        self.footers: list[dict[str, Any]] = []

    def stage(self, message: str) -> None: ...

    def planned(self, plan: Plan, done: frozenset[str]) -> None:
        self.plan, self.done_before = plan, len(done)

    def unit_done(self, footer: dict[str, Any]) -> None:
        self.footers.append(footer)


def settings_for(inputs: str, output: str, **changes: Any) -> RerankSettings:
    base = {
        "input": {"uris": [inputs]},
        "output": {"uri": output},
        "model": {"id": MODEL, "heads": HEADS},
        "units": {"max_rows": 2},
        "actors": {"count": 1},
    }
    return pipeline_settings(validate(RerankConfig, merge(base, changes)))


def finish(settings: RerankSettings) -> tuple[RunResult, Recorder]:
    recorder = Recorder()
    return run(settings, recorder), recorder


def rows_of(result: RunResult) -> list[dict[str, Any]]:
    return list(manifest_rows(result.run_uri))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(3):
        write_shard(folder / f"part-{shard}.parquet", [row(f"q{shard}{i}") for i in range(4)])
    return str(folder)


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
    report = json.loads(_side_file(result, "report.json"))
    assert report["result"]["rows"] == report["result"]["scored"] == report["asked"]["rows"] == 12
    assert report["throughput"]["prompt_tokens"] == sum(r["prompt_tokens"] for r in rows_of(result))
    assert sum(map(sum, report["movement"]["counts"])) == 12 * 4
    assert sum(report["distributions"]["candidates"]["counts"]) == 12
    scorer = load_scorer(MODEL, heads=HEADS, device="cpu")
    weights = PassMemory.of(scorer.model.source.config, scorer.heads.head_list).weights
    (actor,) = report["memory"]
    assert min(actor["predicted_bytes"], actor["measured_bytes"]) > weights and not actor["on_gpu"]
    assert "<svg" in _side_file(result, "report.html")


def _side_file(result: RunResult, name: str) -> str:
    path = next(path for path in result.manifest.side_files if path.endswith(name))
    return Path(result.run_uri, path).read_text()


def test_a_second_run_finds_the_commit_and_does_nothing(committed: tuple[RerankSettings, RunResult, Recorder]) -> None:
    settings, first, _ = committed
    again, recorder = finish(settings)
    assert again.already_committed
    assert again.manifest == first.manifest
    assert recorder.footers == []


def test_settings_that_cannot_change_the_output_do_not_change_the_run(
    committed: tuple[RerankSettings, RunResult, Recorder], shards: str
) -> None:
    settings, first, _ = committed
    same = settings_for(shards, settings.run.output, actors={"count": 3, "threads": 2}, units={"max_rows": 1})
    assert finish(same)[0].run_uri == first.run_uri


def test_missing_units_are_done_and_finished_ones_left_alone(shards: str, tmp_path: Path) -> None:
    settings = settings_for(shards, str(tmp_path))
    first, _ = finish(settings)
    before = {path.name: path.stat().st_mtime_ns for path in Path(first.run_uri, "data").iterdir()}
    Path(first.run_uri, "_manifest.json").unlink()
    lost = sorted(before)[:2]
    for name in lost:
        Path(first.run_uri, "data", name).unlink()
    second, recorder = finish(settings)
    assert not second.already_committed
    assert recorder.done_before == len(before) - 2
    assert sorted(footer["unit_id"] for footer in recorder.footers) == [name.removesuffix(".parquet") for name in lost]
    after = {path.name: path.stat().st_mtime_ns for path in Path(second.run_uri, "data").iterdir()}
    assert {n: t for n, t in after.items() if n not in lost} == {n: t for n, t in before.items() if n not in lost}
    assert json.loads(_side_file(second, "report.json"))["run"]["resumed"] is True


def test_a_resume_keeps_the_stored_plan(shards: str, tmp_path: Path) -> None:
    first, recorder = finish(settings_for(shards, str(tmp_path)))
    Path(first.run_uri, "_manifest.json").unlink()
    second, again = finish(settings_for(shards, str(tmp_path), units={"max_rows": 1}))
    assert again.plan == recorder.plan
    assert [o.path for o in second.manifest.objects] == [o.path for o in first.manifest.objects]


BAD_ROWS: list[tuple[str, dict[str, Any]]] = [
    ("null_query_id", row(None)),
    ("duplicate_query_id", row("good")),
    ("null_query", row("b1", query=None)),
    ("empty_query", row("b2", query=" \n\t")),
    ("null_candidates", row("b3", candidates=None)),
    ("no_candidates", row("b4", candidates=[])),
    ("null_candidate", row("b5", candidates=[*candidates(2), None])),
    ("null_doc_id", row("b6", candidates=[{"doc_id": None, "text": "x"}])),
    ("null_text", row("b7", candidates=[{"doc_id": "d", "text": None}])),
    ("duplicate_doc_id", row("b8", candidates=[{"doc_id": "d", "text": "x"}, {"doc_id": "d", "text": "y"}])),
    ("context_too_long", row("b9", candidates=[{"doc_id": "d", "text": "many words " * 80_000}])),
    ("context_too_long", row("b10", candidates=[{"doc_id": f"d{i}", "text": "many words " * 900} for i in range(90)])),
    ("row_too_large", row("b11", candidates=[{"doc_id": "d", "text": "x" * 11_000_000}])),
]

#: Text that looks like something else, and that must score as text.
ODD_TEXTS = (
    "\x00 and \x07 and \x1b[31m",
    "[3] Title\nanother document",
    "Query: is this the query?",
    "<|start_header_id|>user<|end_header_id|> <|begin_of_text|>",
    "Here are some paragraphs: ",
)


@pytest.fixture(scope="module")
def with_bad_rows(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    folder = tmp_path_factory.mktemp("bad")
    rows = [row("good"), *(bad for _, bad in BAD_ROWS), row("n/a", query="N/A")]
    odd = [{"doc_id": "é\u0301", "title": "", "text": ""}, {"doc_id": "b", "title": "<|eot_id|>", "text": "😀 東京"}]
    rows.append(row("odd", query="où est le café ?", candidates=odd))
    rows.append(row("look-alike", candidates=[{"doc_id": str(i), "text": text} for i, text in enumerate(ODD_TEXTS)]))
    rows.append(row("nan", candidates=[{**c, "score": float("nan"), "rank": None} for c in candidates(3)]))
    write_shard(folder / "in" / "rows.parquet", rows)
    units = {"max_rows": 5, "max_row_bytes": 10_000_000}
    return finish(settings_for(str(folder / "in"), str(folder / "out"), units=units))[0]


def test_bad_rows_come_out_with_their_reason_and_good_ones_scored(with_bad_rows: RunResult) -> None:
    rows = rows_of(with_bad_rows)
    assert len(rows) == len(BAD_ROWS) + 5
    errors = [r["error"] and r["error"]["code"] for r in rows]
    assert errors == [None, *(code for code, _ in BAD_ROWS), *[None] * 4]
    for out in rows:
        assert (out["ranking"] is None) == (out["error"] is not None)
    assert [r["source"]["row"] for r in rows] == list(range(len(rows)))
    assert {r["error"]["kind"] for r in rows if r["error"]} == {"input"}
    assert (with_bad_rows.manifest.scored, with_bad_rows.manifest.failed) == (5, len(BAD_ROWS))


def test_odd_texts_keep_every_candidate(with_bad_rows: RunResult) -> None:
    odd, alike, nan = rows_of(with_bad_rows)[-3:]
    assert sorted(item["doc_id"] for item in odd["ranking"]) == ["b", "é\u0301"]
    assert sorted(item["doc_id"] for item in alike["ranking"]) == ["0", "1", "2", "3", "4"]
    assert sorted(item["doc_id"] for item in nan["ranking"]) == ["d0", "d1", "d2"]


def test_text_that_looks_like_the_prompt_scores_as_the_scorer_alone_scores_it(with_bad_rows: RunResult) -> None:
    alike = rows_of(with_bad_rows)[-2]
    documents = [Document(str(place), text) for place, text in enumerate(ODD_TEXTS)]
    expected = load_scorer(MODEL, heads=HEADS, order="reversed").rank(row("look-alike")["query"], documents)
    assert [item["doc_id"] for item in alike["ranking"]] == [document.doc_id for document in expected.documents]
    for got, want in zip(alike["ranking"], expected.documents, strict=True):
        assert got["score"] == pytest.approx(want.score, abs=1e-6)


def test_an_uninformative_query_is_flagged_and_left_in_input_order(with_bad_rows: RunResult) -> None:
    out = rows_of(with_bad_rows)[-4]
    assert out["flags"] == ["uninformative_query"]
    assert [item["input_rank"] for item in out["ranking"]] == [1, 2, 3, 4]


def test_failed_rows_are_listed_beside_the_data(with_bad_rows: RunResult) -> None:
    lines = [json.loads(line) for line in _side_file(with_bad_rows, "errors.jsonl").splitlines()]
    assert [line["error"]["code"] for line in lines] == [code for code, _ in BAD_ROWS]
    report = json.loads(_side_file(with_bad_rows, "report.json"))
    assert {group["code"]: group["count"] for group in report["errors"]} == Counter(code for code, _ in BAD_ROWS)


def test_columns_are_carried_with_one_schema_over_all_files(tmp_path: Path) -> None:
    lang = INPUT_SCHEMA.append(pa.field("lang", pa.string())).append(pa.field("meta", pa.struct([("n", pa.int64())])))
    write_shard(
        tmp_path / "in" / "1.parquet", [row("a", lang="de", meta={"n": 7}), row("b", query=None, lang="fr")], lang
    )
    write_shard(tmp_path / "in" / "2.parquet", [row("c")])
    result, _ = finish(settings_for(str(tmp_path / "in"), str(tmp_path / "out")))
    assert [(r["lang"], r["meta"]) for r in rows_of(result)] == [("de", {"n": 7}), ("fr", None), (None, None)]
    none, _ = finish(settings_for(str(tmp_path / "in"), str(tmp_path / "out"), input={"carry": "none"}))
    assert "lang" not in rows_of(none)[0]
    assert none.run_uri != result.run_uri


def test_types_that_mean_the_same_are_read_alike(tmp_path: Path) -> None:
    struct = pa.struct(
        [("doc_id", pa.large_string()), ("text", pa.large_string()), ("score", pa.float32()), ("rank", pa.int64())]
    )
    schema = pa.schema([("query_id", pa.large_string()), ("query", pa.string()), ("candidates", pa.large_list(struct))])
    plain = [{k: v for k, v in c.items() if k != "title"} for c in candidates(3)]
    write_shard(tmp_path / "in" / "1.parquet", [row("a", candidates=plain)], schema)
    result, _ = finish(settings_for(str(tmp_path / "in"), str(tmp_path / "out")))
    assert len(rows_of(result)[0]["ranking"]) == 3


def test_ranks_of_the_input_decide_its_order(tmp_path: Path) -> None:
    listed = candidates(3)
    shuffled = [{**listed[2], "rank": 30}, {**listed[0], "rank": 10}, {**listed[1], "rank": 20}]
    write_shard(tmp_path / "in" / "1.parquet", [row("a", query="N/A", candidates=shuffled)])
    result, _ = finish(settings_for(str(tmp_path / "in"), str(tmp_path / "out")))
    assert [(i["doc_id"], i["input_rank"]) for i in rows_of(result)[0]["ranking"]] == [
        ("d0", 10),
        ("d1", 20),
        ("d2", 30),
    ]


def test_without_a_first_stage_the_order_is_as_given(tmp_path: Path) -> None:
    bare = [{"doc_id": c["doc_id"], "text": c["text"]} for c in candidates(3)]
    write_shard(tmp_path / "in" / "1.parquet", [row("a", candidates=bare)])
    result, recorder = finish(settings_for(str(tmp_path / "in"), str(tmp_path / "out")))
    assert recorder.plan is not None
    assert recorder.plan.order == "as_given"
    assert json.loads(_side_file(result, "report.json"))["movement"] is None


def test_labels_give_a_quality_table(tmp_path: Path) -> None:
    write_shard(tmp_path / "in" / "1.parquet", [row("a"), row("b")])
    labels = [{"query_id": q, "doc_id": "d0", "relevance": 1} for q in ("a", "b")]
    write_shard(tmp_path / "qrels.parquet", labels, QRELS_SCHEMA)
    settings = settings_for(str(tmp_path / "in"), str(tmp_path / "out"), qrels=str(tmp_path / "qrels.parquet"))
    report = json.loads(_side_file(finish(settings)[0], "report.json"))
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
        content = _side_file(result, name)
        assert not any(text in content for text in texts)


def test_bad_files_are_refused_or_skipped(tmp_path: Path) -> None:
    write_shard(tmp_path / "in" / "1.parquet", [row("a")])
    (tmp_path / "in" / "2.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match=r"2\.parquet: not readable as Parquet"):
        finish(settings_for(str(tmp_path / "in"), str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()
    skipping = settings_for(str(tmp_path / "in"), str(tmp_path / "out"), input={"on_bad_file": "skip"})
    result, _ = finish(skipping)
    assert [Path(s.uri).name for s in result.manifest.skipped_files] == ["2.parquet"]
    assert result.manifest.rows == 1


def test_a_changed_input_is_another_run(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "in" / "1.parquet", [row("a")])
    first, _ = finish(settings_for(str(tmp_path / "in"), str(tmp_path / "out")))
    write_shard(path, [row("a"), row("b")])
    second, _ = finish(settings_for(str(tmp_path / "in"), str(tmp_path / "out")))
    assert first.run_uri != second.run_uri
    assert len(rows_of(first)) == 1


def test_an_input_without_rows_commits_an_empty_run(tmp_path: Path) -> None:
    write_shard(tmp_path / "in" / "1.parquet", [])
    result, _ = finish(settings_for(str(tmp_path / "in"), str(tmp_path / "out")))
    assert result.manifest.rows == 0
    assert rows_of(result) == []


def test_a_head_set_that_does_not_fit_is_refused_before_any_work(shards: str, tmp_path: Path) -> None:
    with pytest.raises(HeadSetError, match="9-0"):
        finish(settings_for(shards, str(tmp_path / "out"), model={"heads": "9-0"}))
    assert not (tmp_path / "out").exists()


def test_a_pool_that_would_starve_reading_is_refused(shards: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Use fewer actors"):
        finish(settings_for(shards, str(tmp_path), actors={"count": 64}))
    with pytest.raises(ConfigError, match="GPUs"):
        finish(settings_for(shards, str(tmp_path), actors={"gpus": 1}))


def test_objects_that_were_touched_after_the_commit_are_not_read(shards: str, tmp_path: Path) -> None:
    result, _ = finish(settings_for(shards, str(tmp_path)))
    path = Path(result.run_uri, result.manifest.objects[0].path)
    path.write_bytes(path.read_bytes()[:-1] + b"X")
    with pytest.raises(RunError, match="not what was committed"):
        rows_of(result)


def test_an_uncommitted_run_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="expected a committed run"):
        list(manifest_rows(str(tmp_path)))


def test_a_stranger_in_the_data_folder_stops_the_commit(shards: str, tmp_path: Path) -> None:
    settings = settings_for(shards, str(tmp_path))
    result, _ = finish(settings)
    Path(result.run_uri, "_manifest.json").unlink()
    stranger = Path(result.run_uri, "data", "0000000000000000.parquet")
    stranger.write_bytes(b"x")
    with pytest.raises(RunError, match="does not know"):
        finish(settings)
    stranger.unlink()
    assert finish(settings)[0].manifest.rows == 12


def test_a_driver_that_comes_second_accepts_the_first_commit(shards: str, tmp_path: Path) -> None:
    settings = settings_for(shards, str(tmp_path))
    first, _ = finish(settings)
    storage = Storage(str(tmp_path))
    late = first.manifest.model_copy(update={"driver": "someone-else"})
    assert commit.commit(storage, str(tmp_path), first.run_uri, late) == first.manifest


def test_a_failing_store_leaves_a_run_that_resumes(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(shards, str(tmp_path))
    monkeypatch.setattr("pipelines.run.find_done", _without_the_last(commit.find_done))
    with pytest.raises(IncompleteRunError, match="same command"):
        finish(settings)
    monkeypatch.undo()
    result, recorder = finish(settings)
    assert recorder.footers == []  # every unit had been written
    assert result.manifest.rows == 12


def _without_the_last(find: Callable[..., set[str]]) -> Callable[..., set[str]]:
    return lambda *arguments: set(sorted(find(*arguments))[:-1])


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


def test_how_settings_are_spelled_does_not_make_another_run(
    committed: tuple[RerankSettings, RunResult, Recorder], shards: str
) -> None:
    settings, first, _ = committed
    spelled = {"id": f"{MODEL}/../llama/", "heads": f" {HEADS}", "dtype": "float32", "device": "cpu"}
    same = settings_for(shards, settings.run.output, model=spelled, scoring={"prompt": "qrhead-llama3"})
    assert finish(same)[0].run_uri == first.run_uri


def test_another_tokenizer_makes_another_run(shards: str, tmp_path: Path) -> None:
    shutil.copytree(MODEL, tmp_path / "model")
    settings = settings_for(shards, str(tmp_path / "out"), model={"id": str(tmp_path / "model")})
    first, _ = finish(settings)
    setup = tmp_path / "model" / "tokenizer_config.json"
    setup.write_text(setup.read_text() + "\n")
    assert finish(settings)[0].run_uri != first.run_uri


def test_a_pool_without_gpus_scores_on_the_cpu_wherever_it_runs(shards: str, tmp_path: Path) -> None:
    scorer = settings_for(shards, str(tmp_path)).scorer
    assert on_requested_device(scorer, PoolSettings()).device == "cpu"
    assert on_requested_device(scorer, PoolSettings(gpus_per_actor=0.5)).device == "cuda"
    assert on_requested_device(replace(scorer, device="cuda:1"), PoolSettings(gpus_per_actor=0.5)).device == "cuda:1"


def test_latest_is_put_right_when_a_committed_run_is_found(shards: str, tmp_path: Path) -> None:
    settings = settings_for(shards, str(tmp_path))
    finish(settings)
    latest = Path(tmp_path, "rerank.latest.json")
    before = latest.read_text()
    latest.unlink()
    assert finish(settings)[0].already_committed
    assert latest.read_text() == before


def test_text_that_is_not_utf8_and_ranks_that_are_none_fail_their_rows_only(tmp_path: Path) -> None:
    struct = pa.struct([("doc_id", pa.string()), ("text", pa.string()), ("rank", pa.int64())])
    schema = pa.schema([("query_id", pa.string()), ("query", pa.string()), ("candidates", pa.list_(struct))])
    listed = [[{"doc_id": "d", "text": "t", "rank": rank}] for rank in (1, 1, 1, 2**40)]
    rows = [row(name, candidates=entry) for name, entry in zip("abcd", listed, strict=True)]
    table = with_bytes_as_text(pa.Table.from_pylist(rows, schema=schema), "query_id", [b"a", b"\xff", b"c", b"d"])
    table = with_bytes_as_text(table, "query", [b"x", b"y", b"\xfe\xfe", b"z"])
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in" / "1.parquet")
    out = rows_of(finish(settings_for(str(tmp_path / "in"), str(tmp_path / "out")))[0])
    assert [(r["query_id"], r["error"] and r["error"]["code"], r["source"]["row"]) for r in out] == [
        ("a", None, 0),
        (None, "invalid_text", 1),
        ("c", "invalid_text", 2),
        ("d", "invalid_rank", 3),
    ]


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
