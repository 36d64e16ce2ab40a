"""The study's table says what was measured, and what was not found is not a column of numbers."""

from __future__ import annotations

from typing import Any

from qrcore.heads import HeadSet
from tests.benchmarks.head_study import copies, table

BOUNDS = {"mean": 0.25, "low": 0.1, "high": 0.4}


def report() -> dict[str, Any]:
    names = ("first-stage", "all", "core", "ndcg", "qrscore on hotpotqa", "chosen")
    sets = [{"name": name, "ndcg_10": {"mean": 0.5}, "chosen_minus": BOUNDS} for name in names]
    return {"queries": 12, "sets": sets, "random": [{"name": "random", "mean": 0.4, "deviation": 0.02}]}


def results(**changes: Any) -> dict[str, Any]:
    masked = {"heads": ["1-0"], "index_accuracy": 0.2, "index_log_probability": -3.0}
    check = {
        "queries": 40,
        "intact": {**masked, "index_accuracy": 0.9},
        "chosen": masked,
        "controls": [masked] * 20,
        "percentile": 1.0,
        "drop": BOUNDS,
    }
    return {
        "found_on": "nq_pool",
        "collections": {"adi": report()},
        "causal": None,
        "best_copying_head": ["3-1", 0.006],
        "retrieving": check,
    } | changes


def test_a_model_without_copying_heads_has_no_number_for_them() -> None:
    head, _, row, *rest = table(results()).splitlines()
    columns = [one.strip() for one in head.strip("|").split("|")]
    cells = dict(zip(columns, [one.strip() for one in row.strip("|").split("|")], strict=True))
    assert cells["copy"] == "none" and cells["core"] == "0.500"
    assert cells["chosen − first stage"] == "+0.250 [+0.100, +0.400]"
    assert any("best, 3-1, copies in 0.006" in line for line in rest)


def test_what_holding_back_the_retrieval_heads_costs() -> None:
    said = table(results()).splitlines()[-1]
    assert "intact 0.900, retrieval heads masked 0.200" in said and "beyond 20 control sets" in said
    assert "less likely than with 100% of them (40 questions)" in said
    assert "right documents named" not in table(results(retrieving=None))


def test_heads_copy_only_where_the_best_of_them_surely_does() -> None:
    def found(low: float) -> HeadSet:
        return HeadSet(name="found", heads=("3-1",), scores=(0.1,), intervals=((low, 0.2),))

    assert copies(found(0.05)) and not copies(found(0.0)) and not copies(found(-0.1))
    assert not copies(HeadSet(name="found", heads=("3-1",)))
