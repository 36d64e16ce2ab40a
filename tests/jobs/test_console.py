"""What is printed: data are shown as they are, and counts are of what is left to do."""

from __future__ import annotations

import io
import json
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from jobs.console import ConsoleObserver, Tally, show_result
from jobs.demo import DemoResult, show_demo
from jobs.evaluate import show_evaluation
from jobs.logs import JsonLines
from pipelines.job import RunResult
from pipelines.plan import Plan

HOSTILE = "/data/[old]/[/x]/:bee:/runs"


def screen(terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), width=200, force_terminal=terminal, color_system=None)


def shown(console: Console) -> str:
    return cast(io.StringIO, console.file).getvalue()


def result_of(already_committed: bool = False) -> RunResult:
    manifest = SimpleNamespace(
        failed=0, scored=1, rows=1, objects=[1], skipped_files=(), side_files=["commit/d/report.html"], warnings=()
    )
    return RunResult(cast(Any, manifest), HOSTILE, already_committed)


def plan_of(rows: dict[str, int]) -> Plan:
    provenance = {
        "head_set": {"id": HOSTILE, "heads": ["0-0"]},
        "prompt": {"name": "plain"},
        "model": {"id": HOSTILE, "kept_layers": 1, "layers": 2},
        "dtype": "float32",
        "device": "cpu",
    }
    units = [SimpleNamespace(unit_id=unit_id, rows=count, tokens=10 * count) for unit_id, count in rows.items()]
    plan = SimpleNamespace(run_id="r-1", rows=sum(rows.values()), units=units, provenance=provenance, order="reversed")
    return cast(Plan, plan)


def footer(unit_id: str, rows: int, failed: int = 0, pid: int = 1, on_gpu: bool = False) -> dict[str, Any]:
    counts = {"unit_id": unit_id, "rows": rows, "failed": failed, "prompt_tokens": 5}
    return {**counts, "node": "n", "actor_pid": pid, "on_gpu": on_gpu}


def test_time_to_go_is_reckoned_by_tokens() -> None:
    now = [100.0]
    tally = Tally({"long": (1, 9000), "short": (9, 1000)}, clock=lambda: now[0])
    assert tally.facts()["eta_s"] is None
    now[0] = 110.0
    tally.add(footer("short", 9, failed=2, pid=7))
    facts = tally.facts()
    assert (facts["eta_s"], facts["rows_done"], facts["failed_rows"], facts["cpu_actors"]) == (90, 9, 2, 1)
    assert tally.note() == "1/2 units, 0 tokens/s, 2 failed, 1 CPU actor, 1m 30s to go"
    tally.add(footer("long", 1, pid=8))
    assert (tally.facts()["eta_s"], tally.facts()["cpu_actors"], tally.facts()["gpu_actors"]) == (0, 2, 0)


def test_actors_with_a_gpu_are_counted_apart_from_those_without() -> None:
    tally = Tally({str(pid): (1, 10) for pid in range(4)})
    for pid in range(3):
        tally.add(footer(str(pid), 1, pid=pid, on_gpu=pid > 0))
    tally.add(footer("3", 1, pid=2, on_gpu=True))  # one that was there already
    assert (tally.facts()["gpu_actors"], tally.facts()["cpu_actors"]) == (2, 1)
    assert ", 2 GPU + 1 CPU actors, " in tally.note()


def test_memory_is_that_of_the_actor_that_takes_most() -> None:
    tally = Tally({"a": (1, 10), "b": (1, 10), "c": (1, 10)})
    tally.add(footer("a", 1))
    assert tally.memory is None and tally.facts()["measured_bytes"] is None
    tally.add({**footer("b", 1, pid=1), "predicted_bytes": 3 << 20, "model_bytes": 4 << 20})
    tally.add({**footer("c", 1, pid=2), "predicted_bytes": 5 << 20, "model_bytes": 2 << 20})
    assert tally.memory == (3 << 20, 4 << 20)


