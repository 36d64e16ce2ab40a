"""Answers in retrieval samples: where they stand, what they copy, and what misleads."""

from __future__ import annotations

import numpy as np
from transformers import PreTrainedTokenizerFast

from qrcore.training.passages import PassageBuilder
from qrcore.training.queries import QueryMix
from qrcore.training.retrieval import PromptTokens, RetrievalTask
from qrcore.training.samples import (
    COPY,
    INDEX,
    NO_DOCUMENT,
    NO_SOURCE,
)  # fmt: skip
from tests.qrcore.training.retrieval_samples import (
    answered_document,
    blocks_of,
    contains,
    draw_samples,
    tokens_of_document,
)
from tests.qrcore.training.texts import sentence


def test_the_query_up_to_the_answer_asks_for_the_document_that_answers(
    task: RetrievalTask, prompt: PromptTokens, tokenizer: PreTrainedTokenizerFast
) -> None:
    assistant = tokenizer.convert_tokens_to_ids("<assistant>")
    number_of = {ids.tobytes(): number for number, ids in enumerate(prompt.indices)}
    for sample in draw_samples(task, mix=QueryMix(reasked=0.5)):
        for places in blocks_of(sample):
            stop = int(np.flatnonzero(sample.ids[places] == assistant)[0]) + 1
            asked = set(sample.asked[places[:stop]].tolist())
            assert (sample.asked[places[stop:]] == NO_DOCUMENT).all()
            weighed = places[(sample.roles[places] == INDEX) & (sample.weights[places] > 0)]
            if len(weighed):
                assert asked == {answered_document(sample, places, prompt, number_of)}
            assert len(asked) == 1
            assert asked < set(range(int(sample.documents.max()) + 1))


def test_answers_copy_a_sentence_of_the_document_that_they_name(task: RetrievalTask, prompt: PromptTokens) -> None:
    number_of = {ids.tobytes(): number for number, ids in enumerate(prompt.indices)}
    copied = 0
    for sample in draw_samples(task):
        for places in blocks_of(sample):
            answer = sample.ids[places[sample.roles[places] == COPY]].tolist()
            assert sample.ids[places[-1]] == prompt.end[0]
            assert contains(tokens_of_document(sample, answered_document(sample, places, prompt, number_of)), answer)
            copied += len(answer)
    assert copied > 1000


def test_each_copied_token_knows_the_place_that_it_is_copied_from(task: RetrievalTask) -> None:
    copied = 0
    for sample in draw_samples(task, mix=QueryMix(reasked=0.3, answered=0.7)):
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
    for sample in draw_samples(task, mix=QueryMix(question=0.0)):
        for number in set(sample.sentences.tolist()) - {NO_DOCUMENT}:
            places = np.flatnonzero(sample.sentences == number)
            # A sentence without content words is never asked for, and counts as the end of the one before it.
            assert sample.ids[places].astype(np.int32).tobytes().startswith(tuple(known))
            assert len(set(sample.documents[places].tolist())) == 1
        for places in blocks_of(sample):
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
    for sample in draw_samples(task, mix=QueryMix(removed=0.0, misled=1.0)):
        for places in blocks_of(sample):
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
        blocks = [
            s.roles[p] for s in draw_samples(task, mix=QueryMix(removed=0, answered=answered)) for p in blocks_of(s)
        ]
        assert all((roles == INDEX).any() for roles in blocks)
        assert all(roles[-1] == INDEX for roles in blocks if not (roles == COPY).any())
        return float(np.mean([(roles == COPY).any() for roles in blocks]))

    assert shares(0.0) == 0.0
    assert 0.3 < shares(0.5) < 0.7
    assert shares(1.0) == 1.0
