"""The worker of answer as an actor makes it, and what probing tells, with a tiny model and without Ray."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.answer import pipeline_settings
from pipelines import answer
from pipelines.answers.models import probe
from pipelines.answers.rows import answer_schema
from pipelines.answers.settings import AnswerFacts, AnswerSettings, variant_names
from pipelines.schemas import INPUT_SCHEMA
from pipelines.units import UnitRows
from qrcore.errors import ConfigError
from qrcore.heads import HeadSet
from qrcore.matching import query_digest
from qrcore.prompts import LLAMA3
from qrcore.records import DETECTION_QUERY
from tests.pipelines.answers.test_cafe_run import config_of
from tests.shards import MODEL, candidates, row

CARRIED = [pa.field("answers", pa.list_(pa.string()))]
SCHEMA = pa.schema([*INPUT_SCHEMA, *CARRIED])
ROWS = [{**row(f"q{number}", candidates=candidates(7, number)), "answers": ["salt"]} for number in range(3)]
QRELS = {"q0": {"d3": 1}, "q1": {"d1": 1, "d2": 1}}
HEADS: dict[str, Any] = {"coarse_heads": "1-0,1-2", "fine_heads": "2-1"}


def settings_of(**changes: Any) -> AnswerSettings:
    settings = pipeline_settings(config_of("in", Path("out"), **changes))
    return replace(settings, answerer=replace(settings.answerer, device="cpu"))


def answered(settings: AnswerSettings) -> list[dict[str, Any]]:
    qrels = QRELS if settings.qrels else None
    names = variant_names(settings, bundles=False)
    schema = answer_schema(CARRIED, keep_documents=settings.keep_documents)
    worker = answer._worker(settings, names, answer.Given(qrels=qrels), schema)
    table, metrics = worker.answer(UnitRows(pa.Table.from_pylist(ROWS, schema=SCHEMA), "in.parquet", 0, frozenset()))
    assert (metrics.scored, metrics.failed) == (3, 0)
    return list(table.to_pylist())


def test_cafe_answers_with_its_baselines() -> None:
    out = answered(settings_of(cafe=HEADS, qrels="given"))
    for one in out:
        full, filtered, shuffled, oracle = one["baselines"]
        assert [other["name"] for other in one["baselines"]] == ["full", "filter", "random_order", "oracle"]
        assert full["documents"] == [f"d{place}" for place in range(7)] and full["steered"] == []
        assert filtered["documents"] == one["documents"] and len(one["documents"]) <= 4
        assert sorted(shuffled["documents"]) == sorted(one["documents"])
        assert len(one["steered"]) == 1 and set(one["steered"]) <= set(one["documents"])
        relevant = sorted(QRELS.get(one["query_id"], {}))
        assert oracle["documents"] == (relevant or None)
        assert (oracle["error"] is None) == bool(relevant)


def test_the_full_baseline_is_what_greedy_answers() -> None:
    by_cafe = [one["baselines"][0]["answer"] for one in answered(settings_of(cafe=HEADS, baselines=["full"]))]
    greedy = answered(settings_of(method="greedy"))
    assert [one["answer"] for one in greedy] == by_cafe
    assert all(one["baselines"] == [] and one["steered"] is None for one in greedy)


def test_shortened_lists_are_rows_of_the_input_contract() -> None:
    settings = settings_of(cafe={"coarse_heads": "1-0,1-2"}, keep_documents=True, baselines=[])
    texts = {place: one["text"] for place, one in enumerate(candidates(7, 0))}
    for one in answered(settings):
        assert [kept["doc_id"] for kept in one["candidates"]] == one["documents"]
    first = answered(settings)[0]["candidates"]
    assert [kept["text"] for kept in first] == [texts[int(kept["doc_id"][1:])] for kept in first]


def test_a_judge_is_the_same_model_or_another_one() -> None:
    for judge in (MODEL, "embedded"):
        settings = settings_of(method="greedy", judge={"model": judge, "max_new_tokens": 2})
        facts = probe(settings)
        assert facts.judge is not None
        assert (facts.judge.weights_sha256 == facts.answerer.weights_sha256) == (judge == MODEL)
        assert all(one["judged"] in (True, False, None) for one in answered(settings))


def test_what_probing_tells_decides_which_run_it_is(tmp_path: Path) -> None:
    def identity(**changes: Any) -> dict[str, Any]:
        settings = settings_of(**changes)
        names = variant_names(settings, bundles=False)
        return answer.AnswerJob(settings, names, answer.Given(), datetime.now(UTC)).identity(probe(settings))

    first = identity(cafe=HEADS)
    file = tmp_path / "heads.json"
    file.write_text(HeadSet(name="custom", heads=("1-0", "1-2")).model_dump_json())
    assert identity(cafe={**HEADS, "coarse_heads": str(file)}) == first
    assert identity(cafe={**HEADS, "coarse_heads": "1-2,1-0"}) != first
    assert identity(cafe={**HEADS, "delta": 1.0}) != first
    assert identity(cafe=HEADS, baselines=["full"]) != first
    assert identity(cafe=HEADS, baselines=["full", "filter", "random_order"]) == first


def test_probing_tells_what_is_not_right_of_head_sets(tmp_path: Path) -> None:
    seen = query_digest("q1", ROWS[1]["query"])
    found = HeadSet(name="mine", heads=("1-0",), method="share", query_span="official", prompt=LLAMA3)
    file = tmp_path / "heads.json"
    file.write_text(found.model_copy(update={"detection_queries": (seen,)}).model_dump_json())
    settings = settings_of(cafe={**HEADS, "fine_heads": str(file)})
    facts: AnswerFacts = probe(settings)
    told = " ".join(facts.warnings)
    assert "found on the rows of the span 'official'" in told and "records neither revision nor weights" in told
    assert "custom" not in told, "typed by hand: nothing to compare"
    assert facts.reader is not None and facts.reader.detection_queries == {seen}
    assert [DETECTION_QUERY in one["flags"] for one in answered(settings)] == [False, True, False]
    other = tmp_path / "other.json"
    other.write_text(HeadSet(name="mine", heads=("1-0",), weights_sha256="0" * 64).model_dump_json())
    with pytest.raises(ConfigError, match="found for another model"):
        probe(settings_of(cafe={**HEADS, "fine_heads": str(other)}))
    assert (
        "used all the same"
        in probe(settings_of(cafe={**HEADS, "fine_heads": str(other), "on_mismatch": "warn"})).warnings[0]
    )
