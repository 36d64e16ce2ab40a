"""Retrieval samples: the scorer's own prompt, and marks of what is asked and answered."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import fields, replace

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from qrcore.methods.qrhead import QRHeadSettings
from qrcore.prompts import EMBEDDED
from qrcore.records import Document, Span
from qrcore.tokens import PromptEncoder
from qrcore.training.passages import Ids, Limits, Passage, PassageBuilder, PassageCollection, Sentence
from qrcore.training.queries import QueryMix, QueryWriter, WritingShares
from qrcore.training.retrieval import RE_ASKING, LossWeights, PromptTokens, RetrievalShape, RetrievalTask
from qrcore.training.samples import (
    COPY,
    INDEX,
    NO_DOCUMENT,
    NOTHING,
    PLAIN,
    SHARED,
    VERDICT,
    Sample,
)  # fmt: skip
from tests.qrcore.training.retrieval_samples import (
    answered_document,
    blocks_of,
    contains,
    draw_samples,
    tokens_of_document,
)


def test_every_question_block_begins_right_after_the_documents(task: RetrievalTask) -> None:
    for sample in draw_samples(task, null_queries=0.5):
        after = int(sample.positions[sample.blocks == SHARED].max()) + 1
        for places in blocks_of(sample):
            assert sample.positions[places].tolist() == list(range(after, after + len(places)))


def test_position_gaps_stay_within_the_span_and_shift_documents(task: RetrievalTask) -> None:
    for sample in draw_samples(task, count=10, position_span=3000):
        shared = sample.positions[sample.blocks == SHARED]
        assert (np.diff(shared) >= 1).all()
        assert int(shared.max()) <= 3000
    widest = max(int(sample.positions.max()) for sample in draw_samples(task, position_span=3000))
    assert widest > 1500


# The scorer's prompt


@pytest.mark.parametrize("seed", range(6))
def test_prompt_documents_and_query_are_the_scorers_token_by_token(
    collection: PassageCollection,
    prompt: PromptTokens,
    builder: PassageBuilder,
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
) -> None:
    """A sample is decoded to texts, and the texts are given to the scorer's encoder."""
    # Cut words are other tokens when they are read again.
    task = RetrievalTask(collection, prompt, QueryWriter(builder, WritingShares(cut=0.0)))
    shape = RetrievalShape(length=320, position_span=320, mix=QueryMix(), titled=0.5, null_queries=0.0)
    sample = task.sample(np.random.default_rng(seed), shape)
    first = blocks_of(sample)[0]
    stop = int(np.flatnonzero(sample.ids[first] == tokenizer.convert_tokens_to_ids("<assistant>"))[0]) + 1
    asking = first[:stop]
    query = tokenizer.decode(sample.ids[asking[:-2]])
    documents = [_as_document(tokenizer, sample, number) for number in range(int(sample.documents.max()) + 1)]

    encoded = PromptEncoder(tokenizer).encode(EMBEDDED, query, documents)

    shared = int((sample.blocks == SHARED).sum())
    assert encoded.ids == (*sample.ids[:shared].tolist(), *sample.ids[asking].tolist())
    for number, span in enumerate(encoded.document_spans):
        content = np.flatnonzero(sample.documents == number)
        mark = np.flatnonzero(sample.marks == number)
        assert [*mark, *content] == list(range(span.start, span.stop))
        assert sample.ids[mark].tolist() == prompt.indices[number].tolist()
    assert encoded.query_span == Span(shared, shared + len(asking) - 2)
    assert np.flatnonzero(sample.asked[: shared + len(first)] != NO_DOCUMENT).tolist() == list(
        range(encoded.query_span.start, len(encoded.ids))
    )


def _as_document(tokenizer: PreTrainedTokenizerFast, sample: Sample, number: int) -> Document:
    """Its first word as the title: which of its tokens are, a sample does not say."""
    title, text = tokenizer.decode(tokens_of_document(sample, number)).split(" ", 1)
    return Document(f"d{number}", text, title)


def test_titles_are_shown_as_often_as_asked(
    collection: PassageCollection, prompt: PromptTokens, builder: PassageBuilder
) -> None:
    """A title is words of the document: what is shown is then no piece of a passage any more."""
    task = RetrievalTask(collection, prompt, QueryWriter(builder))
    whole = [passage.ids.tolist() for passage in collection.passages]
    mix = QueryMix(removed=0.0)
    for share, low, high in ((0.0, 0.0, 0.0), (0.5, 0.2, 0.8), (1.0, 1.0, 1.0)):
        shown = [
            any(contains(ids, tokens_of_document(sample, number)) for ids in whole)
            for sample in draw_samples(task, count=6, titled=share, mix=mix)
            for number in range(int(sample.documents.max()) + 1)
        ]
        assert low <= 1 - np.mean(shown) <= high


