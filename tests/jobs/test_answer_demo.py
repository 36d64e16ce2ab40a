"""The demonstration of answer: facts that can be found, and the settings that it answers them with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs import answer_demo as module
from jobs.answer import pipeline_settings
from jobs.answer_config import AnswerConfig
from pipelines.answers.settings import variant_names
from pipelines.schemas import check_input_schema
from tests.pipelines.reranking import Recorder


def test_the_demo_hides_facts_and_answers_them_by_cafe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[AnswerConfig] = []
    monkeypatch.setattr(module, "answer", lambda config, observer: asked.append(config))
    given: dict[str, Any] = {"output": {"uri": str(tmp_path)}, "cafe": {"fine_top": 2}}
    _, config = module.answer_demo(given, Recorder())
    assert asked == [config]
    table = pq.read_table(f"{config.input.uri}/questions.parquet")
    assert not check_input_schema(table.schema)
    lines = [json.loads(line) for line in Path(str(config.answers)).read_text().splitlines()]
    gold = {one["query_id"]: one["answers"] for one in lines}
    judged = {one["query_id"]: one["doc_id"] for one in pq.read_table(str(config.qrels)).to_pylist()}
    rows = table.to_pylist()
    assert len(rows) == 15 and len({row["query"] for row in rows}) == 3
    for row in rows:
        (fact,) = gold[row["query_id"]]
        holding = [entry["doc_id"] for entry in row["candidates"] if fact in entry["text"]]
        assert holding == [judged[row["query_id"]]] and len(row["candidates"]) >= 8
    assert (config.cafe.fine_top, config.cafe.coarse_top) == (2, 2), "what is given wins"
    names = variant_names(pipeline_settings(config), bundles=False)
    assert names == ("cafe", "full", "filter", "random_order", "oracle")
    before = Path(str(config.answers)).stat().st_mtime_ns
    module.answer_demo(given, Recorder())
    assert Path(str(config.answers)).stat().st_mtime_ns == before, "the same questions are not written again"