@pytest.mark.parametrize("terminal", [True, False])
def test_the_end_of_the_work_tells_memory_predicted_and_measured(terminal: bool) -> None:
    console = screen(terminal)
    with ConsoleObserver(console) as observer:
        observer.planned(plan_of({"a": 4, "b": 2}), frozenset())
        observer.unit_done({**footer("a", 4), "predicted_bytes": 3 << 30, "model_bytes": 4 << 20})
        assert "memory" not in shown(console)
        observer.unit_done({**footer("b", 2), "predicted_bytes": 2 << 30, "model_bytes": 5 << 20})
    assert "memory of the largest actor: 3.00 GiB predicted, 5.0 MiB measured" in shown(console)


def test_memory_of_which_passes_take_little_is_not_told() -> None:
    console = screen()
    with ConsoleObserver(console) as observer:
        observer.planned(plan_of({"a": 4}), frozenset())
        observer.unit_done({**footer("a", 4), "predicted_bytes": 400 << 20, "model_bytes": 4 << 30})
    assert "memory" not in shown(console)


def test_where_no_model_reads_tokens_rows_tell_the_time_to_go() -> None:
    now = [100.0]
    tally = Tally({"long": (8, 0), "short": (2, 0)}, clock=lambda: now[0])
    assert tally.note() == "0/2 units"
    now[0] = 110.0
    tally.add({"unit_id": "short", "rows": 2, "failed": 0, "prompt_tokens": 0})
    assert tally.note() == "1/2 units, 0.2 rows/s, 0m 40s to go"


def test_progress_goes_on_after_a_stage_that_came_between() -> None:
    console = screen(terminal=True)
    with ConsoleObserver(console) as observer:
        observer.planned(plan_of({"a": 4, "b": 2}), frozenset())
        observer.stage("waiting for others")
        assert observer._progress is None
        observer.unit_done(footer("a", 4))
        assert observer._progress is not None
        (task,) = observer._progress.tasks
        assert (task.completed, task.total) == (4, 6)
        observer.stage("committing")
    assert observer._progress is None


def test_lines_come_by_the_clock_even_while_no_unit_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.console._LINE_EVERY_S", 0.02)
    console, stream = screen(), io.StringIO()
    structured = Console(file=cast(Any, JsonLines(stream, "info")), width=200)
    for shown_on in (console, structured):
        with ConsoleObserver(shown_on) as observer:
            observer.planned(plan_of({"a": 4}), frozenset())
            time.sleep(0.3)
    assert shown(console).count("  0/4 rows, 0/1 units") >= 2
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(one["rows"], one["units_done"]) for one in events if one["message"] == "progress"][:2] == [(4, 0)] * 2
    after = stream.getvalue()
    time.sleep(0.1)
    assert stream.getvalue() == after


def test_paths_and_ids_are_shown_as_they_are() -> None:
    console = screen()
    show_result(console, result_of())
    observer = ConsoleObserver(console)
    observer.stage(HOSTILE)
    observer.planned(plan_of({"a": 1}), frozenset())
    text = shown(console)
    assert text.count(HOSTILE) == 6
    assert f"{HOSTILE}/commit/d/report.html" in text


def test_questions_and_documents_of_the_demo_are_shown_as_they_are() -> None:
    places = [{"doc_id": HOSTILE, "relevant": relevant} for relevant in (True, None)]
    report = {
        "quality": {"measures": []},
        "examples": [{"query": f"why {HOSTILE}", "first_stage": places, "reranked": places}],
    }
    counts: Any = SimpleNamespace(questions=5, documents=9, candidates=10)
    console = screen()
    show_demo(console, DemoResult(result_of(), counts, {"dev": 2, "test": 3}, report))
    assert shown(console).count(HOSTILE) == 5
    assert "5 questions (2 dev, 3 test; none chose" in shown(console)


