"""Calibration, pooling and ranking against plain Python."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qrcore import Document, RankRequest
from qrcore.records import Span
from qrcore.scoring import calibrate, pool_documents, rank_documents
from tests.qrcore.reference import slow_pool

# Multiples of 1/64: sums are exact, so that no token sits on a cut-off by rounding alone.
values = st.integers(-64, 64).map(lambda n: n / 64)


@given(st.lists(st.lists(values, min_size=1, max_size=12), min_size=1, max_size=5))
def test_pooling_equals_a_plain_loop(per_document: list[list[float]]) -> None:
    tokens, spans, expected = [0.5], [], []
    for document in per_document:
        spans.append(Span(len(tokens), len(tokens) + len(document)))
        tokens += [*document, 0.75]  # something between the documents that belongs to none
        expected.append(slow_pool(document))
    pooled = pool_documents(torch.tensor(tokens, dtype=torch.float64), spans).tolist()
    for value, (score, margin) in zip(pooled, expected, strict=True):
        if margin > 1e-9:
            assert value == pytest.approx(score, abs=1e-9)


def test_low_outliers_are_left_out_and_high_ones_kept() -> None:
    tokens = [1.0] * 9 + [-20.0] + [1.0] * 9 + [20.0]
    pooled = pool_documents(torch.tensor(tokens), [Span(0, 10), Span(10, 20)])
    assert pooled.tolist() == [9.0, 29.0]


def test_the_deviation_divides_by_n_minus_one() -> None:
    # With n = 6 the lowest token lies 2.24 deviations (divisor n) but only 2.04 (divisor n - 1) below the mean; with
    # n = 5 they are 2.0 and 1.79: kept by n - 1, dropped by n.
    assert pool_documents(torch.tensor([0.0, 0, 0, 0, 0, -1]), [Span(0, 6)]).item() == 0.0
    assert pool_documents(torch.tensor([0.0, 0, 0, 0, -1]), [Span(0, 5)]).item() == -1.0


def test_one_token_is_never_an_outlier() -> None:
    assert pool_documents(torch.tensor([-3.0, 5.0]), [Span(0, 1), Span(1, 2)]).tolist() == [-3.0, 5.0]


def test_an_empty_span_scores_nothing() -> None:
    assert pool_documents(torch.tensor([1.0, 2.0]), [Span(1, 1)]).tolist() == [0.0]


def test_leading_axes_are_pooled_on_their_own() -> None:
    tokens = torch.randn(3, 2, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spans = [Span(0, 7), Span(9, 20)]
    pooled = pool_documents(tokens, spans)
    assert pooled.shape == (3, 2, 2)
    for layer in range(3):
        for head in range(2):
            expected = [slow_pool(tokens[layer, head, s.start : s.stop].tolist())[0] for s in spans]
            assert pooled[layer, head].tolist() == pytest.approx(expected)


def test_calibration_takes_the_weighted_null_away() -> None:
    query, null = torch.tensor([3.0, 1.0]), torch.tensor([1.0, 2.0])
    assert calibrate(query, null).tolist() == [2.0, -1.0]
    assert calibrate(query, null, 0.5).tolist() == [2.5, 0.0]
    assert calibrate(query, null, 0.0).tolist() == [3.0, 1.0]


scored = st.lists(st.tuples(st.integers(-2, 2), st.none() | st.integers(1, 3)), max_size=8)


@given(scored)
def test_ranking_gives_each_document_once_best_first(entries: list[tuple[int, int | None]]) -> None:
    docs = tuple(Document(f"d{7 - i}", "x", score=float(i), rank=rank) for i, (_, rank) in enumerate(entries))
    ranked = rank_documents(RankRequest("q", docs), [float(score) for score, _ in entries])
    given_ranks = {d.doc_id: place if d.rank is None else d.rank for place, d in enumerate(docs, start=1)}
    assert [r.rank for r in ranked] == list(range(1, len(docs) + 1))
    assert sorted(r.doc_id for r in ranked) == sorted(d.doc_id for d in docs)
    keys = [(-r.score, given_ranks[r.doc_id], r.doc_id) for r in ranked]
    assert keys == sorted(keys)
    by_id = {d.doc_id: d for d in docs}
    assert all(r.input_rank == given_ranks[r.doc_id] and r.input_score == by_id[r.doc_id].score for r in ranked)


def test_ties_go_to_the_input_rank_then_to_the_identifier() -> None:
    docs = (Document("b", "x", rank=2), Document("c", "x", rank=1), Document("a", "x", rank=2), Document("d", "x"))
    ranked = rank_documents(RankRequest("q", docs), [1.0, 1.0, 1.0, 2.0])
    assert [r.doc_id for r in ranked] == ["d", "c", "a", "b"]
