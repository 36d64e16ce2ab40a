"""Passages: sentences, the words that tell something, neighbours, and questions at the sentences that answer them."""

from __future__ import annotations

from qrcore.training.passages import Passage, PassageBuilder, PassageCollection
from tests.qrcore.training.texts import paragraph, sentence, texts, words_of


def _sentences(passage: Passage) -> list[list[int]]:
    return [passage.ids[s.start : s.stop].tolist() for s in passage.sentences]


def test_questions_point_at_the_sentence_that_answers_them(
    collection: PassageCollection, builder: PassageBuilder
) -> None:
    asked = [collection.passages[number] for number in collection.asked]
    assert len(asked) == 8
    for number, passage in enumerate(asked, start=500):
        answer = _sentences(passage)[passage.questions[0].sentence]
        assert answer == builder.encode(sentence(4 * number + 1)).tolist()


def test_a_passage_is_cut_at_the_ends_of_its_sentences(collection: PassageCollection, builder: PassageBuilder) -> None:
    expected = [builder.encode(sentence(number)).tolist() for number in range(4)]
    assert _sentences(collection.passages[0]) == expected


def test_content_words_are_whole_and_none_of_the_common_ones(
    collection: PassageCollection, builder: PassageBuilder
) -> None:
    common = {builder.encode(word).tobytes() for word in ("the", "a", "of", "was", "in", "that")}
    known = {builder.encode(word).tobytes() for number in range(4 * 3 * 60) for word in words_of(number)}
    found = {p.ids[a:b].tobytes() for p in collection.passages[:180] for s in p.sentences for a, b in s.words}
    assert found <= known
    assert not found & common
    assert len(found) > len(known) / 2


def test_paragraphs_of_one_text_are_one_group(collection: PassageCollection) -> None:
    assert [collection.passages[number].group for number in range(7)] == [0, 0, 0, 1, 1, 1, 2]
    assert collection.groups[1] == (3, 4, 5)
    questions = {collection.passages[number].group for number in collection.asked}
    assert questions == {60}, "the paragraphs of one article"


def test_words_find_the_passages_that_share_them(collection: PassageCollection) -> None:
    word, holders = next(iter(collection.by_word.items()))
    assert len(holders) >= 2
    for number in holders:
        passage = collection.passages[number]
        assert word in {passage.ids[a:b].tobytes() for s in passage.sentences for a, b in s.words}


def test_long_paragraphs_are_cut_and_short_ones_joined(builder: PassageBuilder) -> None:
    long = " ".join(paragraph(number) for number in range(20))
    short = [sentence(number) for number in range(100, 116)]
    passages = builder.build([long, "\n\n".join(short), *texts(40, first=50)]).passages
    first, second = ([p for p in passages if p.group == group] for group in (0, 1))
    assert [token for p in first for token in p.ids.tolist()] == builder.encode(long).tolist()
    assert max(len(p.ids) for p in first) <= 320
    assert len(first) > 1
    assert min(len(p.ids) for p in second) >= 40, "a sentence alone has about 15"
    together = [token for p in second for token in p.ids.tolist()]
    whole = builder.encode(" ".join(short)).tolist()
    assert together == whole[: len(together)]
    assert len(whole) - len(together) < 40
