"""What select says of its bundles: counts, gold, reasons, and a page that needs nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest

from pipelines.commit import CommittedObject, StoredUnit
from pipelines.plan import Plan, PlannedFile, Unit, encode_schema
from pipelines.report.bundle_page import draw, render_bundles
from pipelines.report.bundles import BundleCounts, BundleReport
from pipelines.report.records import Run
from pipelines.selecting import bundle_schema
from qrcore.records import DETECTION_QUERY
from tests.pipelines.report_samples import START

PLAN = Plan(
    run_id="select-0123456789ab",
    job="select",
    name="select",
    config_hash="12",
    input_hash="34",
    config={"policy.name": "token_budget"},
    provenance={"told": "policy token_budget, at most 100 tokens", "settings": {"budget_tokens": 100}},
    order="original",
    files=(PlannedFile(uri="in.parquet", size=10, etag="e", rows=6, bytes=9, tokens=3),),
    skipped_files=(),
    units=(Unit(unit_id="u", file=0, start=0, stop=6, bytes=1, tokens=1),),
    schema_ipc=encode_schema(bundle_schema(())),
)
RUN = Run(
    run_id=PLAN.run_id,
    job="select",
    name="select",
    status="committed",
    started_at=START,
    finished_at=START + timedelta(seconds=5),
    seconds=5.0,
    output="s3://runs/select",
    driver="d",
    resumed=False,
)
QRELS = {
    "a": {"a0": 1, "a1": 2, "x": 0},
    "b": {"b0": 1, "b9": 1},
    "c": {"c7": 1},
    "bad": {"z": 1},
    "nothing": {"n": 0},
}


def bundle(query_id: str, kept: Sequence[str], context: int, source: int, *flags: str, **more: int) -> dict[str, Any]:
    segments = [{"doc_id": name, "doc_ids": [name], "text": "t"} for name in kept]
    tokens = {"context_tokens": context, "source_tokens": source, "windows": 1, "final_items": 4, **more}
    place = {"source": {"uri": "in.parquet", "row": 0}}
    return {"query_id": query_id, "segments": segments, "flags": list(flags), **tokens, **place}


ROWS = [
    bundle("a", ["a0", "a1"], 90, 400),
    bundle("b", ["b0", "b1"], 50, 500, windows=9, final_items=12),
    bundle("c", [], 0, 300, "budget_below_every_piece"),
    bundle("d", [], 0, 0, "no_text"),
    bundle("e", ["e0"], 60, 100, "blank_pieces_left_out"),
    {
        "query_id": "bad",
        "source": {"uri": "in.parquet", "row": 5},
        "error": {"code": "no_candidates", "kind": "input", "message": "<b>none</b>", "stage": "validate"},
    },
]


def report_of(rows: Sequence[dict[str, Any]], qrels: Any = None, gold_missing: Any = None) -> BundleReport:
    counts = BundleCounts(PLAN, "qrels.tsv" if qrels is not None else None, qrels)
    entry = CommittedObject(path="p", unit_id="u", size=1, sha256="s", rows=6, scored=5, failed=1)
    for half in (rows[:3], rows[3:]):
        counts.add(StoredUnit(PLAN.units[0], entry, {}, pa.Table.from_pylist(list(half), schema=bundle_schema(()))))
    return counts.finish(RUN, gold_missing)


def test_counts_of_tokens_rows_and_reasons() -> None:
    report = report_of(ROWS)
    result, tokens = report.result, report.tokens
    assert (result.rows, result.scored, result.failed, result.empty) == (6, 5, 1, 2)
    assert result.empty_by_reason == {"budget_below_every_piece": 1, "no_text": 1}
    assert result.flags["blank_pieces_left_out"] == 1
    assert (tokens.source, tokens.context) == (1300, 200)
    assert tokens.compression_ratio == pytest.approx(200 / 1300)
    assert tokens.budget_use.max == pytest.approx(0.9)
    assert tokens.ratio.max == pytest.approx(0.6) and sum(tokens.ratio.counts) == 4  # one row had no token at all
    assert (report.rounds.in_rounds, report.rounds.final_items.max) == (1, 12)
    assert [(group.code, group.count) for group in report.errors] == [("no_candidates", 1)]
    assert report.gold is None


def test_gold_counts_judged_queries_with_a_bundle_and_names_the_missing() -> None:
    gold = report_of(ROWS, QRELS).gold
    assert gold is not None
    assert (gold.judged_queries, gold.missing_queries) == (3, 1)
    assert gold.recall == pytest.approx((1 + 0.5 + 0) / 3)
    assert (gold.all_gold, gold.some_gold, gold.no_gold) == (1, 1, 1)
    assert gold.low is not None and gold.high is not None and gold.low <= gold.recall <= gold.high  # type: ignore[operator]
    assert gold.per_1k_tokens == pytest.approx(1000 * 3 / 140)


def test_gold_that_is_no_candidate_is_counted() -> None:
    report = report_of(ROWS, QRELS, {"a": 1, "c": 1, "bad": 1})
    gold = report.gold
    assert gold is not None
    # What failed is not among the judged queries, and its gold is not either.
    assert (gold.gold, gold.gold_missing, gold.queries_without_their_gold) == (5, 2, 1)
    said = (
        "2 of the 5 relevant documents are not among the candidates, so that no bundle could hold them (all of theirs"
    )
    assert f"{said} in 1 of the queries)." in render_bundles(report)
    assert "among the candidates" not in render_bundles(report_of(ROWS, QRELS, {"bad": 1}))


def test_gold_of_queries_that_the_heads_were_found_on_counts_for_nothing() -> None:
    rows = [{**one, "flags": [*one["flags"], DETECTION_QUERY]} if one["query_id"] == "a" else one for one in ROWS]
    report = report_of(rows, QRELS)
    gold = report.gold
    assert gold is not None
    assert (gold.judged_queries, gold.missing_queries, gold.detection_queries) == (2, 1, 1)
    assert gold.recall == pytest.approx(0.25) and gold.per_1k_tokens == pytest.approx(1000 * 1 / 50)
    page = render_bundles(report)
    assert "1 more are such that these heads were found on" in page and "The heads were found on this query" in page


def test_the_page_stands_alone_and_says_it_all() -> None:
    report = report_of(ROWS, QRELS)
    page = render_bundles(report)
    charts = {name: chart for name, chart in draw(report).items() if chart}
    assert set(charts) >= {"in_and_out", "ratio", "budget_use", "segments", "windows", "final_items", "gold"}
    assert (
        page.count("<svg")
        == len(charts)
        == len(re.findall(r'<svg class="chart" role="img" aria-label="[^"]{20,}"', page))
    )
    assert "prefers-color-scheme: dark" in page and "<script" not in page and not re.search(r'(?:src|href)="http', page)
    for said in ("15.4 %", "budget_below_every_piece", "No wanted piece fits", "0.500", "1 of 5 rankings took more"):
        assert said in page, said
    assert "&lt;b&gt;none" in page and "<b>none" not in page


def test_tiny_shares_are_not_zero_and_few_numbers_have_a_bar_each() -> None:
    rows = [bundle("a", ["x"], 90, 10**6), bundle("b", ["x", "y"], 90, 10**6), bundle("c", ["x", "y"], 90, 10**6)]
    page = render_bundles(report_of(rows))
    assert "0.009 %" in page and ">0.0 %" not in page
    segments = draw(report_of(rows))["segments"]
    assert segments is not None
    assert "<title>1: 1 bundles</title>" in segments and "<title>2: 2 bundles</title>" in segments
    assert re.findall(r'class="tick[^>]*>([^<]+)<', segments)[-2:] == ["1", "2"]
    assert "from 1 to 2; median 2" in segments


@pytest.mark.parametrize("rows", [ROWS[5:], ROWS[3:4], ROWS[:1], []])
def test_any_run_has_a_page(rows: list[dict[str, Any]]) -> None:
    page = render_bundles(report_of(rows, QRELS if rows else {}))
    assert ("No bundle was made" in page) == (not any("error" not in row for row in rows))
