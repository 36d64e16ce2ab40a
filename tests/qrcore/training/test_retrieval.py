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
    NO_SOURCE,
    NOTHING,
    PLAIN,
    SHARED,
    VERDICT,
    Sample,
)  # fmt: skip
from tests.qrcore.training.texts import sentence


def _samples(task: RetrievalTask, count: int = 40, **changes: object) -> list[Sample]:
    usual = {"length": 256, "position_span": 256, "mix": QueryMix(), "null_queries": 0.0}
    shape = RetrievalShape(**(usual | changes))  # type: ignore[arg-type]
    return [task.sample(np.random.default_rng(seed), shape) for seed in range(count)]


def _blocks(sample: Sample) -> list[np.ndarray]:
    """The places of each question block's tokens."""
    return [np.flatnonzero(sample.blocks == block) for block in range(1, int(sample.blocks.max()) + 1)]


def _contains(whole: list[int], part: list[int]) -> bool:
    return any(whole[i : i + len(part)] == part for i in range(len(whole) - len(part) + 1))


def _document(sample: Sample, number: int) -> list[int]:
    return sample.ids[sample.documents == number].tolist()


# Blocks and positions


def test_every_question_block_begins_right_after_the_documents(task: RetrievalTask) -> None:
    for sample in _samples(task, null_queries=0.5):
        after = int(sample.positions[sample.blocks == SHARED].max()) + 1
        for places in _blocks(sample):
            assert sample.positions[places].tolist() == list(range(after, after + len(places)))


def test_position_gaps_stay_within_the_span_and_shift_documents(task: RetrievalTask) -> None:
    for sample in _samples(task, count=10, position_span=3000):
        shared = sample.positions[sample.blocks == SHARED]
        assert (np.diff(shared) >= 1).all()
        assert int(shared.max()) <= 3000
    widest = max(int(sample.positions.max()) for sample in _samples(task, position_span=3000))
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
    first = _blocks(sample)[0]
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
    title, text = tokenizer.decode(_document(sample, number)).split(" ", 1)
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
            any(_contains(ids, _document(sample, number)) for ids in whole)
            for sample in _samples(task, count=6, titled=share, mix=mix)
            for number in range(int(sample.documents.max()) + 1)
        ]
        assert low <= 1 - np.mean(shown) <= high


def test_documents_stand_in_the_shared_part_each_once_and_whole(task: RetrievalTask) -> None:
    for sample in _samples(task):
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
    for sample in _samples(task, skipping=share):
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
            for sample in _samples(task, largest=largest, titled=0.0)
        ]
        assert max(longest) <= 256 * largest[1]
    assert max(longest) > 256 * 0.15


# Questions and answers


def test_the_query_up_to_the_answer_asks_for_the_document_that_answers(
    task: RetrievalTask, prompt: PromptTokens, tokenizer: PreTrainedTokenizerFast
) -> None:
    assistant = tokenizer.convert_tokens_to_ids("<assistant>")
    number_of = {ids.tobytes(): number for number, ids in enumerate(prompt.indices)}
    for sample in _samples(task, mix=QueryMix(reasked=0.5)):
        for places in _blocks(sample):
            stop = int(np.flatnonzero(sample.ids[places] == assistant)[0]) + 1
            asked = set(sample.asked[places[:stop]].tolist())
            assert (sample.asked[places[stop:]] == NO_DOCUMENT).all()
            weighed = places[(sample.roles[places] == INDEX) & (sample.weights[places] > 0)]
            if len(weighed):
                assert asked == {_named(sample, places, prompt, number_of)}
            assert len(asked) == 1
            assert asked < set(range(int(sample.documents.max()) + 1))


def _named(sample: Sample, places: np.ndarray, prompt: PromptTokens, number_of: dict[bytes, int]) -> int:
    """The document that a block's answer names."""
    index = int(np.flatnonzero(sample.roles[places] == INDEX)[0])
    size = len(prompt.indices[0])
    for first in range(max(0, index - size + 1), index + 1):
        number = number_of.get(sample.ids[places[first : first + size]].astype(np.int32).tobytes())
        if number is not None:
            return number
    raise AssertionError("no mark of a document at the answer")


