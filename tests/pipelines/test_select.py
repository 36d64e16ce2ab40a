"""Selecting on a real local Ray, from a real re-ranking run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.select import SelectConfig, pipeline_settings
from jobs.settings import merge, validate
from pipelines import select
from pipelines.commit import manifest_rows
from pipelines.job import RunResult
from pipelines.schemas import INPUT_SCHEMA
from pipelines.side_files import read_side_file
from pipelines.storage import StorageOptions
from qrcore.errors import ConfigError, IncompleteRunError, InputError
from tests.pipelines.reranking import Recorder, finish, settings_for
from tests.shards import row, write_shard

pytestmark = pytest.mark.usefixtures("local_ray")


def selected(run: RunResult | str, output: Path, **changes: Any) -> RunResult:
    uri = run if isinstance(run, str) else run.run_uri
    base = {"input": {"uri": uri}, "output": {"uri": str(output)}, "actors": {"count": 1}, "policy": {"name": "top_k"}}
    return select.run(pipeline_settings(validate(SelectConfig, merge(base, changes))), Recorder())


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    folder = tmp_path_factory.mktemp("select")
    schema = INPUT_SCHEMA.append(pa.field("answers", pa.list_(pa.string())))
    for shard in range(2):
        rows = [{**row(f"q{shard}{n}"), "answers": [f"a{n}"]} for n in range(3)]
        rows += [{**row("bad"), "candidates": []}] if shard else []
        write_shard(folder / "in" / f"{shard}.parquet", rows, schema)
    return finish(settings_for(str(folder / "in"), str(folder / "ranked")))[0]


def test_bundles_come_of_a_ranking_and_its_texts(ranked: RunResult, tmp_path: Path) -> None:
    result = selected(
        ranked, tmp_path, policy={"top": 2}, units={"max_rows": 2}, render={"assistant": "{{ answers[0] }}"}
    )
    bundles, rankings = list(manifest_rows(result.run_uri)), list(manifest_rows(ranked.run_uri))
    assert [one["query_id"] for one in bundles] == [one["query_id"] for one in rankings]
    for bundle, ranking in zip(bundles[:6], rankings, strict=False):
        best = {entry["doc_id"]: entry for entry in ranking["ranking"] if entry["rank"] <= 2}
        texts = {c["doc_id"]: c["text"] for c in row(bundle["query_id"])["candidates"]}
        assert {segment["doc_id"] for segment in bundle["segments"]} == best.keys()
        assert [segment["position"] for segment in bundle["segments"]] == sorted(
            s["position"] for s in bundle["segments"]
        )
        for segment in bundle["segments"]:
            assert segment["text"] == texts[segment["doc_id"]]
            assert (segment["rank"], segment["score"]) == (
                best[segment["doc_id"]]["rank"],
                pytest.approx(best[segment["doc_id"]]["score"]),
            )
        assert bundle["answers"] == [f"a{bundle['query_id'][-1]}"]
        assert bundle["source"] == ranking["source"]
    assert (bundles[6]["error"]["code"], bundles[6]["segments"]) == ("no_candidates", None)
    (chat,) = Path(result.run_uri).glob("commit/*/chat.jsonl")
    lines = [json.loads(line) for line in chat.read_text().splitlines()]
    assert len(lines) == 6
    assert [message["role"] for message in lines[0]["messages"]] == ["user", "assistant"]
    assert lines[0]["messages"][1]["content"] == "a0"
    assert len(lines[0]["provenance"]["doc_ids"]) == 2 and 0 < lines[0]["compression_ratio"] < 1
    said = read_side_file(result.run_uri, result.manifest.side_files, "report.json", StorageOptions())
    assert (said["result"]["scored"], said["result"]["empty"], said["result"]["failed"]) == (6, 0, 1)
    assert [(group["code"], group["count"]) for group in said["errors"]] == [("no_candidates", 1)]
    assert selected(
        ranked, tmp_path, policy={"top": 2}, units={"max_rows": 2}, render={"assistant": "{{ answers[0] }}"}
    ).already_committed


def test_gold_that_is_not_in_the_context_is_counted(ranked: RunResult, tmp_path: Path) -> None:
    known = [candidate["doc_id"] for candidate in row("q00")["candidates"]]
    judged = [f"q00 0 {known[0]} 1", "q00 0 gone 1", "q01 0 gone 2", f"q02 0 {known[1]} 1", "bad 0 gone 1"]
    (tmp_path / "qrels.txt").write_text("\n".join(judged))
    result = selected(ranked, tmp_path / "out", qrels=str(tmp_path / "qrels.txt"), policy={"top": 99})
    said = read_side_file(result.run_uri, result.manifest.side_files, "report.json", StorageOptions())["gold"]
    assert (said["judged_queries"], said["missing_queries"]) == (3, 1)
    assert (said["gold"], said["gold_missing"], said["queries_without_their_gold"]) == (4, 2, 1)
    assert said["recall"] == pytest.approx((0.5 + 0 + 1) / 3)


def test_a_template_that_fails_for_a_row_is_that_rows_error(ranked: RunResult, tmp_path: Path) -> None:
    result = selected(ranked, tmp_path, render={"user": "fine\n{{ 1 // (query_id == 'q01') }}"})
    codes = {one["query_id"]: one["error"] and one["error"]["code"] for one in manifest_rows(result.run_uri)}
    assert codes == {**dict.fromkeys(codes, "template_error"), "q01": None, "bad": "no_candidates"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": {"name": "token_budget"}}, "needs a budget, got none"),
        ({"policy": {"min_score": 0.1}}, "no absolute minimum means the same"),
        ({"tokenizer": {"id": "./nowhere"}}, "tokenizer './nowhere'"),
        ({"render": {"user": "a\n{{ }}"}}, r"render\.user, line 2"),
        ({"render": {"user": "@gone.j2"}}, "expected a readable file 'gone.j2'"),
    ],
)
def test_what_cannot_work_is_said_before_any_work(
    ranked: RunResult, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        selected(ranked, tmp_path, **changes)
    assert not list(tmp_path.iterdir())


def test_what_is_neither_ranked_nor_shards_is_refused(ranked: RunResult, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a Parquet file or a folder of them, found none"):
        selected(str(tmp_path), tmp_path / "out")
    bundles = selected(ranked, tmp_path / "bundles")
    with pytest.raises(InputError, match="or shards to score, found one of select"):
        selected(bundles, tmp_path / "out")


def test_an_input_that_changed_since_it_was_ranked_is_noticed(tmp_path: Path) -> None:
    write_shard(tmp_path / "in" / "1.parquet", [row("a")])
    run = finish(settings_for(str(tmp_path / "in"), str(tmp_path / "ranked")))[0]
    write_shard(tmp_path / "in" / "1.parquet", [row("b", candidates=[{"doc_id": "x", "text": "y"}])])
    with pytest.raises((InputError, IncompleteRunError), match=r"1\.parquet: expected the file as"):
        selected(run, tmp_path / "out")
