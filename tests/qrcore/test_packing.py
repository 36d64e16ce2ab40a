"""Requests that go through the model together get the answers that they get alone."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Final

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qrcore import Document, Ranking, RankRequest, ScoreError, load_scorer
from qrcore.attention import read, rotary
from qrcore.attention.read import SharedPrompt, Suffix, read_packed
from qrcore.encoding import EncodedRequest
from qrcore.engine import EngineSettings
from qrcore.errors import ConfigError
from qrcore.loading import load_encoder
from qrcore.methods import qrhead
from qrcore.methods.qrhead import QRHeadScorer
from qrcore.packing import plan_passes
from tests.qrcore.families import DOCUMENTS, MODELS, FamilyModels, queries_of
from tests.qrcore.golden import FAMILIES, FOLDER, TOLERANCE, golden_cases, golden_scorer

SAME: Final = 1e-6
LISTS: Final = (DOCUMENTS, DOCUMENTS[::-1], DOCUMENTS[:1], DOCUMENTS[1:3])
QUESTIONS: Final = ("Where does the river go?", "Who collects nectar?", "What is the capital of Japan?", "N/A", "")

requests = st.lists(st.tuples(st.sampled_from(QUESTIONS), st.sampled_from(LISTS)), min_size=1, max_size=7)


def with_engine(scorer: QRHeadScorer, **engine: Any) -> QRHeadScorer:
    return QRHeadScorer(scorer.model, scorer.heads, scorer.settings, engine=EngineSettings(**engine))


def asked(pairs: Sequence[tuple[str, Sequence[Document]]]) -> list[RankRequest]:
    return [RankRequest(query, tuple(docs), str(place)) for place, (query, docs) in enumerate(pairs)]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("name", ["llama", "llama-dynamic", "gemma2", "phi3"])
@given(pairs=requests, pack_tokens=st.integers(1, 1500), chunk_tokens=st.integers(30, 400))
def test_neighbours_change_nothing(
    name: str, pairs: list[tuple[str, Sequence[Document]]], pack_tokens: int, chunk_tokens: int, family_models: Any
) -> None:
    scorer = family_models.scorer(name, "1-3,2-0,2-5,0-7")
    alone = list(with_engine(scorer, pack_tokens=0).rank_many(asked(pairs)))
    together = list(with_engine(scorer, pack_tokens=pack_tokens, chunk_tokens=chunk_tokens).rank_many(asked(pairs)))
    for one, other in zip(alone, together, strict=True):
        assert isinstance(one, Ranking) and isinstance(other, Ranking)
        assert one.query_id == other.query_id
        assert [d.doc_id for d in one.documents] == [d.doc_id for d in other.documents]
        assert [d.score for d in one.documents] == pytest.approx([d.score for d in other.documents], rel=0, abs=SAME)


@pytest.mark.parametrize("name", MODELS)
def test_every_family_reads_full_matrices_in_a_pack(name: str, family_models: FamilyModels) -> None:
    """Longer and shorter neighbours, a stranger's question on the same documents, and chunks within documents."""
    scorer, slow = family_models.scorer(name), family_models.slow_reading(name)
    query = queries_of(name)[0]
    mine = _shared_prompt(scorer, query, DOCUMENTS)
    copies = [replace(d, doc_id=f"{d.doc_id}-{i}") for i in range(3) for d in DOCUMENTS]
    others = [_shared_prompt(scorer, "why?", copies), _shared_prompt(scorer, "who?", DOCUMENTS[:1])]
    if name != "llama-dynamic":  # where another length changes the tables of all that share the documents
        mine = SharedPrompt(mine.prefix_ids, (mine.suffixes[0], others[1].suffixes[0], mine.suffixes[1]))
    heads = scorer.heads.head_list
    for chunk_tokens in (64, 4096):
        with torch.inference_mode():
            prompts = [others[0], mine, others[1]]
            _, attention, _ = read_packed(scorer.model.model, prompts, heads, chunk_tokens)
        for ours, theirs in ((attention[0], slow.query), (attention[-1], slow.null)):
            ours = ours[:, : len(mine.prefix_ids)].reshape(theirs.shape).double()
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def _shared_prompt(scorer: QRHeadScorer, query: str, docs: Sequence[Document]) -> SharedPrompt:
    encoded = scorer.encode(RankRequest(query, tuple(docs)))
    return qrhead._shared_prompt([encoded])