def test_documents_stand_in_the_shared_part_each_once_and_whole(task: RetrievalTask) -> None:
    for sample in draw_samples(task):
        numbers = sample.documents[sample.documents != NO_DOCUMENT]
        assert (np.diff(numbers) >= 0).all()
        assert set(numbers.tolist()) == set(range(int(numbers.max()) + 1))
        assert (sample.blocks[sample.documents != NO_DOCUMENT] == SHARED).all()
        assert (sample.blocks[sample.asked != NO_DOCUMENT] != SHARED).all()


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_numbers_skip_in_as_many_samples_as_asked_and_always_rise(
    task: RetrievalTask, prompt: PromptTokens, share: float
) -> None:
    number_of = {ids.tobytes(): number for number, ids in enumerate(prompt.indices)}
    skips, highest = [], 0
    for sample in draw_samples(task, skipping=share):
        marks = [sample.ids[sample.marks == number] for number in range(int(sample.marks.max()) + 1)]
        numbers = [number_of[mark.astype(np.int32).tobytes()] for mark in marks]
        assert numbers == sorted(set(numbers))
        skips.append(numbers != list(range(len(numbers))))
        highest = max(highest, *numbers)
        named = sample.ids[sample.roles == INDEX].astype(np.int32)
        assert {number_of[token.tobytes()] for token in named} <= set(numbers)
    assert abs(np.mean(skips) - share) <= 0.25
    assert (highest > 50) == (share > 0)


def test_documents_take_no_larger_share_of_the_sample_than_asked(task: RetrievalTask) -> None:
    for largest in ((0.1, 0.15), (0.2, 0.25)):
        longest = [
            int(np.bincount(sample.documents[sample.documents >= 0]).max())
            for sample in draw_samples(task, largest=largest, titled=0.0)
        ]
        assert max(longest) <= 256 * largest[1]
    assert max(longest) > 256 * 0.15


# Questions and answers


def test_a_query_asks_for_one_document(task: RetrievalTask) -> None:
    for sample in draw_samples(task):
        for places in blocks_of(sample):
            assert len(set(sample.asked[places].tolist()) - {NO_DOCUMENT}) == 1


class _Recorder(QueryWriter):
    """Keeps how many words it was allowed."""

    most: set[int]

    def words(self, rng: np.random.Generator, passage: Passage, sentence: Sentence, most: int = 0) -> Ids:
        self.most.add(most)
        return super().words(rng, passage, sentence, most)


@pytest.mark.parametrize(("share", "expected"), [(0.0, {7}), (0.5, {7, 14}), (1.0, {14})])
def test_long_queries_may_take_twice_as_many_words(
    collection: PassageCollection, prompt: PromptTokens, builder: PassageBuilder, share: float, expected: set[int]
) -> None:
    writer = _Recorder(builder)
    writer.most = set()
    mix = QueryMix(question=0, words=1, span=0, removed=0, long=share)
    draw_samples(RetrievalTask(collection, prompt, writer), count=10, mix=mix)
    assert writer.most == expected


def test_the_null_query_asks_for_nothing_and_is_never_learned(task: RetrievalTask, prompt: PromptTokens) -> None:
    for sample in draw_samples(task, count=10, null_queries=1.0):
        null, *others = blocks_of(sample)
        assert sample.ids[null].tolist() == [*prompt.null_query, *prompt.answer]
        assert (sample.asked[null] == NOTHING).all()
        assert not sample.weights[null].any()
        assert (sample.roles[null] == PLAIN).all()
        assert all(NOTHING not in sample.asked[places] for places in others)
    with_null = [NOTHING in sample.asked for sample in draw_samples(task, count=80, null_queries=0.3)]
    assert 0.1 < np.mean(with_null) < 0.5


def test_the_null_query_is_the_scorers(prompt: PromptTokens, builder: PassageBuilder) -> None:
    assert prompt.null_query.tolist() == builder.encode(QRHeadSettings(EMBEDDED).null_query).tolist()


def test_the_first_token_of_a_block_is_never_learned(task: RetrievalTask) -> None:
    for sample in draw_samples(task, null_queries=0.5):
        first = np.flatnonzero(np.diff(sample.blocks, prepend=0) != 0)
        assert (sample.weights[first] == 0).all()
        assert (sample.weights[sample.roles == INDEX] > 0).all()


