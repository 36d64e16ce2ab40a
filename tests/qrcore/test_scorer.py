"""The public scorer: what goes in, what comes out, what it leaves behind."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from qrcore import Document, HeadSet, Ranking, RankRequest, ScoreError, load_scorer
from qrcore.attention import attach
from qrcore.errors import ConfigError, HeadSetError, PromptError
from qrcore.heads import head_set_from_list
from qrcore.methods import qrhead
from qrcore.methods.qrhead import QRHeadScorer
from qrcore.prompts import EMBEDDED
from qrcore.records import UNINFORMATIVE_QUERY, Order
from tests.qrcore.families import DOCUMENTS, FamilyModels
from tests.qrcore.golden import FOLDER, golden_cases, golden_scorer
from tests.qrcore.reference import SlowScorer, slow_pool

QUERY: Final = "Which town in Nizhnyaya has the largest population?"
CASE: Final = golden_cases("llama")["no_titles"]
LLAMA: Final = str(FOLDER / "models" / "llama")


def scorer_with(heads: str = "1-0,1-2,2-4", **changes: Any) -> QRHeadScorer:
    """A scorer over the golden Llama; loaded once, settings and heads changed on the same model."""
    loaded = golden_scorer("llama", "full")
    prompt_settings = {"document_special_tokens": "text", **changes}
    return QRHeadScorer(loaded.model, head_set_from_list(heads), replace(loaded.settings, **prompt_settings))


short_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
candidate_lists = st.lists(st.tuples(short_texts, st.none() | short_texts), min_size=1, max_size=5)


@settings(max_examples=40)
@given(query=short_texts, candidates=candidate_lists)
def test_every_candidate_comes_back_once_best_first(query: str, candidates: list[tuple[str, str | None]]) -> None:
    docs = [Document(f"d{i}", text, title) for i, (text, title) in enumerate(candidates)]
    scorer = scorer_with()
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
    ranking = scorer_with().rank(CASE.query, docs)
    assert {d.doc_id for d in ranking.documents} == {d.doc_id for d in CASE.documents}
    assert [d.input_rank for d in ranking.documents] == [
        docs.index(_by_id(docs, d.doc_id)) + 1 for d in ranking.documents
    ]


def test_reversed_scores_are_those_of_the_reversed_list() -> None:
    docs = CASE.documents
    assert scorer_with(order="reversed").score(CASE.query, docs) == scorer_with().score(CASE.query, docs[::-1])[::-1]
    assert scorer_with(order="reversed").score(CASE.query, docs) != scorer_with().score(CASE.query, docs)


@pytest.mark.parametrize("order", ["as_given", "reversed", "shuffled"])
def test_scores_belong_to_the_documents_in_any_order(order: Order) -> None:
    scorer = scorer_with(order=order)
    reading = scorer.read(CASE.query, CASE.documents)
    shown = [CASE.documents[place] for place in reading.prompt_order]
    assert scorer.score(CASE.query, CASE.documents) == _unpermuted(
        scorer_with().score(CASE.query, shown), reading.prompt_order
    )
    spans = [reading.document_spans[place] for place in reading.prompt_order]
    assert spans == sorted(spans)


def test_shuffling_depends_on_the_request_alone() -> None:
    docs = [Document(f"d{i}", "A stream.") for i in range(9)]
    scorer = scorer_with(order="shuffled")
    order = scorer.read("why?", docs).prompt_order
    scorer.read("something else", docs)
    assert scorer.read("why?", docs).prompt_order == order
    assert sorted(order) == list(range(9))
    assert len({scorer.read(q, docs).prompt_order for q in ("why?", "where?", "when?", "who?")}) > 1
    # The same on every machine and in every process: a re-run must build the same prompts.
    assert order == (1, 5, 4, 7, 3, 8, 2, 0, 6)


def test_a_head_listed_twice_counts_twice() -> None:
    once = scorer_with("1-0").score(CASE.query, CASE.documents)
    twice = scorer_with("1-0,1-0").score(CASE.query, CASE.documents)
    assert twice == pytest.approx([2 * score for score in once], abs=1e-7)
    mixed = scorer_with("1-0,2-4,1-0")
    reading = mixed.read(CASE.query, CASE.documents)
    assert [str(head) for head in reading.heads] == ["1-0", "2-4"]
    tokens = (reading.query_attention - reading.null_attention).double()
    total = (2 * tokens[0] + tokens[1]).tolist()
    expected = [slow_pool(total[s.start : s.stop])[0] for s in reading.document_spans]
    assert mixed.score(CASE.query, CASE.documents) == pytest.approx(expected, abs=1e-6)


def test_scores_per_head_are_nan_where_not_evaluated() -> None:
    scores = scorer_with("1-0,2-4").score_heads(CASE.query, CASE.documents)
    assert scores.shape == (len(CASE.documents), 4, 8)
    evaluated = torch.zeros(4, 8, dtype=torch.bool)
    evaluated[1, 0] = evaluated[2, 4] = True
    assert torch.equal(~scores.isnan(), evaluated.expand_as(scores))
    every = golden_scorer("llama", "full").score_heads(CASE.query, CASE.documents)
    torch.testing.assert_close(scores[:, evaluated], every[:, evaluated], rtol=0, atol=1e-6)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_the_calibration_weight_scales_the_null(weight: float) -> None:
    scorer = scorer_with("1-0", calibration_weight=weight)
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
    scorer = scorer_with("2-4,1-0")
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
    ranking = next(scorer_with().rank_many([RankRequest(CASE.query, tuple(docs), "q7")]))
    assert isinstance(ranking, Ranking)
    assert (ranking.query_id, ranking.prompt_tokens, ranking.windows, ranking.flags) == ("q7", 229, 1, ())
    for entry in ranking.documents:
        given_document = _by_id(docs, entry.doc_id)
        assert (entry.input_rank, entry.input_score) == (given_document.rank, given_document.score)


def test_a_query_that_says_nothing_keeps_the_input_order() -> None:
    docs = list(CASE.documents)[::-1]
    ranking = scorer_with().rank("N/A", docs)
    assert ranking.flags == (UNINFORMATIVE_QUERY,)
    assert [d.doc_id for d in ranking.documents] == [d.doc_id for d in docs]
    assert {d.score for d in ranking.documents} == {0.0}
    assert ranking.prompt_tokens == len(golden_scorer("llama", "full").read("N/A", docs).token_ids) + 24
    assert scorer_with(null_query="nothing").rank("N/A", docs).flags == ()
    assert scorer_with(null_query="nothing").rank("nothing", docs).flags == (UNINFORMATIVE_QUERY,)


ONE: Final = (Document("1", "A stream."),)
BROKEN: Final[dict[str, tuple[str, tuple[Document, ...]]]] = {
    "no_candidates": ("why?", ()),
    "duplicate_doc_id": ("why?", (*ONE, Document("2", "x"), Document("1", "y"))),
    "context_too_long": ("why?", (Document("1", "word " * 400),)),
    "invalid_text": ("why?", (Document("1", "a\ud800b"),)),
}


@pytest.fixture
def limit_300(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QRHeadScorer, "max_tokens", 300)


@pytest.mark.parametrize("code", BROKEN)
@pytest.mark.parametrize("call", [QRHeadScorer.score, QRHeadScorer.read, QRHeadScorer.rank, QRHeadScorer.score_heads])
def test_what_cannot_be_scored_says_why(code: str, call: Callable[..., Any], limit_300: None) -> None:
    query, docs = BROKEN[code]
    with pytest.raises(ScoreError) as caught:
        call(scorer_with(), query, docs)
    assert (caught.value.code, caught.value.kind) == (code, "input")
    assert caught.value.stage in ("validate", "tokenise")


@pytest.mark.parametrize(
    "request_", [("\udfff", ONE), ("why?", (Document("1", "x", "\ud800"),))], ids=["query", "title"]
)
def test_lone_surrogates_are_refused_anywhere(request_: tuple[str, tuple[Document, ...]]) -> None:
    with pytest.raises(ScoreError, match="lone surrogate") as caught:
        scorer_with().rank(*request_)
    assert caught.value.code == "invalid_text"


def test_the_uninformative_query_is_checked_too() -> None:
    with pytest.raises(ScoreError, match="'1' twice"):
        scorer_with().rank("N/A", [*ONE, *ONE])


def test_an_empty_query_has_no_rows_of_its_own() -> None:
    assert scorer_with().score("", ONE)
    with pytest.raises(ScoreError) as caught:
        scorer_with(query_span="query").score("", ONE)
    assert caught.value.code == "empty_query"


def test_the_limit_is_the_whole_prompt_to_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QRHeadScorer, "max_tokens", 229)
    assert len(scorer_with().score(CASE.query, CASE.documents)) == 5
    monkeypatch.setattr(QRHeadScorer, "max_tokens", 228)
    with pytest.raises(ScoreError, match="at most 228 tokens for this model, got 229"):
        scorer_with().score(CASE.query, CASE.documents)


def test_the_longer_of_both_prompts_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QRHeadScorer, "max_tokens", 229)
    with pytest.raises(ScoreError, match="at most 229 tokens"):
        scorer_with(null_query="nothing " * 50).score(CASE.query, CASE.documents)


@pytest.mark.parametrize(
    ("name", "heads", "refused"),
    [
        ("mistral", "0-0", True),
        ("phi3", "3-0", True),
        ("gemma2", "1-0,3-1", False),
        ("gemma2", "1-0,2-1", True),
        ("qwen2", "1-0", False),
        ("qwen2", "2-0", True),
        ("smollm3", "0-0", True),
        ("llama", "0-0", False),
    ],
)
def test_heads_with_a_window_are_refused_beyond_it(
    name: str, heads: str, refused: bool, family_models: FamilyModels
) -> None:
    loaded = family_models.scorer(name)
    strict = replace(loaded.settings, allow_sliding_window=False)
    scorer = QRHeadScorer(loaded.model, head_set_from_list(heads), strict)
    if not refused:
        assert len(scorer.score("why?", DOCUMENTS)) == len(DOCUMENTS)
        return
    with pytest.raises(ScoreError, match="sees 40 tokens") as caught:
        scorer.score("why?", DOCUMENTS)
    assert caught.value.code == "sliding_window_exceeded"
    assert len(scorer.score("why?", [Document("1", "x")])) == 1, "a prompt within the window is read"


def test_rank_many_goes_on_after_an_error(limit_300: None) -> None:
    good = RankRequest(CASE.query, CASE.documents, "good")
    bad = [RankRequest(query, docs, code) for code, (query, docs) in BROKEN.items()]
    answers = list(scorer_with().rank_many([good, *bad, good]))
    assert [a.code if isinstance(a, ScoreError) else "ranked" for a in answers] == ["ranked", *BROKEN, "ranked"]
    assert [a.query_id for a in answers] == ["good", *BROKEN, "good"]
    assert answers[0] == answers[-1] == replace(scorer_with().rank(CASE.query, CASE.documents), query_id="good")


def test_rank_many_asks_for_requests_one_by_one() -> None:
    asked = []

    def requests() -> Iterator[RankRequest]:
        for number in range(3):
            asked.append(number)
            yield RankRequest("why?", ONE, str(number))

    answers = scorer_with().rank_many(requests())
    next(answers)
    assert asked == [0]


def test_rank_many_does_not_hide_defects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qrhead, "read_attention", _raise(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        list(scorer_with().rank_many([RankRequest("why?", ONE)]))


def test_scores_that_are_no_numbers_are_an_error_of_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def nan(*args: Any) -> list[Tensor]:
        return [torch.full_like(attention, float("nan")) for attention in read_attention(*args)]

    read_attention = qrhead.read_attention
    monkeypatch.setattr(qrhead, "read_attention", nan)
    with pytest.raises(ScoreError) as caught:
        scorer_with().score("why?", ONE)
    assert (caught.value.code, caught.value.kind, caught.value.stage) == ("non_finite", "transient", "score")


def test_an_error_of_a_row_crosses_process_borders() -> None:
    error = ScoreError("oom", "memory: …", stage="score", query_id="q1")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.code, copy.kind, copy.stage, copy.query_id, str(copy)) == (
        "oom",
        "transient",
        "score",
        "q1",
        "memory: …",
    )


def test_nothing_is_left_behind_after_a_call() -> None:
    scorer = scorer_with()
    before = _state(scorer)
    scorer.rank(CASE.query, CASE.documents)
    assert _same(before, _state(scorer))


@pytest.mark.parametrize("place", ["packed_attention", "_no_mask"])
def test_nothing_is_left_behind_after_an_error(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = scorer_with()
    before = _state(scorer)
    expected = scorer.score(CASE.query, CASE.documents)
    with monkeypatch.context() as patch:
        patch.setattr(attach, place, _raise(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            scorer.rank(CASE.query, CASE.documents)
    assert _same(before, _state(scorer))
    assert scorer.score(CASE.query, CASE.documents) == expected


def test_scores_do_not_depend_on_earlier_prompts() -> None:
    first = scorer_with().score(CASE.query, CASE.documents)
    for other in ("one_word", "long_docs", "special_text"):
        case = golden_cases("llama")[other]
        scorer_with().score(case.query, case.documents)
    assert scorer_with().score(CASE.query, CASE.documents) == first


def test_two_models_score_at_the_same_time() -> None:
    """Each has its own settings; the registration that they share outlives the one that ends first."""
    expected = {f: golden_scorer(f, "full").score(CASE.query, CASE.documents) for f in ("llama", "qwen2")}
    before = set(AttentionInterface._global_mapping)
    got: dict[str, list[list[float]]] = {"llama": [], "qwen2": []}

    def work(family: str, times: int) -> None:
        for _ in range(times):
            got[family].append(golden_scorer(family, "full").score(CASE.query, CASE.documents))

    threads = [threading.Thread(target=work, args=args) for args in (("llama", 12), ("qwen2", 9))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {"llama": [expected["llama"]] * 12, "qwen2": [expected["qwen2"]] * 9}
    assert set(AttentionInterface._global_mapping) == before


def test_gradients_and_training_mode_are_off_when_loaded() -> None:
    model = scorer_with().model.model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not scorer_with().read("why?", ONE).query_attention.requires_grad


def test_half_precision_comes_near() -> None:
    half = load_scorer(LLAMA, heads="1-0,1-2,2-4", dtype="bfloat16")
    assert half.model.model.dtype == torch.bfloat16
    scores = half.score(CASE.query, CASE.documents)
    assert scores == pytest.approx(scorer_with().score(CASE.query, CASE.documents), abs=0.05)


def test_what_a_loaded_scorer_tells() -> None:
    scorer = load_scorer(LLAMA, heads="1-0,2-4")
    assert isinstance(scorer.heads, HeadSet)
    assert scorer.heads.heads == ("1-0", "2-4")
    assert scorer.model.depth == 3
    assert scorer.max_tokens == scorer.model.source.config.max_position_embeddings
    assert scorer.settings.prompt.name == "qrhead-llama3"
    assert scorer.settings.order == "as_given"


@pytest.mark.parametrize(
    ("settings_", "error", "message"),
    [
        ({"query_span": "all"}, ConfigError, "query_span: expected one of official, query"),
        ({"order": "best"}, ConfigError, "order: expected one of as_given, reversed, shuffled"),
        ({"document_special_tokens": "keep"}, ConfigError, "document_special_tokens: expected one of text, parse"),
        ({"null_query": " \n"}, ConfigError, "null_query: expected text"),
        ({"heads": None}, HeadSetError, "ships none"),
        ({"heads": "9-0"}, HeadSetError, "layers 0-3"),
        ({"prompt": "qrhead-qwen2"}, PromptError, r"<\|im_start\|>"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings_: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        load_scorer(LLAMA, **{"heads": "1-0", **settings_})


def _by_id(docs: list[Document], doc_id: str) -> Document:
    return next(document for document in docs if document.doc_id == doc_id)


def _unpermuted(scores: list[float], order: tuple[int, ...]) -> list[float]:
    return [score for _, score in sorted(zip(order, scores, strict=True))]


def _raise(error: BaseException) -> Callable[..., Any]:
    def raising(*args: Any, **settings_: Any) -> Any:
        raise error

    return raising


def _state(scorer: QRHeadScorer) -> dict[str, Any]:
    model = scorer.model.model
    return {
        "implementation": model.config._attn_implementation,
        "functions": dict(AttentionInterface._global_mapping),
        "masks": dict(AttentionMaskInterface._global_mapping),
        "attached": attach._attached,
        "tensors": {name: value.clone() for name, value in model.state_dict().items()},
        "buffers": {name: value.clone() for name, value in model.named_buffers()},
        "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()),
        "config": model.config.to_dict(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
    }


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    tensors = ("tensors", "buffers")
    plain = [{key: value for key, value in state.items() if key not in tensors} for state in (one, other)]
    return plain[0] == plain[1] and all(
        one[kind].keys() == other[kind].keys() and all(torch.equal(v, other[kind][k]) for k, v in one[kind].items())
        for kind in tensors
    )
