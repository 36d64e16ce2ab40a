"""In-context retrieval samples: numbered documents, then several questions about them, in the model's own prompt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerFast

from qrcore.errors import InputError
from qrcore.prompts import EMBEDDED
from qrcore.training.drafts import Draft
from qrcore.training.passages import Ids, Passage, PassageBuilder, PassageCollection, Question, Sentence
from qrcore.training.queries import QueryMix, QueryWriter
from qrcore.training.samples import COPY, INDEX, NO_DOCUMENT, NO_SOURCE, NOTHING, VERDICT, Sample
from qrcore.training.tokenizer import ASSISTANT, BOS, END, USER

MAX_DOCUMENTS = 64
#: The content-free query by which scores are calibrated (Chen et al. 2025, ICR).
NULL_QUERY: Final = "N/A"
#: Asked after an answer, as flip audits do (Roy et al. 2025), and the words that are expected then.
RE_ASKING: Final = "Does this answer the query?"
VERDICT_WORDS: Final = {True: "yes", False: "no"}
_FEW_WORDS, _MANY_WORDS = 7, 14
#: Tokens after which it can be told which place in a document is being copied.
_GIVEN_TOKENS: Final = 2
#: Draws of passages for one sample; all may have been seen, or be too long.
_MOST_TRIES: Final = 1000
#: More than any passage holds.
_MOST_SENTENCES: Final = 4096


@dataclass(frozen=True, slots=True)
class RetrievalShape:
    """What the samples of a stage look like.

    ``length``: tokens of a whole sample, about; ``position_span``: positions that documents are spread over (no gaps
    where it is below ``length``); ``permuted``: share of samples whose ordinary tokens change identity, so that only
    copying from the context can help; ``neighbours``: share of samples with hard negatives of the gold's own source;
    ``null_queries``: share of samples in which the null query is asked, too; ``largest``: between which shares of the
    length the most tokens of a document lie; ``skipping``: share of samples whose documents are not numbered 1, 2, …
    but in any rising order, so that high numbers are met where few documents fit.
    """

    length: int
    position_span: int
    mix: QueryMix
    permuted: float = 0.0
    neighbours: float = 0.7
    titled: float = 0.5
    read_documents: float = 0.15
    null_queries: float = 0.3
    largest: tuple[float, float] = (0.06, 0.35)
    skipping: float = 0.0


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weight of each kind of token in the loss; ``beginning``: of an answer's first token, which decides the rest."""

    index: float = 5.0
    beginning: float = 3.0
    answer: float = 1.0
    query: float = 0.5
    document: float = 0.9
    verdict: float = 3.0


@dataclass(frozen=True, slots=True)
class _Shown:
    """A document as shown: the part of a passage that fits, the sentence that was taken out of it, if any, and the
    tokens of its number."""

    passage: Passage
    sentences: tuple[Sentence, ...]
    removed: Sentence | None
    mark: Ids = field(default_factory=lambda: _ids())

    def text(self) -> Ids:
        """The tokens that are shown."""
        return np.concatenate([ids for ids, _ in self.pieces()])

    def pieces(self) -> Iterator[tuple[Ids, int]]:
        """The text cut at the beginnings of sentences, each piece with its sentence's number in the passage."""
        starts = [sentence.start for sentence in self.sentences]
        stops = [*starts[1:], self.sentences[-1].stop]
        for sentence, start, stop in zip(self.sentences, starts, stops, strict=True):
            if sentence is self.removed:
                start = sentence.stop
            if start < stop:
                yield self.passage.ids[start:stop], self.passage.sentences.index(sentence)

    def visible_sentences(self) -> list[Sentence]:
        return [sentence for sentence in self.sentences if sentence is not self.removed]

    def questions(self) -> list[Question]:
        shown = {sentence.start for sentence in self.visible_sentences()}
        return [q for q in self.passage.questions if self.passage.sentences[q.sentence].start in shown]


@dataclass(frozen=True, slots=True)
class _Query:
    """A query, the sentence that answers it (empty if it was taken away), and that one's number in the passage."""

    query: Ids
    answer: Ids
    sentence: int


