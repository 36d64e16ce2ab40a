"""From units to the report: who is measured, which order the first stage had, and how long the run worked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from pipelines.commit import CommittedObject, StoredUnit
from pipelines.labels import Qrels
from pipelines.plan import Plan, Unit, encode_schema
from pipelines.report.build import ReportBuilder, RunFacts
from pipelines.report.costs import cost_of
from pipelines.report.distributions import distribution
from pipelines.report.html import render_report
from pipelines.report.model import RunReport, RunSeconds
from pipelines.schemas import ranking_schema
from tests.pipelines.report_samples import START, plain


def plan_of(order: str) -> Plan:
    provenance = plain()["provenance"]
    facts = {key: provenance[key] for key in ("code_version", "source_sha256", "model", "head_set", "prompt")}
    return Plan(
        run_id="rerank-0123456789ab",
        job="rerank",
        name="rerank",
        config_hash="12",
        input_hash="34",
        config={},
        provenance={
            **facts,
            "packages": {"python": "3.11.9"},
            "max_tokens": 100,
            "settings": {},
            "dtype": "float32",
            "device": "cpu",
        },
        order=order,
        files=(),
        skipped_files=(),
        units=(),
        schema_ipc=encode_schema(ranking_schema(())),
    )


def scored(query_id: str, *places: tuple[str, int, float | None]) -> dict[str, Any]:
    """A row whose new order is that of ``places``: (doc_id, input_rank, input_score)."""
    ranking: list[dict[str, Any]] = [
        {
            "doc_id": doc_id,
            "rank": rank,
            "score": 1.0 / rank,
            "input_rank": input_rank,
            "input_score": input_score,
            "round": 1,
        }
        for rank, (doc_id, input_rank, input_score) in enumerate(places, start=1)
    ]
    return _row(query_id, ranking=ranking, prompt_tokens=10)


def failed(query_id: str) -> dict[str, Any]:
    error = {"code": "no_candidates", "kind": "input", "stage": "check", "message": "none"}
    return _row(query_id, error=error)


def _row(query_id: str, **more: Any) -> dict[str, Any]:
    return {"query_id": query_id, "source": {"uri": "in", "row": 0}, **more}


def unit(rows: Sequence[Mapping[str, Any]], start_s: float = 0, stop_s: float = 1) -> StoredUnit:
    bad = sum(row.get("error") is not None for row in rows)
    footer = {
        "unit_id": f"u{start_s}", "rows": len(rows), "scored": len(rows) - bad, "failed": bad, "uninformative": 0,
        "prompt_tokens": 30, "read_s": 0.1, "score_s": 0.5, "actor_pid": 1, "node": "n",
        "started_at": (START + timedelta(seconds=start_s)).isoformat(),
        "finished_at": (START + timedelta(seconds=stop_s)).isoformat(),
    }  # fmt: skip
    entry = CommittedObject(
        path="data/u", unit_id="u", size=1, sha256="", rows=len(rows), scored=len(rows) - bad, failed=bad
    )
    planned = Unit(unit_id="u", file=0, start=0, stop=len(rows), bytes=1, tokens=1)
    return StoredUnit(planned, entry, footer, pa.Table.from_pylist(list(rows), schema=ranking_schema(())))


def report_of(*units: StoredUnit, qrels: Qrels | None = None, order: str = "as_given") -> RunReport:
    builder = ReportBuilder(plan_of(order), qrels)
    for stored in units:
        builder.add(stored)
    now = datetime.now(UTC)
    facts = RunFacts("d", "out", now, now, resumed=False, write_seconds={}, qrels_uri="qrels" if qrels else None)
    return builder.finish(facts, lambda rows: dict.fromkeys(rows, "why"))


def test_judged_queries_without_a_ranking_are_counted_and_left_out() -> None:
    found = scored("a", ("right", 2, 1.0), ("wrong", 1, 2.0))
    qrels = {"a": {"right": 1}, "b": {"right": 1}, "elsewhere": {"right": 1}}
    report = report_of(unit([found, failed("b")]), qrels=qrels)
    assert report.quality is not None
    assert (report.quality.judged_queries, report.quality.missing_queries) == (1, 2)
    recall = {measure.name: measure for measure in report.quality.measures}["recall@1"]
    assert (recall.first_stage, recall.reranked, recall.difference) == (0.0, 1.0, 1.0)
    assert "1 judged queries (2 more failed or are not in the input" in render_report(report)


def test_judgements_of_other_queries_only_give_a_quality_without_measures() -> None:
    report = report_of(unit([scored("a", ("x", 1, 1.0))]), qrels={"elsewhere": {"x": 1}})
    assert report.quality is not None
    assert (report.quality.judged_queries, report.quality.missing_queries, report.quality.measures) == (0, 1, ())
    assert "0 judged queries" in render_report(report)


def test_equal_input_ranks_keep_no_trace_of_the_new_order() -> None:
    row = scored("a", ("d", 2, None), ("c", 2, None), ("b", 1, 3.0), ("e", 1, 5.0), ("f", 1, None))
    places = report_of(unit([row])).examples[0].first_stage
    assert [place.doc_id for place in places] == ["e", "b", "f", "c", "d"]


@pytest.mark.parametrize(
    ("order", "score", "known"), [("reversed", None, True), ("as_given", 0.5, True), ("as_given", None, False)]
)
def test_ranks_without_scores_are_a_first_stage_too(order: str, score: float | None, known: bool) -> None:
    row = scored("a", ("x", 2, score), ("y", 1, score))
    report = report_of(unit([row]), qrels={"a": {"x": 1}}, order=order)
    assert report.quality is not None
    assert (report.movement is not None) is known
    assert (report.quality.measures[0].first_stage is not None) is known
    assert bool(report.examples[0].first_stage) is known


def test_time_in_which_nothing_ran_is_no_working_time() -> None:
    row = [scored("a", ("x", 1, 1.0))]
    night = 8 * 3600.0
    # Two actors overlap for 3 s, a pause of 9 s counts, the night between two commands does not.
    units = [unit(row, 0, 10), unit(row, 7, 12), unit(row, 8, 9), unit(row, 21, 25), unit(row, night, night + 5)]
    throughput = report_of(*units[::-1]).throughput
    assert throughput.seconds.wall == 30
    assert throughput.tokens_per_second == 150 / 30


def test_margins_waits_and_costs_are_those_of_the_units() -> None:
    rows = [scored("a", ("x", 1, 1.0), ("y", 2, 0.5)), scored("b", ("x", 1, 1.0))]
    stored = unit(rows, 0, 3600)
    stored.footer.update(wait_s=0.25, tokenise_s=0.25, tokenise_in_score_s=0.125, memory_bytes=7, gpu_memory_bytes=9)
    builder = ReportBuilder(plan_of("as_given").model_copy(update={"config": priced(2.0, None)}), None)
    builder.add(stored)
    now = datetime.now(UTC)
    report = builder.finish(
        RunFacts("d", "out", now, now, resumed=False, write_seconds={}, qrels_uri=None),
        lambda found: dict.fromkeys(found, "why"),
    )
    assert report.distributions.margin is not None
    assert (report.distributions.margin.max, sum(report.distributions.margin.counts)) == (0.5, 1)
    assert report.throughput.seconds.wait == report.units[0].seconds.wait == 0.25
    assert report.throughput.seconds.tokenise == report.units[0].seconds.tokenise == 0.375
    assert report.throughput.seconds.tokenise_in_score == report.units[0].seconds.tokenise_in_score == 0.125
    assert report.throughput.busy == 0.5 / 3600
    assert report.distributions.unit_wait is not None
    assert report.distributions.unit_wait.max == 0.25
    assert (report.units[0].memory_bytes, report.units[0].gpu_memory_bytes) == (7, 9)
    cost = report.cost
    assert cost is not None
    assert (cost.actors, cost.cpu_hours, cost.gpu_hours, cost.total) == (1, 3.0, 1.0, 6.0)
    assert (cost.per_1000_queries, cost.per_million_tokens) == (3000.0, 200_000.0)
    page = render_report(report)
    assert "6.00 USD at 2.00 USD a CPU-hour<" in page
    assert "7 B of memory, 9 B of its GPU’s" in page


def test_memory_is_told_of_each_actor_whose_passes_were_predicted() -> None:
    row = [scored("a", ("x", 1, 1.0))]
    taken = {1: [(500, 400), (700, 600)], 2: [(700, 800)], 3: [(0, 900)]}  # the last one: a job without predictions
    units = []
    for pid, of_actor in taken.items():
        for predicted, measured in of_actor:
            stored = unit(row, len(units), len(units) + 1)
            stored.footer.update(actor_pid=pid, predicted_bytes=predicted, model_bytes=measured, on_gpu=False)
            units.append(stored)
    report = report_of(*units, unit(row))  # and a unit that was written before memory was counted
    assert [(one.actor_pid, one.predicted_bytes, one.measured_bytes) for one in report.memory] == [
        (1, 700, 600),
        (2, 700, 800),
    ]
    page = render_report(report)
    assert page.index("800 B") < page.index("600 B"), "the largest first"
    assert ">1.14<" in page and ">0.86<" in page


def test_the_clock_before_and_after_scoring_is_told_unless_other_drivers_had_a_part() -> None:
    stored = unit([scored("a", ("x", 1, 1.0))], 10, 12)
    later = unit([scored("b", ("x", 1, 1.0))], 11, 20)

    def seconds(*, resumed: bool) -> RunSeconds:
        builder = ReportBuilder(plan_of("as_given"), None)
        builder.add(later)
        builder.add(stored)
        facts = RunFacts(
            "d", "out", START, START + timedelta(seconds=23), resumed=resumed, write_seconds={}, qrels_uri=None
        )
        return builder.finish(facts, None).throughput.seconds

    assert (seconds(resumed=False).start, seconds(resumed=False).commit) == (10, 3)
    assert (seconds(resumed=True).start, seconds(resumed=True).commit) == (None, None)


def test_a_margin_is_between_scores_of_one_prompt() -> None:
    apart = scored("a", ("x", 1, 1.0), ("y", 2, 0.5))
    apart["ranking"][0]["round"] = 2
    margin = report_of(unit([apart])).distributions.margin
    assert margin is not None
    assert margin.max is None


def test_a_histogram_of_values_that_differ_by_rounding_alone_is_one_bar() -> None:
    assert distribution([0.1 + 0.2, 0.3]).counts == (2,)
    assert distribution([0.0, 0.0]).counts == (2,)
    assert sum(distribution([1.5, 2.5, 9.0]).counts) == 3


def priced(cpu: float | None, gpu: float | None) -> dict[str, Any]:
    return {"actors.count": 4, "actors.cpus": 3.0, "actors.gpus": 1.0, "cost.cpu_hour": cpu, "cost.gpu_hour": gpu}


def test_without_a_rate_hours_are_told_and_no_price() -> None:
    cost = cost_of(priced(None, None), [unit([scored("a", ("x", 1, 1.0))]).footer], 1800.0)
    assert cost is not None
    assert (cost.cpu_hours, cost.gpu_hours, cost.total, cost.per_1000_queries) == (1.5, 0.5, None, None)
    assert cost_of({}, [], 1.0) is None