def test_answers_copy_a_sentence_of_the_document_that_they_name(task: RetrievalTask, prompt: PromptTokens) -> None:
    number_of = {ids.tobytes(): number for number, ids in enumerate(prompt.indices)}
    copied = 0
    for sample in _samples(task):
        for places in _blocks(sample):
            answer = sample.ids[places[sample.roles[places] == COPY]].tolist()
            assert sample.ids[places[-1]] == prompt.end[0]
            assert _contains(_document(sample, _named(sample, places, prompt, number_of)), answer)
            copied += len(answer)
    assert copied > 1000


def test_each_copied_token_knows_the_place_that_it_is_copied_from(task: RetrievalTask) -> None:
    copied = 0
    for sample in _samples(task, mix=QueryMix(reasked=0.3, answered=0.7)):
        places = np.flatnonzero(sample.sources != NO_SOURCE)
        sources = sample.sources[places]
        assert (sample.ids[places] == sample.ids[sources]).all()
        assert (sample.roles[places] == COPY).all()
        assert (sample.sentences[sources] != NO_DOCUMENT).all()
        learned = (sample.roles == COPY) & (sample.weights > 0)
        assert (learned[places]).all()
        assert learned.sum() == len(places)
        for place in places:
            if sample.roles[place - 1] == INDEX:
                assert sample.sentences[sample.sources[place]] == sample.asked_sentences[place - 1]
            else:
                assert sample.sources[place] == sample.sources[place - 1] + 1
        copied += len(places)
    assert copied > 1000


def test_sentences_are_marked_where_they_stand_and_by_the_queries_that_they_answer(
    task: RetrievalTask, builder: PassageBuilder
) -> None:
    known = [builder.encode(sentence(number)).tobytes() for number in (*range(4 * 180), *range(4 * 500, 4 * 508))]
    copied = 0
    for sample in _samples(task, mix=QueryMix(question=0.0)):
        for number in set(sample.sentences.tolist()) - {NO_DOCUMENT}:
            places = np.flatnonzero(sample.sentences == number)
            # A sentence without content words is never asked for, and counts as the end of the one before it.
            assert sample.ids[places].astype(np.int32).tobytes().startswith(tuple(known))
            assert len(set(sample.documents[places].tolist())) == 1
        for places in _blocks(sample):
            asking = sample.asked[places] != NO_DOCUMENT
            (asked,) = set(sample.asked_sentences[places[asking]].tolist())
            asking |= sample.roles[places] == INDEX
            assert set(sample.asked_sentences[places[asking]].tolist()) == {asked}
            assert (sample.asked_sentences[places[~asking]] == NO_DOCUMENT).all()
            answer = sample.ids[places[sample.roles[places] == COPY]].tolist()
            shown = sample.ids[sample.sentences == asked].tolist() if asked != NO_DOCUMENT else []
            assert shown[: len(answer)] == answer
            assert bool(shown) == bool(answer)
            copied += len(answer)
    assert copied > 1000


def test_misled_answers_go_on_from_where_they_began(task: RetrievalTask) -> None:
    begins = []
    for sample in _samples(task, mix=QueryMix(removed=0.0, misled=1.0)):
        for places in _blocks(sample):
            copied = places[sample.roles[places] == COPY]
            sources = sample.sources[copied]
            assert sample.weights[copied[:2]].tolist() == [0.0, 0.0]
            assert sources[:2].tolist() == [NO_SOURCE, NO_SOURCE]
            assert (sample.weights[copied[2:]] > 0).all()
            assert sources[2:].tolist() == list(range(int(sources[2]), int(sources[2]) + len(sources) - 2))
            assert sample.ids[copied].tolist() == sample.ids[sources[2] - 2 + np.arange(len(copied))].tolist()
            named = sample.asked[places[0]]
            assert (sample.documents[sources[2:]] == named).all()
            begins.append(sample.sentences[sources[2] - 2] != sample.sentences[sources[2] - 3])
    assert 0.02 < np.mean(begins) < 0.3, "most begin within a sentence"


