"""Two ways to rank are compared by what a reader of rankings would notice."""

from __future__ import annotations

import pytest

from qrcore import Ranking
from qrcore.records import RankedDocument
from tests.benchmarks.precision import compared, kendall_tau


def ranking(query_id: str, order: str, scores: tuple[float, ...] = (0.5, 0.4, 0.3)) -> Ranking:
    documents = tuple(
        RankedDocument(doc_id, rank, score, rank, None)
        for rank, (doc_id, score) in enumerate(zip(order, scores, strict=True), start=1)
    )
    return Ranking(query_id, documents, 10)


def test_kendall_tau() -> None:
    assert kendall_tau("abc", "abc") == 1.0 and kendall_tau("abc", "cba") == -1.0
    assert kendall_tau("abc", "acb") == pytest.approx(1 / 3) and kendall_tau("a", "a") == 1.0


def test_what_is_told_of_a_pair() -> None:
    one = {"q": ranking("q", "abc"), "r": ranking("r", "abc")}
    other = {"q": ranking("q", "bac", (0.5, 0.45, 0.3)), "r": ranking("r", "abc")}
    found = compared(one, other, {"q": {"a": 1}, "r": {"b": 1}})
    assert (found["queries"], found["changed_top_10"], found["changed_first"]) == (2, 0.5, 0.5)
    assert found["kendall_tau"] == pytest.approx((1 / 3 + 1) / 2)
    assert found["largest_score_difference"] == pytest.approx(0.1)
    before, after = found["ndcg_10"]
    assert before > after and found["ndcg_10_difference"][0] == pytest.approx(after - before)
