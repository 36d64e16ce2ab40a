"""The public scorer: what goes in and what comes out."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qrcore import Document, HeadSet, Ranking, RankRequest, load_scorer
from qrcore.methods.qrhead import QRHeadScorer
from qrcore.prompts import EMBEDDED
from qrcore.records import UNINFORMATIVE_QUERY, Order
from tests.qrcore.families import DOCUMENTS, FamilyModels
from tests.qrcore.golden import FOLDER, changed_scorer, golden_cases, golden_scorer
from tests.qrcore.reference import SlowScorer, slow_pool

CASE: Final = golden_cases("llama")["no_titles"]
LLAMA: Final = str(FOLDER / "models" / "llama")
ONE: Final = (Document("1", "A stream."),)

short_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
candidate_lists = st.lists(st.tuples(short_texts, st.none() | short_texts), min_size=1, max_size=5)


@settings(max_examples=40)
@given(query=short_texts, candidates=candidate_lists)
def test_every_candidate_comes_back_once_best_first(query: str, candidates: list[tuple[str, str | None]]) -> None:
    docs = [Document(f"d{i}", text, title) for i, (text, title) in enumerate(candidates)]
    scorer = changed_scorer()
    ranking = scorer.rank(query, docs)
    assert sorted(d.doc_id for d in ranking.documents) == [d.doc_id for d in docs]
    assert [d.rank for d in ranking.documents] == list(range(1, len(docs) + 1))
    keys = [(-d.score, d.input_rank) for d in ranking.documents]
    assert keys == sorted(keys)
    by_id = dict(zip((d.doc_id for d in docs), scorer.score(query, docs), strict=True))
    if query != "N/A":
        assert {d.doc_id: d.score for d in ranking.documents} == by_id


@settings(max_examples=15)
@given(st.permutations(CASE.documents))
def test_permuted_candidates_are_the_same_set(docs: list[Document]) -> None:
    ranking = changed_scorer().rank(CASE.query, docs)
    assert {d.doc_id for d in ranking.documents} == {d.doc_id for d in CASE.documents}
    assert [d.input_rank for d in ranking.documents] == [
        docs.index(_by_id(docs, d.doc_id)) + 1 for d in ranking.documents
    ]


def test_reversed_scores_are_those_of_the_reversed_list() -> None:
    docs = CASE.documents
    scores = changed_scorer(order="reversed").score(CASE.query, docs)
    assert scores == changed_scorer().score(CASE.query, docs[::-1])[::-1]
    assert scores != changed_scorer().score(CASE.query, docs)


@pytest.mark.parametrize("order", ["as_given", "reversed", "shuffled"])
def test_scores_belong_to_the_documents_in_any_order(order: Order) -> None:
    scorer = changed_scorer(order=order)
    reading = scorer.read(CASE.query, CASE.documents)
    shown = [CASE.documents[place] for place in reading.prompt_order]
    assert scorer.score(CASE.query, CASE.documents) == _unpermuted(
        changed_scorer().score(CASE.query, shown), reading.prompt_order
    )
    spans = [reading.document_spans[place] for place in reading.prompt_order]
    assert spans == sorted(spans)


def test_shuffling_depends_on_the_request_alone() -> None:
    docs = [Document(f"d{i}", "A stream.") for i in range(9)]
    scorer = changed_scorer(order="shuffled")
    order = scorer.read("why?", docs).prompt_order
    scorer.read("something else", docs)
    assert scorer.read("why?", docs).prompt_order == order
    assert sorted(order) == list(range(9))
    assert len({scorer.read(q, docs).prompt_order for q in ("why?", "where?", "when?", "who?")}) > 1
    # The same on every machine and in every process: a re-run must build the same prompts.
    assert order == (1, 5, 4, 7, 3, 8, 2, 0, 6)


def test_a_head_listed_twice_counts_twice() -> None:
    once = changed_scorer("1-0").score(CASE.query, CASE.documents)
    twice = changed_scorer("1-0,1-0").score(CASE.query, CASE.documents)
    assert twice == pytest.approx([2 * score for score in once], abs=1e-7)
    mixed = changed_scorer("1-0,2-4,1-0")
    reading = mixed.read(CASE.query, CASE.documents)
    assert [str(head) for head in reading.heads] == ["1-0", "2-4"]
    tokens = (reading.query_attention - reading.null_attention).double()
    total = (2 * tokens[0] + tokens[1]).tolist()
    expected = [slow_pool(total[s.start : s.stop])[0] for s in reading.document_spans]
    assert mixed.score(CASE.query, CASE.documents) == pytest.approx(expected, abs=1e-6)


def test_scores_per_head_are_nan_where_not_evaluated() -> None:
    scores = changed_scorer("1-0,2-4").score_heads(CASE.query, CASE.documents)
    assert scores.shape == (len(CASE.documents), 4, 8)
    evaluated = torch.zeros(4, 8, dtype=torch.bool)
    evaluated[1, 0] = evaluated[2, 4] = True
    assert torch.equal(~scores.isnan(), evaluated.expand_as(scores))
    every = golden_scorer("llama", "full").score_heads(CASE.query, CASE.documents)
    torch.testing.assert_close(scores[:, evaluated], every[:, evaluated], rtol=0, atol=1e-6)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_the_calibration_weight_scales_the_null(weight: float) -> None:
    scorer = changed_scorer("1-0", calibration_weight=weight)
    reading = scorer.read(CASE.query, CASE.documents)
    tokens = (reading.query_attention - weight * reading.null_attention).double()[0].tolist()
    expected = [slow_pool(tokens[s.start : s.stop])[0] for s in reading.document_spans]
    assert scorer.score(CASE.query, CASE.documents) == pytest.approx(expected, abs=1e-6)


def test_query_span_query_reads_the_query_alone(family_models: FamilyModels) -> None:
    loaded = family_models.scorer("llama")
    scorer = QRHeadScorer(loaded.model, loaded.heads, replace(loaded.settings, query_span="query"))
    slow = SlowScorer(str(family_models.folder("llama")), rows="query")
    expected = slow.read(EMBEDDED, "Where does the river go?", "N/A", DOCUMENTS)
    reading = scorer.read("Where does the river go?", DOCUMENTS)
    for ours, theirs in ((reading.query_attention, expected.query), (reading.null_attention, expected.null)):
        torch.testing.assert_close(ours.reshape(theirs.shape).double(), theirs, rtol=0, atol=1e-5)


def test_what_a_reading_holds() -> None:
    scorer = changed_scorer("2-4,1-0")
    reading = scorer.read(CASE.query, CASE.documents)
    shared = CASE.asking_span.start
    assert reading.query_attention.shape == reading.null_attention.shape == (2, shared)
    assert reading.query_attention.dtype == reading.null_attention.dtype == torch.float32
    assert reading.token_ids == CASE.token_ids[:shared]
    assert reading.document_spans == CASE.document_spans
    assert reading.prompt_tokens == len(CASE.token_ids)
    assert reading.prompt_order == tuple(range(len(CASE.documents)))


def test_ranking_carries_what_the_output_needs() -> None:
    docs = [replace(d, score=float(i), rank=10 - i) for i, d in enumerate(CASE.documents)]
    ranking = next(changed_scorer().rank_many([RankRequest(CASE.query, tuple(docs), "q7")]))
    assert isinstance(ranking, Ranking)
    assert (ranking.query_id, ranking.prompt_tokens, ranking.windows, ranking.flags) == ("q7", 229, 1, ())
    for entry in ranking.documents:
        given_document = _by_id(docs, entry.doc_id)
        assert (entry.input_rank, entry.input_score) == (given_document.rank, given_document.score)


def test_a_query_that_says_nothing_keeps_the_input_order() -> None:
    docs = list(CASE.documents)[::-1]
    ranking = changed_scorer().rank("N/A", docs)
    assert ranking.flags == (UNINFORMATIVE_QUERY,)
    assert [d.doc_id for d in ranking.documents] == [d.doc_id for d in docs]
    assert {d.score for d in ranking.documents} == {0.0}
    assert ranking.prompt_tokens == len(golden_scorer("llama", "full").read("N/A", docs).token_ids) + 24
    assert changed_scorer(null_query="nothing").rank("N/A", docs).flags == ()
    assert changed_scorer(null_query="nothing").rank("nothing", docs).flags == (UNINFORMATIVE_QUERY,)


def test_gradients_and_training_mode_are_off_when_loaded() -> None:
    model = changed_scorer().model.model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not changed_scorer().read("why?", ONE).query_attention.requires_grad


def test_half_precision_comes_near() -> None:
    half = load_scorer(LLAMA, heads="1-0,1-2,2-4", dtype="bfloat16")
    assert half.model.model.dtype == torch.bfloat16
    scores = half.score(CASE.query, CASE.documents)
    assert scores == pytest.approx(changed_scorer().score(CASE.query, CASE.documents), abs=0.05)


def test_what_a_loaded_scorer_tells() -> None:
    scorer = load_scorer(LLAMA, heads="1-0,2-4")
    assert isinstance(scorer.heads, HeadSet)
    assert scorer.heads.heads == ("1-0", "2-4")
    assert scorer.model.depth == 3
    assert scorer.max_tokens == scorer.model.source.config.max_position_embeddings
    assert scorer.settings.prompt.name == "qrhead-llama3"
    assert scorer.settings.order == "as_given"


def _by_id(docs: list[Document], doc_id: str) -> Document:
    return next(document for document in docs if document.doc_id == doc_id)


def _unpermuted(scores: list[float], order: tuple[int, ...]) -> list[float]:
    return [score for _, score in sorted(zip(order, scores, strict=True))]
