"""Select that scores its shards itself: the bundles of rerank and select one after the other, in one job."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.select import SelectConfig, pipeline_settings
from jobs.settings import merge, validate
from pipelines import select
from pipelines.actors import ScoredRankings, UnitScorer
from pipelines.bundle_files import BundleFileSettings
from pipelines.commit import manifest_rows
from pipelines.job import RunResult
from pipelines.schemas import INPUT_SCHEMA, ranking_schema
from pipelines.scorers import ScorerSettings
from pipelines.select_worker import SelectWorker
from pipelines.selecting import Bundler, BundleSettings, bundle_schema
from pipelines.units import UnitRows
from qrcore.matching import query_digest
from qrcore.records import DETECTION_QUERY
from qrcore.windows import ContextSettings
from tests.pipelines.reranking import Recorder, finish, settings_for
from tests.shards import HEADS, MODEL, candidates, row, write_shard

CONTEXTS: dict[str, Any] = {"window_tokens": 300, "survivors": 3, "max_document_tokens": 60}


def config_of(source: str, output: Path, **changes: Any) -> SelectConfig:
    base = {
        "input": {"uri": source},
        "output": {"uri": str(output)},
        "actors": {"count": 1},
        "policy": {"name": "top_k", "top": 3},
        "model": {"id": MODEL, "heads": HEADS},
        "contexts": CONTEXTS,
    }
    return validate(SelectConfig, merge(base, changes))


def selected(source: str, output: Path, **changes: Any) -> RunResult:
    return select.run(pipeline_settings(config_of(source, output, **changes)), Recorder())


def test_long_contexts_are_taken_by_default() -> None:
    contexts = validate(SelectConfig, {"input": {"uri": "a"}, "output": {"uri": "b"}}).contexts
    assert (contexts.policy, contexts.long_documents, contexts.survivors) == ("tournament", "split_and_pool", 10)


def test_a_worker_that_scores_makes_the_bundles_of_the_stored_rankings(tmp_path: Path) -> None:
    """Without Ray: the two halves of the job, as they meet in an actor."""
    rows = [row("short"), row("long", candidates=candidates(40, 7)), row("bad", candidates=[]), row("short")]
    unit = UnitRows(pa.Table.from_pylist(rows, schema=INPUT_SCHEMA), "in.parquet", 2, frozenset({5}))
    scorer = ScorerSettings(MODEL, heads=HEADS, device="cpu", order="reversed")
    contexts = ContextSettings(policy="tournament", window_tokens=300, survivors=3)
    ranked, metrics = UnitScorer(scorer, contexts, ranking_schema(())).answer(unit)
    stored = ranked.to_pylist()
    bundles = BundleSettings(policy="score_mass", mass=0.9)
    table, _ = SelectWorker(bundles, ScoredRankings(scorer, contexts), bundle_schema(())).answer(unit)
    found = table.to_pylist()
    assert [one["source"]["row"] for one in found] == [2, 3, 4, 5]
    assert [one["error"] and one["error"]["code"] for one in found] == [
        *(None, None, "no_candidates"),
        "duplicate_query_id",
    ]
    for given, one, bundle in zip(rows[:2], stored[:2], found[:2], strict=True):
        expected = Bundler(bundles).bundle(given, one["ranking"], {}, one["windows"])
        assert bundle["context"] == expected["context"] and bundle["windows"] == one["windows"]
        final = {item["doc_id"] for item in one["ranking"] if item["round"] == max(i["round"] for i in one["ranking"])}
        assert bundle["final_items"] == len(final)
        assert {segment["doc_id"] for segment in bundle["segments"]} <= final
    assert found[0]["windows"] == 1 < found[1]["windows"] and metrics.scored == 2


def test_contexts_that_hold_little_or_nothing_give_what_there_is_and_say_so() -> None:
    """Without Ray, scored and selected from: no piece, one, white space alone, and nothing that the budget holds."""
    texts = {"none": [], "one": ["The river floods."], "blank": [" ", "\n\t", ""], "some": ["", "Salt is sold.", "  "]}
    rows = [
        row(name, candidates=[{"doc_id": f"d{place}", "text": text} for place, text in enumerate(several)])
        for name, several in texts.items()
    ]
    unit = UnitRows(pa.Table.from_pylist(rows, schema=INPUT_SCHEMA), "in.parquet", 0, frozenset())
    rankings = ScoredRankings(ScorerSettings(MODEL, heads=HEADS, device="cpu"), ContextSettings(policy="tournament"))
    found: dict[int, list[Any]] = {}
    for budget in (100, 2):
        bundles = BundleSettings(policy="token_budget", budget_tokens=budget)
        table, metrics = SelectWorker(bundles, rankings, bundle_schema(())).answer(unit)
        assert (metrics.scored, metrics.failed) == (3, 1)
        found[budget] = table.to_pylist()
    none, one, blank, some = found[100]
    assert none["error"]["code"] == "no_candidates" and none["segments"] is None
    assert [segment["text"] for segment in one["segments"]] == ["The river floods."] and one["flags"] == []
    assert (blank["segments"], blank["context"], blank["flags"]) == ([], "", ["no_text"])
    assert [segment["doc_id"] for segment in some["segments"]] == ["d1"]
    assert some["flags"] == ["blank_pieces_left_out"]
    assert [bundle["flags"] for bundle in found[2][1:]] == [
        ["budget_below_every_piece"],
        ["no_text"],
        ["budget_below_every_piece", "blank_pieces_left_out"],
    ]
    assert [bundle["context_tokens"] for bundle in found[2][1:]] == [0, 0, 0]


def test_bundles_of_queries_that_the_heads_were_found_on_are_marked() -> None:
    rows = [row("seen"), row("new")]
    unit = UnitRows(pa.Table.from_pylist(rows, schema=INPUT_SCHEMA), "in.parquet", 0, frozenset())
    scorer = ScorerSettings(MODEL, heads=HEADS, device="cpu", order="reversed")
    known = frozenset({query_digest("seen", rows[0]["query"])})
    rankings = ScoredRankings(scorer, ContextSettings(policy="tournament"), known)
    table, _ = SelectWorker(BundleSettings(policy="top_k", top=2), rankings, bundle_schema(())).answer(unit)
    assert [DETECTION_QUERY in bundle["flags"] for bundle in table.to_pylist()] == [True, False]


@pytest.mark.usefixtures("local_ray")
def test_one_job_makes_the_bundles_of_two(tmp_path: Path) -> None:
    book = {"doc_id": "book", "title": "A book", "text": " ".join(c["text"] for c in candidates(30, 3)), "rank": 41}
    rows = [
        {**row("short"), "answers": ["a"]},
        {**row("long", candidates=[*candidates(40, 7), {**book, "score": None}]), "answers": ["b"]},
        {**row("bad", candidates=[]), "answers": None},
        {**row("wide", candidates=[{"doc_id": "x", "text": "a"}]), "query": "river " * 400, "answers": None},
    ]
    shard = write_shard(
        tmp_path / "in" / "1.parquet", rows, INPUT_SCHEMA.append(pa.field("answers", pa.list_(pa.string())))
    )
    contexts = {"policy": "tournament", "long_documents": "split_and_pool", **CONTEXTS}
    ranked, _ = finish(settings_for(str(shard), str(tmp_path / "ranked"), contexts=contexts))
    two = selected(ranked.run_uri, tmp_path / "two")
    one = selected(str(tmp_path / "in"), tmp_path / "one")
    assert one.manifest.job == "select" and one.manifest.provenance["contexts"]["window_tokens"] == 300
    expected, found = list(manifest_rows(two.run_uri)), list(manifest_rows(one.run_uri))
    for with_run, scored in zip(expected[:2], found[:2], strict=True):
        for bundle in (with_run, scored):
            for segment in bundle["segments"]:
                segment["score"] = pytest.approx(segment["score"], abs=1e-6)
        assert scored == with_run
    assert [bundle["windows"] > 1 for bundle in found[:2]] == [False, True]
    ranking = list(manifest_rows(ranked.run_uri))[1]["ranking"]
    last = max(item["round"] for item in ranking)
    assert last > 1 and found[1]["final_items"] == sum(item["round"] == last for item in ranking)
    assert sum(item["doc_id"] == "book" for item in ranking) == 1
    assert [bundle["error"] and bundle["error"]["code"] for bundle in found] == [
        *(None, None, "no_candidates"),
        "context_too_long",
    ]
    assert expected[3]["error"]["code"] == "not_ranked"
    assert selected(str(tmp_path / "in"), tmp_path / "one").already_committed


def test_scoring_decides_nothing_where_rankings_are_there(tmp_path: Path) -> None:
    ranked, told = select.RankedRun("r", "r-1", "sha", (), ()), BundleFileSettings(datetime.now(UTC))
    identities = [
        select.SelectJob(pipeline_settings(config_of("r", tmp_path, **changes)), ranked, told).identity(
            select.SelectFacts("tokenizer")
        )
        for changes in (
            {},
            {"contexts": {"survivors": 9}, "model": {"heads": "1-1"}, "engine": {"pack_tokens": 0}},
            {"policy": {"top": 4}},
        )
    ]
    assert identities[0] == identities[1] != identities[2]
