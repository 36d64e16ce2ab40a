"""Queries of training samples: made of their sentence's words, and of nothing else."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from qrcore.training.passages import Ids, Passage, PassageBuilder, Sentence
from qrcore.training.queries import QueryMix, QueryWriter, WritingShares

#: Twelve words of two tokens each, 1000 and 1001 to 1110 and 1111, with a small word of token 7 after each.
_WORDS = 12
_PASSAGE = Passage(
    group=0,
    ids=np.array([token for word in range(_WORDS) for token in (1000 + 10 * word, 1001 + 10 * word, 7)], np.int32),
    sentences=(Sentence(0, 3 * _WORDS, tuple((3 * word, 3 * word + 2) for word in range(_WORDS))),),
)


def _words(ids: Ids) -> list[int]:
    """The numbers of the words that `ids` consist of; a word that was cut has lost its second token."""
    assert set(ids.tolist()) <= {1000 + 10 * word + part for word in range(_WORDS) for part in (0, 1)}
    starts = [token for token in ids.tolist() if token % 10 == 0]
    return [(token - 1000) // 10 for token in starts]


def _written(writer: QueryWriter, count: int = 200, most: int = 7) -> list[Ids]:
    rng = np.random.default_rng(0)
    return [writer.words(rng, _PASSAGE, _PASSAGE.sentences[0], most) for _ in range(count)]


def test_the_question_mark_is_dropped_half_of_the_time_and_nothing_else(builder: PassageBuilder) -> None:
    writer, rng = QueryWriter(builder), np.random.default_rng(0)
    question = builder.encode("Which harbour? is known for its lantern?")
    written = [writer.question(rng, question).tolist() for _ in range(400)]
    assert {tuple(ids) for ids in written} == {tuple(question.tolist()), tuple(question[:-1].tolist())}
    dropped = sum(len(ids) < len(question) for ids in written)
    assert 160 < dropped < 240


@pytest.mark.parametrize("text", ["which harbour is known for its lantern", "?", "who saw it ? then"])
def test_other_questions_stay_as_they_are(builder: PassageBuilder, text: str) -> None:
    writer, rng, question = QueryWriter(builder), np.random.default_rng(0), builder.encode(text)
    assert all(writer.question(rng, question).tolist() == question.tolist() for _ in range(30))


@pytest.mark.parametrize("most", [2, 5, 14])
def test_two_to_most_different_content_words_are_taken_in_their_order(builder: PassageBuilder, most: int) -> None:
    found = [
        _words(ids) for ids in _written(QueryWriter(builder, WritingShares(shuffled=0, wrapped=0, cut=0)), most=most)
    ]
    assert {len(words) for words in found} == set(range(2, min(most, _WORDS) + 1))
    assert all(words == sorted(set(words)) for words in found)
    assert {word for words in found for word in words} == set(range(_WORDS))


def test_words_are_shuffled_as_often_as_asked(builder: PassageBuilder) -> None:
    found = [_words(ids) for ids in _written(QueryWriter(builder, WritingShares(shuffled=0.5, wrapped=0, cut=0)))]
    long = [words for words in found if len(words) > 3]
    assert 0.3 < np.mean([words == sorted(words) for words in long]) < 0.7


def test_words_are_put_as_a_question_as_often_as_asked(builder: PassageBuilder) -> None:
    mark = int(builder.encode("?")[0])
    found = _written(QueryWriter(builder, WritingShares(wrapped=0.5, cut=0)))
    wrapped = [ids.tolist() for ids in found if ids[-1] == mark]
    assert 70 < len(wrapped) < 130
    assert all(ids[0] < 1000 for ids in wrapped), "an opening before the words"
    assert all(_words(ids) for ids in found if ids[-1] != mark)


def test_a_word_that_is_cut_keeps_its_first_token(builder: PassageBuilder) -> None:
    for ids in _written(QueryWriter(builder, WritingShares(wrapped=0, cut=1.0))):
        assert len(_words(ids)) == len(ids), "one token a word"
    half = np.concatenate(_written(QueryWriter(builder, WritingShares(wrapped=0, cut=0.5))))
    assert 0.4 < np.mean(half % 10 == 1) / np.mean(half % 10 == 0) < 0.6


def test_a_span_is_a_piece_of_the_sentence_between_content_words(builder: PassageBuilder) -> None:
    writer, rng = QueryWriter(builder), np.random.default_rng(0)
    pieces = {_PASSAGE.ids[3 * a : 3 * b + 2].tobytes() for a in range(_WORDS) for b in range(a + 1, _WORDS)}
    spans = [writer.span(rng, _PASSAGE, _PASSAGE.sentences[0]).tobytes() for _ in range(100)]
    assert set(spans) <= pieces
    assert len(set(spans)) > 20


def test_kinds_are_drawn_by_their_weights() -> None:
    rng = np.random.default_rng(0)
    counts = Counter(QueryMix(question=2, words=1, span=1, removed=0).draw(rng) for _ in range(800))
    assert 340 < counts["question"] < 460
    assert 150 < counts["words"] < 250
    assert 150 < counts["span"] < 250
    assert "removed" not in counts