def test_removed_sentences_are_asked_for_and_not_shown(task: RetrievalTask) -> None:
    """Answers without a sentence: only the document can be told."""
    mix = QueryMix(question=0, words=0, span=0, removed=1)
    samples = draw_samples(task, mix=mix)
    empty = [places for sample in samples for places in blocks_of(sample) if not (sample.roles[places] == COPY).any()]
    assert len(empty) > 20


# Asked again


def test_an_answer_that_is_right_is_learned_and_a_wrong_one_only_judged(
    task: RetrievalTask, prompt: PromptTokens, builder: PassageBuilder, tokenizer: PreTrainedTokenizerFast
) -> None:
    number_of = {ids.tobytes(): number for number, ids in enumerate(prompt.indices)}
    word = {right: builder.encode(text).tolist() for right, text in ((True, "yes"), (False, "no"))}
    again = [*tokenizer.convert_tokens_to_ids(["<user>"]), *builder.encode(RE_ASKING)]
    answer_tag = tokenizer.convert_tokens_to_ids(["<end>", "<assistant>"])
    counts: Counter[bool] = Counter()
    mix = QueryMix(question=0.5, words=0.5, span=0, removed=0, reasked=1.0)
    for sample in draw_samples(task, mix=mix):
        for places in blocks_of(sample):
            (asked,) = set(sample.asked[places].tolist()) - {NO_DOCUMENT}
            named = answered_document(sample, places, prompt, number_of)
            right = named == asked
            counts[right] += 1
            answered = np.isin(sample.roles[places], (INDEX, COPY))
            assert (sample.weights[places[answered]] > 0).all() == right
            assert (sample.weights[places[answered]] == 0).all() == (not right)
            verdict = np.flatnonzero(sample.roles[places] == VERDICT)
            assert sample.ids[places[verdict]].tolist() == word[right]
            assert (sample.weights[places[verdict]] > 0).all()
            before = sample.ids[places[: verdict[0]]].tolist()
            assert before[-len(again) - 2 :] == [*again, *answer_tag]
            last_of_answer = before[: -len(again) - 2][-1]
            assert last_of_answer == prompt.end[0]
            assert (sample.weights[places[verdict[0] - len(again) - 2 : verdict[0]]] == 0).all()
            assert sample.ids[places[-1]] == prompt.end[0]
            copied = sample.ids[places[sample.roles[places] == COPY]].tolist()
            assert contains(tokens_of_document(sample, named), copied)
    assert min(counts[True], counts[False]) > 0.3 * sum(counts.values())


def test_only_the_asked_share_is_asked_again(task: RetrievalTask) -> None:
    def share(reasked: float) -> float:
        samples = draw_samples(task, mix=QueryMix(reasked=reasked))
        return float(np.mean([(s.roles[places] == VERDICT).any() for s in samples for places in blocks_of(s)]))

    assert share(0.0) == 0.0
    assert 0.3 < share(0.5) < 0.7
    assert share(1.0) == 1.0


# Permuted tokens


def test_permuted_samples_keep_the_frame_and_change_the_words(task: RetrievalTask, prompt: PromptTokens) -> None:
    for fixed in (prompt.null_query, prompt.ask, prompt.ask_again, *prompt.verdicts.values()):
        assert not np.isin(fixed, prompt.ordinary).any()
    plain, permuted = (draw_samples(task, count=1, permuted=share)[0] for share in (0.0, 1.0))
    ordinary = np.isin(plain.ids, prompt.ordinary)
    assert (plain.ids[~ordinary] == permuted.ids[~ordinary]).all()
    assert (plain.ids[ordinary] != permuted.ids[ordinary]).mean() > 0.9
    pairs = set(zip(plain.ids.tolist(), permuted.ids.tolist(), strict=True))
    assert len(pairs) == len(set(plain.ids.tolist())) == len(set(permuted.ids.tolist())), "one for one"
    for name in {field.name for field in fields(Sample)} - {"ids"}:
        assert (getattr(plain, name) == getattr(permuted, name)).all()


def test_the_recipe_tells_shares_weights_and_limits_apart(
    collection: PassageCollection, prompt: PromptTokens, builder: PassageBuilder
) -> None:
    usual = RetrievalTask(collection, prompt, QueryWriter(builder)).recipe
    others = (
        RetrievalTask(collection, prompt, QueryWriter(builder, WritingShares(cut=0.5))).recipe,
        RetrievalTask(collection, prompt, QueryWriter(builder), LossWeights(index=2.0)).recipe,
        RetrievalTask(replace(collection, limits=Limits(40, 300)), prompt, QueryWriter(builder)).recipe,
    )
    assert usual == RetrievalTask(collection, prompt, QueryWriter(builder)).recipe
    assert json.loads(json.dumps(usual)).keys() == usual.keys()
    assert all(usual != other for other in others)