class PromptTokens:
    """The fixed parts of the prompt as token ids, and which ids are ``ordinary``: in none of these parts."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, builder: PassageBuilder) -> None:
        special = {name: tokenizer.get_vocab()[name] for name in (BOS, USER, END, ASSISTANT)}
        self.opening = _ids(special[BOS], special[USER])
        self.separator = builder.encode(EMBEDDED.separator)
        self.indices = builder.encode_many([f"[{i}]" for i in range(1, MAX_DOCUMENTS + 1)])
        asking = EMBEDDED.instruction + EMBEDDED.separator + EMBEDDED.query_label
        self.ask = np.concatenate((self.separator, builder.encode(asking)))
        self.null_query = builder.encode(NULL_QUERY)
        self.answer = _ids(special[END], special[ASSISTANT])
        self.end = _ids(special[END])
        again = (_ids(special[USER]), builder.encode(RE_ASKING), self.answer)
        self.ask_again = np.concatenate(again)
        self.verdicts = {right: builder.encode(word) for right, word in VERDICT_WORDS.items()}
        frame = (self.ask, self.null_query, self.ask_again, *self.verdicts.values())
        fixed = [*self.indices, *frame, np.asarray(tokenizer.all_special_ids, dtype=np.int32)]
        self.ordinary = np.setdiff1d(np.arange(len(tokenizer)), np.concatenate(fixed)).astype(np.int64)
        self.vocabulary = len(tokenizer)


class RetrievalTask:
    """Builds retrieval samples from a passage collection."""

    def __init__(
        self,
        collection: PassageCollection,
        prompt: PromptTokens,
        writer: QueryWriter,
        weights: LossWeights | None = None,
    ) -> None:
        if not collection.passages:
            raise InputError("texts: expected passages of some sentences, found none. Give longer texts.")
        self._collection = collection
        self._prompt = prompt
        self._writer = writer
        self._weights = weights or LossWeights()

    @property
    def recipe(self) -> dict[str, dict[str, Any]]:
        """Whatever shapes samples beside texts, tokenizer and stages, as plain values."""
        return {
            "weights": asdict(self._weights),
            "writing": asdict(self._writer.shares),
            "limits": asdict(self._collection.limits),
            "shape": asdict(RetrievalShape(0, 0, QueryMix())),
        }

    def sample(self, rng: np.random.Generator, shape: RetrievalShape) -> Sample:
        """One sample: documents that fill about half of the length, then questions about them."""
        documents = self._documents(rng, shape)
        gaps = _gaps(rng, max(0, shape.position_span - shape.length), len(documents))
        draft = Draft()
        draft.add(self._prompt.opening)
        read = self._weights.document if rng.random() < shape.read_documents else 0.0
        for number, document in enumerate(documents):
            draft.skip_positions(int(gaps[number]))
            draft.add(self._prompt.separator)
            draft.add(document.mark, mark=number)
            draft.add(self._title(rng, shape, document), read, document=number)
            for ids, sentence in document.pieces():
                draft.add(ids, read, document=number, sentence=_sentence_number(number, sentence))
        draft.add(self._prompt.ask)
        if rng.random() < shape.null_queries:
            draft.begin_block()
            draft.add(np.concatenate((self._prompt.null_query, self._prompt.answer)), asked=NOTHING)
        while draft.length < shape.length:
            self._ask(rng, shape, documents, draft)
        sample = draft.sample()
        return self._permuted(rng, sample) if rng.random() < shape.permuted else sample

    def _documents(self, rng: np.random.Generator, shape: RetrievalShape) -> list[_Shown]:
        room = int(shape.length * rng.uniform(0.4, 0.6))
        largest = max(24, int(shape.length * rng.uniform(*shape.largest)))
        shown = self._gathered(rng, shape, room, largest) or self._gathered(rng, shape, room, room)
        if not shown:
            raise InputError(
                f"texts: expected sentences of at most {room} tokens for samples of {shape.length}, found none in "
                f"{_MOST_TRIES} tries. Give texts with shorter sentences, a larger vocabulary, or longer samples."
            )
        order = rng.permutation(len(shown))
        return [
            replace(shown[int(i)], mark=mark)
            for i, mark in zip(order, self._marks(rng, shape, len(shown)), strict=True)
        ]

    def _marks(self, rng: np.random.Generator, shape: RetrievalShape, count: int) -> list[Ids]:
        numbers = np.arange(count)
        if shape.skipping and rng.random() < shape.skipping:
            numbers = np.sort(rng.choice(MAX_DOCUMENTS, size=count, replace=False))
        return [self._prompt.indices[int(number)] for number in numbers]

    def _gathered(self, rng: np.random.Generator, shape: RetrievalShape, room: int, largest: int) -> list[_Shown]:
        shown: list[_Shown] = []
        seen: set[int] = set()
        for _ in range(_MOST_TRIES):
            if room <= 24 or len(shown) >= MAX_DOCUMENTS:
                break
            for number in self._family(rng, shape):
                if number in seen or room <= 24 or len(shown) >= MAX_DOCUMENTS:
                    continue
                document = self._show(rng, shape, self._collection.passages[number], min(largest, room))
                if document:
                    seen.add(number)
                    shown.append(document)
                    room -= len(document.text()) + 8
        return shown

    def _family(self, rng: np.random.Generator, shape: RetrievalShape) -> list[int]:
        """A passage, and its hard negatives: neighbours in the source, and passages that share a rare word."""
        collection = self._collection
        asked = collection.asked and rng.random() < shape.mix.question
        pool = collection.asked if asked else range(len(collection.passages))
        seed = pool[int(rng.integers(len(pool)))]
        if rng.random() >= shape.neighbours:
            return [seed]
        members = collection.groups[collection.passages[seed].group]
        at = members.index(seed) if len(members) < 64 else int(np.searchsorted(members, seed))
        around = members[max(0, at - 6) : at + 7]
        near = rng.choice(around, size=min(len(around), int(rng.integers(1, 5))), replace=False)
        return [seed, *map(int, near), *self._lookalikes(rng, collection.passages[seed])]

    def _lookalikes(self, rng: np.random.Generator, passage: Passage) -> list[int]:
        found = []
        for _ in range(int(rng.integers(0, 3))):
            sentence = passage.sentences[int(rng.integers(len(passage.sentences)))]
            start, stop = sentence.words[int(rng.integers(len(sentence.words)))]
            holders = self._collection.by_word.get(passage.ids[start:stop].tobytes())
            if holders:
                found.append(holders[int(rng.integers(len(holders)))])
        return found

    def _show(self, rng: np.random.Generator, shape: RetrievalShape, passage: Passage, room: int) -> _Shown | None:
        """As many neighbouring sentences of the passage as fit, from a random one on."""
        first = int(rng.integers(len(passage.sentences))) if len(passage.ids) > room else 0
        last = first
        while first > 0 and passage.sentences[last].stop - passage.sentences[first - 1].start <= room // 2:
            first -= 1
        while last + 1 < len(passage.sentences) and _extent(passage, first, last + 1) <= room:
            last += 1
        if _extent(passage, first, last) > room:
            return None
        sentences = passage.sentences[first : last + 1]
        if len(sentences) > 1 and rng.random() < 2 * shape.mix.removed:
            return _Shown(passage, sentences, sentences[int(rng.integers(len(sentences)))])
        return _Shown(passage, sentences, None)

    def _title(self, rng: np.random.Generator, shape: RetrievalShape, document: _Shown) -> Ids:
        """Two or three words of the document as its title, so that titles are no surprise."""
        if rng.random() >= shape.titled:
            return _ids()
        words = document.visible_sentences()[0].words
        start = int(rng.integers(len(words)))
        return np.concatenate([document.passage.ids[a:b] for a, b in words[start : start + int(rng.integers(1, 4))]])

    def _ask(self, rng: np.random.Generator, shape: RetrievalShape, documents: list[_Shown], draft: Draft) -> None:
        kind = shape.mix.draw(rng)
        eligible = [n for n, document in enumerate(documents) if _can_answer(document, kind)]
        number = eligible[int(rng.integers(len(eligible)))] if eligible else int(rng.integers(len(documents)))
        kind = kind if eligible else "words"
        most = _MANY_WORDS if rng.random() < shape.mix.long else _FEW_WORDS
        asked = self._query(rng, documents[number], kind, most)
        known = _asked_sentence(number, asked)
        draft.begin_block()
        draft.add(asked.query, self._weights.query, asked=number, asked_sentence=known)
        draft.add(self._prompt.answer, asked=number, asked_sentence=known)
        if rng.random() < shape.mix.reasked:
            self._answer_and_verdict(rng, documents, number, asked, draft)
        elif rng.random() < shape.mix.answered:
            misled = shape.mix.misled and rng.random() < shape.mix.misled
            write = partial(self._misled_answer, rng) if misled else self._answer
            write(documents, draft, number, asked)
        else:
            self._mark(documents, draft, number, asked)

    def _mark(self, documents: list[_Shown], draft: Draft, number: int, asked: _Query, learned: bool = True) -> None:
        # What a wrong answer copies, nobody asked for.
        known = _asked_sentence(number, asked) if learned else NO_DOCUMENT
        draft.add(documents[number].mark, self._weights.index * learned, INDEX, asked_sentence=known)

    def _answer(self, documents: list[_Shown], draft: Draft, number: int, asked: _Query, learned: bool = True) -> None:
        weights, answer = self._weights, asked.answer
        self._mark(documents, draft, number, asked, learned)
        # From its mark alone nobody can tell which sentence a wrong answer copies.
        first = draft.place_of(_asked_sentence(number, asked)) if learned else NO_SOURCE
        second = first + 1 if learned else NO_SOURCE
        draft.add(answer[:1], weights.beginning * learned, COPY, source=first)
        draft.add(answer[1:], weights.answer * learned, COPY, source=second)
        draft.add(self._prompt.end, weights.answer * learned)

    def _misled_answer(
        self, rng: np.random.Generator, documents: list[_Shown], draft: Draft, number: int, asked: _Query
    ) -> None:
        """The right document, then words from anywhere in it: how they go on is learned, not that they are said."""
        document = documents[number]
        self._mark(documents, draft, number, asked)
        visible = document.visible_sentences()
        sentence = visible[int(rng.integers(len(visible)))]
        start = int(rng.integers(sentence.start, sentence.stop - _GIVEN_TOKENS))
        begin = draft.place_of(_sentence_number(number, document.passage.sentences.index(sentence)))
        source = begin + start - sentence.start + _GIVEN_TOKENS
        said = document.passage.ids[start : sentence.stop]
        draft.add(said[:_GIVEN_TOKENS], 0.0, COPY)
        draft.add(said[_GIVEN_TOKENS:], self._weights.answer, COPY, source=source)
        draft.add(self._prompt.end, self._weights.answer)

    def _answer_and_verdict(
        self, rng: np.random.Generator, documents: list[_Shown], number: int, asked: _Query, draft: Draft
    ) -> None:
        """A right or wrong answer, then the question whether it is right; a wrong one is shown, not learned."""
        others = [n for n in range(len(documents)) if n != number]
        right = not others or rng.random() < 0.5
        if right:
            self._answer(documents, draft, number, asked)
        else:
            wrong = others[int(rng.integers(len(others)))]
            given = self._query(rng, documents[wrong], "words", _FEW_WORDS)
            self._answer(documents, draft, wrong, given, learned=False)
        draft.add(self._prompt.ask_again)
        draft.add(self._prompt.verdicts[right], self._weights.verdict, VERDICT)
        draft.add(self._prompt.end, self._weights.answer)

    def _query(self, rng: np.random.Generator, document: _Shown, kind: str, most: int) -> _Query:
        passage = document.passage
        if kind == "question":
            questions = document.questions()
            question = questions[int(rng.integers(len(questions)))]
            return _answered_by(passage, question.sentence, self._writer.question(rng, question.ids))
        if kind == "removed" and document.removed:
            return _Query(self._writer.words(rng, passage, document.removed, most), _ids(), NO_DOCUMENT)
        visible = document.visible_sentences()
        sentence = visible[int(rng.integers(len(visible)))]
        write = self._writer.span if kind == "span" else partial(self._writer.words, most=most)
        return _answered_by(passage, passage.sentences.index(sentence), write(rng, passage, sentence))

    def _permuted(self, rng: np.random.Generator, sample: Sample) -> Sample:
        table = np.arange(self._prompt.vocabulary)
        table[self._prompt.ordinary] = rng.permutation(self._prompt.ordinary)
        return replace(sample, ids=table[sample.ids])


def _can_answer(document: _Shown, kind: str) -> bool:
    if kind == "question":
        return bool(document.passage.questions) and bool(document.questions())
    return kind != "removed" or document.removed is not None


def _answered_by(passage: Passage, sentence: int, query: Ids) -> _Query:
    held = passage.sentences[sentence]
    return _Query(query, passage.ids[held.start : held.stop], sentence)


def _sentence_number(document: int, sentence: int) -> int:
    """One number for a sentence of a document of this sample."""
    return document * _MOST_SENTENCES + sentence


def _asked_sentence(document: int, query: _Query) -> int:
    return NO_DOCUMENT if query.sentence == NO_DOCUMENT else _sentence_number(document, query.sentence)


def _extent(passage: Passage, first: int, last: int) -> int:
    return passage.sentences[last].stop - passage.sentences[first].start


def _gaps(rng: np.random.Generator, spare: int, parts: int) -> npt.NDArray[np.int64]:
    """`parts` random gaps; together at most `spare` positions, any total equally likely."""
    cuts = np.sort(rng.integers(0, int(rng.integers(0, spare + 1)) + 1, size=parts))
    return np.diff(cuts, prepend=0)


def _ids(*values: int) -> Ids:
    return np.array(values, dtype=np.int32)