def test_the_demo_fits_80_columns_and_says_which_document_is_right_however_long_its_name() -> None:
    names = [{"doc_id": name, "relevant": True} for name in ("short", "a.name.that.is.longer.than.its.column.is.wide")]
    measure = {"name": "recall@10", "first_stage": 0.5, "reranked": 0.4, "fused": 0.45}
    measure |= {"difference": -0.1, "low": -0.25, "high": 0.05}
    report = {
        "quality": {"measures": [measure]},
        "examples": [{"query": "why?", "first_stage": names, "reranked": names}],
    }
    counts: Any = SimpleNamespace(questions=352, documents=5_263, candidates=3_520)
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    show_demo(console, DemoResult(result_of(), counts, {"dev": 134, "test": 218}, report))
    text = shown(console)
    assert max(len(line) for line in text.split("committed")[0].splitlines()) <= 80
    assert "[-0.250, +0.050]  not distinguishable" in text
    assert text.count("(right)") == 4 and text.count("a.name.that.is.longer.than.…  (right)") == 2


def test_a_resumed_run_counts_what_is_left() -> None:
    console = screen(terminal=True)
    with ConsoleObserver(console) as observer:
        observer.planned(plan_of({"a": 4, "b": 2, "c": 1}), frozenset({"a", "of another plan"}))
        observer.unit_done(footer("b", 2))
        assert observer._progress is not None
        (task,) = observer._progress.tasks
        assert (task.completed, task.total) == (2, 3)
        observer.unit_done(footer("c", 1))
        assert task.finished
    assert "7 rows in 3 units, 1 units already done" in shown(console)


def test_nothing_of_the_progress_is_cut_on_a_narrow_terminal() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    with ConsoleObserver(console) as observer:
        observer.planned(plan_of({"0": 1_000_000, "1": 1_000_000}), frozenset())
        observer.unit_done(footer("0", 1_000_000, failed=2_000, pid=1))
        assert observer._progress is not None
        console.print(observer._progress.get_renderable())
        said = observer._progress.tasks[0].fields["note"]
    assert "━" in shown(console)
    assert "1,000,000/2,000,000 rows" in shown(console)
    assert "2,000,000 rows in 2 units" in shown(console)
    assert said in shown(console)


def test_judgements_for_a_committed_run_are_not_ignored_silently() -> None:
    def says(already_committed: bool, qrels: str | None) -> bool:
        console = screen()
        show_result(console, result_of(already_committed), qrels)
        return "the report of the first commit stands" in shown(console)

    assert says(True, "qrels.parquet")
    assert not says(True, None)
    assert not says(False, "qrels.parquet")


def test_what_was_measured_is_a_line_each_on_any_terminal() -> None:
    names = ("nightly-0123456789ab", "[/x]-a-run-whose-name-is-longer-0123456789ab")
    value = SimpleNamespace(measure="ndcg@10", mean=0.6, low=0.5, high=0.7)
    runs = [
        SimpleNamespace(name=name, values=[value], missing=3, missing_queries=("q1", "q2"), found_on=2)
        for name in names
    ]
    one = SimpleNamespace(
        measure="ndcg@10", a=names[0], b=names[1], difference=0.031, low=0.01, high=0.05, p=0.001, p_holm=0.002,
        wins=41, losses=22, ties=137,
    )  # fmt: skip
    stream = io.StringIO()
    console = Console(file=cast(Any, JsonLines(stream, "info")), width=80)
    show_evaluation(console, cast(Any, SimpleNamespace(queries=200, runs=runs, comparisons=[one])))
    said = [json.loads(line)["message"] for line in stream.getvalue().splitlines()]
    assert f"{names[1]}: missing, counted as zero: 3 (q1, q2, …)" in said
    (test,) = [line for line in said if line.startswith("ndcg@10: ")]
    assert names[1] in test and test.endswith("41 won, 22 lost, 137 equal")
