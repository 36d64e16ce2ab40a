"""Contexts longer than a prompt on a real local Ray: rounds in the rows, numbers in the plan, a report that tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.commit import manifest_rows
from pipelines.plan import load_plan
from pipelines.storage import Storage
from pipelines.verify import open_run, verify
from qrcore.contexts import ContextRanker
from qrcore.records import RankRequest
from qrcore.windows import ContextSettings
from tests.pipelines.reranking import finish, settings_for
from tests.shards import HEADS, MODEL, candidates, row, write_shard

pytestmark = pytest.mark.usefixtures("local_ray")

CONTEXTS: dict[str, Any] = {"policy": "tournament", "window_tokens": 300, "survivors": 3}


def test_a_run_in_windows_tells_rounds_and_is_that_of_the_ranker(tmp_path: Path) -> None:
    from pipelines.rows import request_from_row
    from qrcore import load_scorer

    rows = [row("short"), row("long", candidates=candidates(40, 7)), row("longer", candidates=candidates(60, 8))]
    write_shard(tmp_path / "in" / "1.parquet", rows)
    result, _ = finish(settings_for(str(tmp_path / "in"), str(tmp_path / "out"), contexts=CONTEXTS))
    found = list(manifest_rows(result.run_uri))
    assert result.manifest.failed == 0
    scorer = load_scorer(MODEL, heads=HEADS, order="reversed")
    requests = [request_from_row(one) for one in rows]
    asked = [request for request in requests if isinstance(request, RankRequest)]
    expected = list(ContextRanker(scorer, ContextSettings(**CONTEXTS)).rank_many(asked))
    for out, answer in zip(found, expected, strict=True):
        assert [(i["doc_id"], i["round"]) for i in out["ranking"]] == [(d.doc_id, d.round) for d in answer.documents]  # type: ignore[union-attr]
        assert (out["windows"], out["prompt_tokens"]) == (answer.windows, answer.prompt_tokens)  # type: ignore[union-attr]
        assert {item["cut_tokens"] for item in out["ranking"]} == {0}
    assert [out["windows"] > 1 for out in found] == [False, True, True]
    plan = load_plan(Storage(result.run_uri, None), result.run_uri)
    assert plan is not None
    planned = plan.provenance["contexts"]
    assert (planned["window_tokens"], planned["survivors"], planned["policy"]) == (300, 3, "tournament")
    assert list(verify(open_run(result.run_uri, settings_for("a", "b").run.storage), with_input=True)) == []
    (page,) = Path(result.run_uri).glob("commit/*/report.html")
    said = json.loads(page.with_name("report.json").read_text())["contexts"]
    assert said["in_rounds"] == 2 and said["windows"]["max"] == max(out["windows"] for out in found)
    last = [sum(i["round"] == max(j["round"] for j in out["ranking"]) for i in out["ranking"]) for out in found]
    assert said["final_items"]["max"] == max(last)
    assert "2 of the queries did not fit one prompt of 300 tokens" in page.read_text()


def test_without_a_policy_a_list_that_does_not_fit_is_an_error_row(tmp_path: Path) -> None:
    write_shard(tmp_path / "in" / "1.parquet", [row("long", candidates=candidates(40, 7)), row("short")])
    contexts = {"window_tokens": 300}
    result, _ = finish(settings_for(str(tmp_path / "in"), str(tmp_path / "out"), contexts=contexts))
    found = list(manifest_rows(result.run_uri))
    assert [out["error"] and out["error"]["code"] for out in found] == ["context_too_long", None]