def test_one_rotary_table_for_all_segments_is_noticed(
    family_models: FamilyModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = family_models.scorer("llama-dynamic", "2-0,2-5")
    pairs = asked([("why?", DOCUMENTS), ("Who collects nectar?", DOCUMENTS[:1])])
    alone = list(with_engine(scorer, pack_tokens=0).rank_many(pairs))
    monkeypatch.setattr(rotary, "_depends_on_length", lambda rope_type: False)
    packed = list(with_engine(scorer, pack_tokens=4000).rank_many(pairs))
    assert alone[1].documents[0].score != pytest.approx(packed[1].documents[0].score, abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_golden_numbers_come_out_of_one_pass_over_all_cases(family: str) -> None:
    cases = [case for case in golden_cases(family).values() if not case.noise_only]
    scorer = with_engine(golden_scorer(family, "full"), pack_tokens=10**6, chunk_tokens=500)
    answers = list(scorer.rank_many([RankRequest(case.query, case.documents, case.id) for case in cases]))
    for case, answer in zip(cases, answers, strict=True):
        assert isinstance(answer, Ranking) and answer.query_id == case.id
        scores = {document.doc_id: document.score for document in answer.documents}
        assert scores == pytest.approx(case.scores["full"], rel=0, abs=TOLERANCE)


def test_equal_documents_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = with_engine(golden_scorer("llama", "subset"), pack_tokens=4000)
    seen: list[list[SharedPrompt]] = []

    def watched(model: Any, prompts: list[SharedPrompt], *others: Any) -> Any:
        seen.append(prompts)
        return read.read_packed(model, prompts, *others)

    monkeypatch.setattr(qrhead, "read_packed", watched)
    pairs = [("why?", DOCUMENTS), ("where?", DOCUMENTS[:2]), ("who?", DOCUMENTS), ("when?", DOCUMENTS)]
    assert [answer.query_id for answer in scorer.rank_many(asked(pairs))] == ["0", "1", "2", "3"]
    assert [[len(prompt.suffixes) for prompt in prompts] for prompts in seen] == [[4, 2]]


def test_an_error_stays_with_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass that runs out of memory is taken apart; only the request that does not fit alone fails."""
    scorer = with_engine(golden_scorer("llama", "subset"), pack_tokens=4000)

    def small_machine(model: Any, prompts: list[SharedPrompt], *others: Any) -> Any:
        if sum(len(prompt.prefix_ids) for prompt in prompts) > 120:
            raise MemoryError
        return read.read_packed(model, prompts, *others)

    monkeypatch.setattr(qrhead, "read_packed", small_machine)
    pairs = [("why?", DOCUMENTS[:1]), ("who?", DOCUMENTS), ("why?", ()), ("when?", DOCUMENTS[1:2])]
    answers = list(scorer.rank_many(asked(pairs)))
    assert [a.code if isinstance(a, ScoreError) else "ranked" for a in answers] == [
        "ranked", "oom", "no_candidates", "ranked",
    ]  # fmt: skip
    assert [answer.query_id for answer in answers] == ["0", "1", "2", "3"]


def test_what_cannot_fit_is_refused_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = golden_scorer("llama", "subset")
    short = loaded._memory.predict(150).total
    scorer = with_engine(loaded, memory_bytes=short)
    started: list[Any] = []

    def watched(*arguments: Any) -> Any:
        started.append(arguments)
        return read.read_packed(*arguments)

    monkeypatch.setattr(qrhead, "read_packed", watched)
    answers = list(scorer.rank_many(asked([("who?", DOCUMENTS), ("why?", DOCUMENTS[:1])])))
    assert isinstance(answers[0], ScoreError) and answers[0].code == "oom" and "predicted" in str(answers[0])
    assert isinstance(answers[1], Ranking)
    assert len(started) == 1


def test_passes_are_planned_within_the_memory_that_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = golden_scorer("llama", "subset")
    allowed = loaded._memory.predict(700).total
    scorer = with_engine(loaded, pack_tokens=4000, memory_bytes=allowed)
    passes: list[list[SharedPrompt]] = []

    def watched(model: Any, prompts: list[SharedPrompt], *others: Any) -> Any:
        passes.append(prompts)
        return read.read_packed(model, prompts, *others)

    monkeypatch.setattr(qrhead, "read_packed", watched)
    lists = [DOCUMENTS, DOCUMENTS[::-1], DOCUMENTS[1:], DOCUMENTS[:-1], DOCUMENTS[2:]]
    answers = list(scorer.rank_many(asked([("who?", documents) for documents in lists])))
    assert all(isinstance(answer, Ranking) for answer in answers)
    sizes = [sum(len(p.prefix_ids) + sum(len(s.ids) for s in p.suffixes) for p in prompts) for prompts in passes]
    assert max(sizes) <= 700
    assert max(map(len, passes)) > 1, "lists share a pass where they fit"
    assert all(one + other > 700 for one, other in pairwise(sizes)), "and none is taken apart that would have fitted"


def test_an_encoder_without_weights_encodes_as_the_scorer_does() -> None:
    settings_: dict[str, Any] = {"heads": "1-0", "order": "reversed", "query_span": "query"}
    model = str(FOLDER / "models" / "llama")
    request = RankRequest("Where does the river go?", DOCUMENTS, "q")
    ours, theirs = load_encoder(model, **settings_).encode(request), load_scorer(model, **settings_).encode(request)
    for name in ("prefix_ids", "query_ids", "null_ids"):
        assert getattr(ours, name).tolist() == getattr(theirs, name).tolist()
    for name in ("request", "query_rows", "null_rows", "document_spans", "prompt_order", "uninformative"):
        assert getattr(ours, name) == getattr(theirs, name)
    with pytest.raises(ScoreError, match="got an empty string"):
        load_encoder(model, **settings_).encode(RankRequest("", DOCUMENTS))


def test_encoded_requests_travel_and_carry_no_texts() -> None:
    scorer = golden_scorer("llama", "subset")
    encoded = [scorer.encode(request) for request in asked([("why?", DOCUMENTS), ("who?", DOCUMENTS)])]
    assert all(document.text not in str(encoded[0].request) for document in DOCUMENTS)
    there = pickle.loads(pickle.dumps(encoded))
    expected = list(scorer.rank_many(asked([("why?", DOCUMENTS), ("who?", DOCUMENTS)])))
    assert list(scorer.rank_encoded(there)) == expected


lengths = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 9)), min_size=1, max_size=30)


@given(rows=lengths, pack_tokens=st.integers(0, 60))
def test_passes_hold_every_request_once_and_stay_within_the_budget(
    rows: list[tuple[int, int]], pack_tokens: int
) -> None:
    entries = [_entry(documents, query) for documents, query in rows]
    passes = plan_passes(entries, pack_tokens)
    assert passes == plan_passes(entries, pack_tokens)
    groups = [group for one in passes for group in one]
    assert sorted(place for group in groups for place in group.places) == list(range(len(rows)))
    for one in passes:
        assert len(one) == 1 or sum(group.tokens for group in one) <= pack_tokens
    for group in groups:
        assert len({rows[place][0] for place in group.places}) == 1
        queries = [rows[place][1] for place in group.places]
        assert len(queries) == 1 or (pack_tokens > 0 and sum(queries) <= pack_tokens)
        assert group.tokens == 10 * (rows[group.places[0]][0] + 1) + sum(queries) + 3
    if pack_tokens == 0:
        assert all(len(one) == 1 and len(one[0].places) == 1 for one in passes)


def _entry(documents: int, query: int) -> EncodedRequest:
    ids = torch.full((10 * (documents + 1),), documents, dtype=torch.int32).numpy()
    suffix = torch.zeros(9, dtype=torch.int32).numpy()
    rows = read.Span(0, 1)
    return EncodedRequest(RankRequest("q", ()), ids, suffix[:query], rows, suffix[:3], rows, (), (), False)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"pack_tokens": -1}, "pack_tokens"),
        ({"chunk_tokens": 0}, "chunk_tokens"),
        ({"attention_kernel": "x"}, "kernel"),
    ],
)
def test_engine_settings_that_make_no_sense_are_refused(engine: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EngineSettings(**engine)


def test_suffixes_are_plain_ids_or_arrays() -> None:
    model = golden_scorer("llama", "subset").model.model
    as_array = torch.arange(5, 30, dtype=torch.int32).numpy()
    rows, heads = read.Span(0, 3), golden_scorer("llama", "subset").heads.head_list[:1]
    one = read_packed(model, [SharedPrompt(tuple(range(5, 30)), (Suffix((7, 8, 9), rows),))], heads)
    other = read_packed(model, [SharedPrompt(as_array, (Suffix(as_array[2:5], rows),))], heads)
    assert torch.equal(one[0][0], other[0][0])
