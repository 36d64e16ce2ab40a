"""Candidates that do not fit one prompt: each comes back once, and the first places were compared in one prompt."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qrcore import Document, Ranking, RankRequest, ScoreError
from qrcore.contexts import ContextRanker
from qrcore.encoding import EncodedRequest
from qrcore.engine import EngineSettings
from qrcore.loading import load_encoder
from qrcore.methods.qrhead import QRHeadScorer
from qrcore.records import TRUNCATED_DOCUMENTS, UNINFORMATIVE_QUERY
from qrcore.scoring import rank_documents
from qrcore.windows import ContextSettings
from tests.qrcore.golden import FAMILIES, FOLDER, changed_scorer, golden_cases, golden_scorer

WORDS = ("river", "town", "bee", "flower", "market", "bridge", "salt", "stone")
LLAMA = str(FOLDER / "models" / "llama")


@cache
def encoder(order: str = "as_given") -> Any:
    return load_encoder(LLAMA, heads="1-0", order=order)  # type: ignore[arg-type]


class Paper:
    """Scores by a hash of a document's tokens and of its whole prompt, so that no two prompts are comparable; keeps
    what it was asked."""

    largest_pass: int | None = None

    def __init__(self, order: str = "as_given") -> None:
        self.encoder = encoder(order)
        self.calls: list[list[EncodedRequest]] = []

    def rank_many(self, requests: Any) -> Iterator[Ranking | ScoreError]:
        return self.rank_encoded(list(self.encoder.encode_many(requests)))

    def rank_encoded(self, entries: Sequence[EncodedRequest | ScoreError]) -> Iterator[Ranking | ScoreError]:
        self.calls.append([entry for entry in entries if isinstance(entry, EncodedRequest)])
        return (entry if isinstance(entry, ScoreError) else self._rank(entry) for entry in entries)

    def _rank(self, entry: EncodedRequest) -> Ranking:
        if entry.uninformative:
            zeros = rank_documents(entry.request, [0.0] * len(entry.request.documents))
            return Ranking(entry.request.query_id, zeros, entry.prompt_tokens, flags=(UNINFORMATIVE_QUERY,))
        of_prompt = zlib.crc32(entry.prefix_ids.tobytes()) % 1000
        scores = [
            zlib.crc32(entry.prefix_ids[span.start + 3 : span.stop].tobytes()) % 50 + float(of_prompt)
            for span in entry.document_spans
        ]
        return Ranking(entry.request.query_id, rank_documents(entry.request, scores), entry.prompt_tokens)


def documents(lengths: Sequence[int]) -> tuple[Document, ...]:
    return tuple(
        Document(f"d{place}", " ".join(WORDS[(place + n) % len(WORDS)] for n in range(words)), rank=place + 1)
        for place, words in enumerate(lengths)
    )


def ranked(request: RankRequest, scorer: Any = None, **chosen: Any) -> Ranking | ScoreError:
    wanted = {"policy": "tournament", "window_tokens": 200, **chosen}
    (answer,) = ContextRanker(scorer or Paper(), ContextSettings(**wanted)).rank_many([request])
    return answer


def good(answer: Ranking | ScoreError) -> Ranking:
    assert isinstance(answer, Ranking), answer
    return answer


long_lists = st.lists(st.integers(1, 25), min_size=1, max_size=40)
choices = st.fixed_dictionaries(
    {
        "survivors": st.integers(1, 5),
        "long_documents": st.sampled_from(["whole", "split_and_pool"]),
        "max_document_tokens": st.sampled_from([None, 8, 20]),
        "pooling": st.sampled_from(["max", "mean"]),
    }
)


@settings(max_examples=60)
@given(lengths=long_lists, chosen=choices, order=st.sampled_from(["as_given", "reversed", "shuffled"]))
def test_every_candidate_once_and_the_first_places_were_compared_in_one_prompt(
    lengths: list[int], chosen: dict[str, Any], order: str
) -> None:
    request, scorer = RankRequest("Where is the salt?", documents(lengths), "q"), Paper(order)
    answer = good(ranked(request, scorer, **chosen))
    assert sorted(d.doc_id for d in answer.documents) == sorted(d.doc_id for d in request.documents)
    assert [d.rank for d in answer.documents] == list(range(1, len(lengths) + 1))
    rounds = [d.round for d in answer.documents]
    assert rounds == sorted(rounds, reverse=True) and max(rounds) == len(scorer.calls)
    prompts = [prompt for call in scorer.calls for prompt in call]
    assert (answer.windows, answer.prompt_tokens) == (len(prompts), sum(prompt.prompt_tokens for prompt in prompts))
    assert all(prompt.longest_prompt <= 200 for prompt in prompts)
    assert [len(call) > 1 for call in scorer.calls] == [True] * (len(scorer.calls) - 1) + [False]
    # The last prompt alone holds the first places, and gives their order and their scores.
    (last,) = scorer.calls[-1]
    final = [d for d in answer.documents if d.round == max(rounds)]
    assert {d.doc_id for d in final} == {d.doc_id.split("\0")[0] for d in last.request.documents}
    keys = [(-d.score, d.input_rank) for d in final]
    assert keys == sorted(keys)
    if chosen["long_documents"] == "whole" or chosen["pooling"] == "max":
        best: dict[str, float] = {}
        for entry in Paper(order)._rank(last).documents:
            name = entry.doc_id.split("\0")[0]
            best[name] = max(entry.score, best.get(name, entry.score))
        assert {d.doc_id: d.score for d in final} == best
    assert answer == good(ranked(request, Paper(order), **chosen))


@settings(max_examples=25)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=14), query=st.sampled_from(["Who?", "N/A", "salt town"])
)
def test_what_fits_one_prompt_gets_the_plain_answer(lengths: list[int], query: str) -> None:
    request = RankRequest(query, documents(lengths), "q")
    (plain,) = Paper().rank_many([request])
    assert ranked(request, long_documents="split_and_pool", window_tokens=2000) == plain
    assert ranked(request, long_documents="split_and_pool", window_tokens=2000, max_document_tokens=200) == plain


def test_requests_play_their_rounds_together_and_do_not_mind_one_another() -> None:
    lists = [documents([12] * 30), documents([3]), documents([12] * 30), (), documents([20] * 9)]
    requests = [RankRequest(f"Where is {n}?", docs, f"q{n}") for n, docs in enumerate(lists)]
    scorer = Paper()
    ranker = ContextRanker(scorer, ContextSettings(policy="tournament", window_tokens=200))
    together = list(ranker.rank_many(requests))
    assert [a.query_id for a in together] == [f"q{n}" for n in range(5)]
    assert isinstance(together[3], ScoreError) and together[3].code == "no_candidates"
    for request, answer in zip(requests, together, strict=True):
        if isinstance(answer, Ranking):
            assert answer == ranked(request)
    assert len(scorer.calls) == max(d.round for a in together if isinstance(a, Ranking) for d in a.documents)
    windows = [
        [entry.prefix_ids.tobytes() for entry in scorer.calls[0] if entry.request.query_id == query_id]
        for query_id in ("q0", "q2")
    ]
    assert len(windows[0]) > 1 and windows[0] == windows[1]  # over the same documents, so that a pass shares them


def test_first_losers_stand_by_their_rank_in_their_window() -> None:
    answer = good(ranked(RankRequest("Where?", documents([12] * 30), "q"), survivors=2))
    losers = [d for d in answer.documents if d.round == 1]
    scorer = Paper()
    ranked(RankRequest("Where?", documents([12] * 30), "q"), scorer, survivors=2)
    ranks = {d.doc_id: d.rank for prompt in scorer.calls[0] for d in scorer._rank(prompt).documents}
    keys = [(ranks[d.doc_id], d.input_rank) for d in losers]
    assert losers and keys == sorted(keys)


@pytest.mark.parametrize("survivors", [1, 4])
def test_rounds_that_are_used_up_end_in_one_prompt(survivors: int) -> None:
    request = RankRequest("Where?", documents([10] * 60), "q")
    free = good(ranked(request, survivors=4))
    assert max(d.round for d in free.documents) > 2
    scorer = Paper()
    answer = ranked(request, scorer, survivors=survivors, rounds=2, window_tokens=400)
    assert [len(call) > 1 for call in scorer.calls] == [True, False]
    firsts = {scorer._rank(prompt).documents[0].doc_id for prompt in scorer.calls[0]}
    assert firsts <= {d.doc_id for d in good(answer).documents if d.round == 2}
    short = ranked(RankRequest("Where?", documents([10] * 300), "q"), rounds=2)
    assert isinstance(short, ScoreError) and "the last round allowed (2)" in str(short)


def test_a_long_document_comes_back_once_with_the_score_of_its_best_pieces() -> None:
    book = Document("book", " ".join(f"The {word} is {n}." for n in range(12) for word in WORDS), rank=1)
    request = RankRequest("Where?", (book, *documents([5, 6])), "q")
    scorer = Paper()
    answer = good(ranked(request, scorer, long_documents="split_and_pool", max_document_tokens=40, window_tokens=2000))
    (prompt,) = scorer.calls[0]
    scores = [d.score for d in scorer._rank(prompt).documents if d.doc_id.startswith("book\0")]
    assert len(scores) > 5 and answer.windows == 1
    assert {d.doc_id: d.score for d in answer.documents}["book"] == max(scores)
    mean = good(
        ranked(
            request,
            long_documents="split_and_pool",
            max_document_tokens=40,
            window_tokens=2000,
            pooling="mean",
            pool_top=2,
        )
    )
    best = sorted(scores)[-2:]
    assert {d.doc_id: d.score for d in mean.documents}["book"] == pytest.approx(sum(best) / 2)


def test_documents_are_cut_only_when_asked_and_counted() -> None:
    request = RankRequest("Where?", documents([150, 5]), "q")
    scorer = Paper()
    answer = good(ranked(request, scorer, long_documents="truncate_documents", max_document_tokens=30, policy="error"))
    total = len(encoder().text_offsets(request.documents[0].text))
    assert {d.doc_id: d.cut_tokens for d in answer.documents} == {"d0": total - 30, "d1": 0}
    assert answer.flags == (TRUNCATED_DOCUMENTS,)
    (prompt,) = scorer.calls[0]
    span = prompt.document_spans[0]
    assert 30 <= span.stop - span.start <= 30 + 6  # and its mark
    whole = ranked(request, policy="error")
    assert isinstance(whole, ScoreError) and whole.code == "context_too_long"


@pytest.mark.parametrize(
    ("lengths", "query", "chosen", "said"),
    [
        ([5] * 60, "Where?", {"policy": "error"}, "prompt: expected at most 200 tokens"),
        (
            [5] * 60,
            "Where?",
            {"policy": "error", "long_documents": "split_and_pool"},
            "set contexts.policy to tournament",
        ),
        ([5, 190], "Where?", {}, "candidate 'd1': expected at most about"),
        ([100, 100, 100], "Where?", {"window_tokens": 250}, "expected at least two of 3 to fit one prompt"),
        ([5] * 60, "word " * 300, {}, "query: expected it to leave room"),
    ],
)
def test_what_cannot_be_compared_is_an_error_with_advice(
    lengths: list[int], query: str, chosen: dict[str, Any], said: str
) -> None:
    answer = ranked(RankRequest(query, documents(lengths), "q"), **chosen)
    assert isinstance(answer, ScoreError) and (answer.code, answer.query_id) == ("context_too_long", "q")
    assert said in str(answer)


def test_an_uninformative_query_leaves_the_input_order() -> None:
    answer = good(ranked(RankRequest("N/A", documents([12] * 30), "q")))
    assert [d.input_rank for d in answer.documents] == list(range(1, 31))
    assert {(d.round, d.score) for d in answer.documents} == {(1, 0.0)}
    assert answer.flags == (UNINFORMATIVE_QUERY,)


def test_the_answer_of_a_window_that_fails_is_the_answer() -> None:
    scorer = Paper()
    scorer._rank = lambda entry: ScoreError("oom", "no", stage="score")  # type: ignore[method-assign,assignment,return-value]
    answer = ranked(RankRequest("Where?", documents([12] * 30), "q"), scorer)
    assert isinstance(answer, ScoreError) and (answer.code, answer.query_id) == ("oom", "q")


def test_memory_bounds_the_windows() -> None:
    scorer = Paper()
    scorer.largest_pass = 150
    good(ranked(RankRequest("Where?", documents([12] * 20), "q"), scorer, window_tokens=1000))
    assert max(prompt.pass_tokens for call in scorer.calls for prompt in call) <= 150
    assert len(scorer.calls[0]) > 1


def with_engine(scorer: QRHeadScorer, **engine: Any) -> QRHeadScorer:
    return QRHeadScorer(scorer.model, scorer.heads, scorer.settings, engine=EngineSettings(**engine))


@pytest.mark.parametrize("family", FAMILIES)
def test_golden_lists_that_fit_are_scored_as_the_official_code_does(family: str) -> None:
    scorer = golden_scorer(family, "subset")
    cases = list(golden_cases(family).values())
    requests = [RankRequest(case.query, case.documents, case.id) for case in cases]
    wide = ContextSettings(policy="tournament", long_documents="split_and_pool", max_document_tokens=2000)
    plain = [answer for answer in scorer.rank_many(requests)]
    for one, other in zip(ContextRanker(scorer, wide).rank_many(requests), plain, strict=True):
        assert str(one) == str(other) if isinstance(one, ScoreError) else one == other


def test_the_seed_of_the_shuffled_order_is_a_setting() -> None:
    request = RankRequest("Where?", documents([3] * 12), "q")
    orders = [
        load_encoder(LLAMA, heads="1-0", order="shuffled", order_seed=seed).encode(request).prompt_order
        for seed in (0, 1)
    ]
    assert orders[0] != orders[1] and sorted(orders[1]) == list(range(12))
    assert orders[0] == encoder("shuffled").encode(request).prompt_order


def test_packing_decides_nothing() -> None:
    case = golden_cases("llama")["no_titles"]
    docs = tuple(replace(d, doc_id=f"{n}{d.doc_id}") for n in range(6) for d in case.documents)
    requests = [RankRequest(case.query, docs, "a"), RankRequest("Where does the river flow?", docs, "b")]
    wanted = ContextSettings(policy="tournament", survivors=3, window_tokens=300, long_documents="split_and_pool")
    scorer = changed_scorer()
    alone, packed = (
        [good(answer) for answer in ContextRanker(with_engine(scorer, **engine), wanted).rank_many(requests)]
        for engine in ({"pack_tokens": 0}, {"pack_tokens": 3000})
    )
    for one, other in zip(alone, packed, strict=True):
        assert one.windows > 2
        assert [(d.doc_id, d.round) for d in one.documents] == [(d.doc_id, d.round) for d in other.documents]
        assert [d.score for d in one.documents] == pytest.approx([d.score for d in other.documents], rel=0, abs=1e-5)