def test_some_answers_are_the_number_alone(task: RetrievalTask, prompt: PromptTokens) -> None:
    def shares(answered: float) -> float:
        blocks = [s.roles[p] for s in _samples(task, mix=QueryMix(removed=0, answered=answered)) for p in _blocks(s)]
        assert all((roles == INDEX).any() for roles in blocks)
        assert all(roles[-1] == INDEX for roles in blocks if not (roles == COPY).any())
        return float(np.mean([(roles == COPY).any() for roles in blocks]))

    assert shares(0.0) == 0.0
    assert 0.3 < shares(0.5) < 0.7
    assert shares(1.0) == 1.0


def test_a_query_asks_for_one_document(task: RetrievalTask) -> None:
    for sample in _samples(task):
        for places in _blocks(sample):
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
    _samples(RetrievalTask(collection, prompt, writer), count=10, mix=mix)
    assert writer.most == expected


def test_the_null_query_asks_for_nothing_and_is_never_learned(task: RetrievalTask, prompt: PromptTokens) -> None:
    for sample in _samples(task, count=10, null_queries=1.0):
        null, *others = _blocks(sample)
        assert sample.ids[null].tolist() == [*prompt.null_query, *prompt.answer]
        assert (sample.asked[null] == NOTHING).all()
        assert not sample.weights[null].any()
        assert (sample.roles[null] == PLAIN).all()
        assert all(NOTHING not in sample.asked[places] for places in others)
    with_null = [NOTHING in sample.asked for sample in _samples(task, count=80, null_queries=0.3)]
    assert 0.1 < np.mean(with_null) < 0.5


def test_the_null_query_is_the_scorers(prompt: PromptTokens, builder: PassageBuilder) -> None:
    assert prompt.null_query.tolist() == builder.encode(QRHeadSettings(EMBEDDED).null_query).tolist()


def test_the_first_token_of_a_block_is_never_learned(task: RetrievalTask) -> None:
    for sample in _samples(task, null_queries=0.5):
        first = np.flatnonzero(np.diff(sample.blocks, prepend=0) != 0)
        assert (sample.weights[first] == 0).all()
        assert (sample.weights[sample.roles == INDEX] > 0).all()


def test_removed_sentences_are_asked_for_and_not_shown(task: RetrievalTask) -> None:
    """Answers without a sentence: only the document can be told."""
    mix = QueryMix(question=0, words=0, span=0, removed=1)
    samples = _samples(task, mix=mix)
    empty = [places for sample in samples for places in _blocks(sample) if not (sample.roles[places] == COPY).any()]
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
    for sample in _samples(task, mix=mix):
        for places in _blocks(sample):
            (asked,) = set(sample.asked[places].tolist()) - {NO_DOCUMENT}
            named = _named(sample, places, prompt, number_of)
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
            assert _contains(_document(sample, named), copied)
    assert min(counts[True], counts[False]) > 0.3 * sum(counts.values())


def test_only_the_asked_share_is_asked_again(task: RetrievalTask) -> None:
    def share(reasked: float) -> float:
        samples = _samples(task, mix=QueryMix(reasked=reasked))
        return float(np.mean([(s.roles[places] == VERDICT).any() for s in samples for places in _blocks(s)]))

    assert share(0.0) == 0.0
    assert 0.3 < share(0.5) < 0.7
    assert share(1.0) == 1.0


# Permuted tokens


def test_permuted_samples_keep_the_frame_and_change_the_words(task: RetrievalTask, prompt: PromptTokens) -> None:
    for fixed in (prompt.null_query, prompt.ask, prompt.ask_again, *prompt.verdicts.values()):
        assert not np.isin(fixed, prompt.ordinary).any()
    plain, permuted = (_samples(task, count=1, permuted=share)[0] for share in (0.0, 1.0))
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
