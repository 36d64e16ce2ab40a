"""In-context retrieval samples: numbered documents, then several questions about them, in the model's own prompt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerFast

from qrcore.prompts import EMBEDDED
from qrcore.training.passages import Ids, Passage, PassageBuilder, PassageCollection, Question, Sentence
from qrcore.training.queries import QueryMix, QueryWriter
from qrcore.training.samples import COPY, INDEX, PLAIN, SHARED, Sample
from qrcore.training.tokenizer import ASSISTANT, BOS, END, USER

MAX_DOCUMENTS = 64
_FEW_WORDS, _MANY_WORDS = 7, 14


@dataclass(frozen=True, slots=True)
class RetrievalShape:
    """What the samples of a stage look like.

    ``length``: tokens of a whole sample, about; ``position_span``: positions that documents are spread over (no gaps
    where it is below ``length``); ``permuted``: share of samples whose ordinary tokens change identity, so that only
    copying from the context can help; ``neighbours``: share of samples with hard negatives of the gold's own source.
    """

    length: int
    position_span: int
    mix: QueryMix
    permuted: float = 0.0
    neighbours: float = 0.7
    titled: float = 0.5
    read_documents: float = 0.15


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weight of each kind of token in the loss."""

    bracket: float = 0.5
    index: float = 5.0
    answer: float = 1.0
    query: float = 0.5
    document: float = 0.9


@dataclass(frozen=True, slots=True)
class _Shown:
    """A document as shown: the part of a passage that fits, and the sentence that was taken out of it, if any."""

    passage: Passage
    sentences: tuple[Sentence, ...]
    removed: Sentence | None

    def text(self) -> Ids:
        if not self.removed:
            return self.passage.ids[self.sentences[0].start : self.sentences[-1].stop]
        before = self.passage.ids[self.sentences[0].start : self.removed.start]
        after = self.passage.ids[self.removed.stop : self.sentences[-1].stop]
        return np.concatenate((before, after))

    def visible_sentences(self) -> list[Sentence]:
        return [sentence for sentence in self.sentences if sentence is not self.removed]

    def questions(self) -> list[Question]:
        shown = {sentence.start for sentence in self.visible_sentences()}
        return [q for q in self.passage.questions if self.passage.sentences[q.sentence].start in shown]


class PromptTokens:
    """The fixed parts of the prompt as token ids, and which ids are ordinary text."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, builder: PassageBuilder) -> None:
        special = {name: tokenizer.get_vocab()[name] for name in (BOS, USER, END, ASSISTANT)}
        self.opening = _ids(special[BOS], special[USER])
        self.separator = builder.encode(EMBEDDED.separator)
        self.indices = builder.encode_many([f"[{i}]" for i in range(1, MAX_DOCUMENTS + 1)])
        asking = EMBEDDED.instruction + EMBEDDED.separator + EMBEDDED.query_label
        self.ask = np.concatenate((self.separator, builder.encode(asking)))
        self.answer = _ids(special[END], special[ASSISTANT])
        self.end = _ids(special[END])
        fixed = [*self.indices, self.ask, np.asarray(tokenizer.all_special_ids, dtype=np.int32)]
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
        self._collection = collection
        self._prompt = prompt
        self._writer = writer
        self._weights = weights or LossWeights()

    def sample(self, rng: np.random.Generator, shape: RetrievalShape) -> Sample:
        """One sample: documents that fill about half of the length, then questions about them."""
        documents = self._documents(rng, shape)
        gaps = _gaps(rng, max(0, shape.position_span - shape.length), len(documents))
        draft = _Draft()
        draft.add(self._prompt.opening)
        read = self._weights.document if rng.random() < shape.read_documents else 0.0
        for number, document in enumerate(documents):
            draft.skip_positions(int(gaps[number]))
            draft.add(np.concatenate((self._prompt.separator, self._prompt.indices[number])))
            draft.add(np.concatenate((self._title(rng, shape, document), document.text())), read)
        draft.add(self._prompt.ask)
        while draft.length < shape.length:
            self._ask(rng, shape, documents, draft)
        sample = draft.sample()
        return self._permuted(rng, sample) if rng.random() < shape.permuted else sample

    def _documents(self, rng: np.random.Generator, shape: RetrievalShape) -> list[_Shown]:
        room = int(shape.length * rng.uniform(0.4, 0.6))
        largest = max(24, int(shape.length * rng.uniform(0.06, 0.35)))
        shown: list[_Shown] = []
        seen: set[int] = set()
        while room > 24 and len(shown) < MAX_DOCUMENTS:
            for number in self._family(rng, shape):
                if number in seen or room <= 24 or len(shown) >= MAX_DOCUMENTS:
                    continue
                document = self._show(rng, shape, self._collection.passages[number], min(largest, room))
                if document:
                    seen.add(number)
                    shown.append(document)
                    room -= len(document.text()) + 8
        return [shown[int(i)] for i in rng.permutation(len(shown))]

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

    def _ask(self, rng: np.random.Generator, shape: RetrievalShape, documents: list[_Shown], draft: _Draft) -> None:
        kind = shape.mix.draw(rng)
        eligible = [n for n, document in enumerate(documents) if _can_answer(document, kind)]
        number = eligible[int(rng.integers(len(eligible)))] if eligible else int(rng.integers(len(documents)))
        document = documents[number]
        kind = kind if eligible else "words"
        query, answer = self._query(rng, document, kind, _MANY_WORDS if rng.random() < shape.mix.long else _FEW_WORDS)
        if kind == "words" and rng.random() < shape.mix.joined:
            second, _ = self._query(rng, documents[int(rng.integers(len(documents)))], kind, _FEW_WORDS)
            query = np.concatenate((query, second) if rng.random() < 0.5 else (second, query))
        weights = self._weights
        draft.begin_block()
        draft.add(query, weights.query)
        draft.add(self._prompt.answer)
        opening, index, closing = np.split(self._prompt.indices[number], (1, -1))
        draft.add(opening, weights.bracket)
        draft.add(index, weights.index, INDEX)
        draft.add(closing, weights.bracket)
        draft.add(answer, weights.answer, COPY)
        draft.add(self._prompt.end, weights.answer)

    def _query(self, rng: np.random.Generator, document: _Shown, kind: str, most: int) -> tuple[Ids, Ids]:
        passage = document.passage
        if kind == "question":
            questions = document.questions()
            question = questions[int(rng.integers(len(questions)))]
            sentence = passage.sentences[question.sentence]
            return question.ids, passage.ids[sentence.start : sentence.stop]
        if kind == "removed" and document.removed:
            return self._writer.words(rng, passage, document.removed, most), _ids()
        visible = document.visible_sentences()
        sentence = visible[int(rng.integers(len(visible)))]
        if kind == "span":
            query = self._writer.span(rng, passage, sentence)
        else:
            query = self._writer.words(rng, passage, sentence, most)
        return query, passage.ids[sentence.start : sentence.stop]

    def _permuted(self, rng: np.random.Generator, sample: Sample) -> Sample:
        table = np.arange(self._prompt.vocabulary)
        table[self._prompt.ordinary] = rng.permutation(self._prompt.ordinary)
        return Sample(table[sample.ids], sample.positions, sample.blocks, sample.weights, sample.roles)


class _Draft:
    """A sample in the making: keeps ids, positions, blocks, weights and roles in step."""

    def __init__(self) -> None:
        self._parts: list[tuple[Ids, npt.NDArray[np.int64], int, float, int]] = []
        self._next_position = 0
        self._shared_end = 0
        self._block = SHARED
        self.length = 0

    def skip_positions(self, count: int) -> None:
        """Leave a gap, so that distances far beyond the sample's length are met in training."""
        self._next_position += count

    def begin_block(self) -> None:
        """Begin the next question block: it stands right after the shared part, whatever blocks came before."""
        if self._block == SHARED:
            self._shared_end = self._next_position
        self._block += 1
        self._next_position = self._shared_end

    def add(self, ids: Ids, weight: float = 0.0, role: int = PLAIN) -> None:
        positions = np.arange(self._next_position, self._next_position + len(ids))
        self._parts.append((ids, positions, self._block, weight, role))
        self._next_position += len(ids)
        self.length += len(ids)

    def sample(self) -> Sample:
        lengths = [len(part[0]) for part in self._parts]
        blocks = np.repeat([part[2] for part in self._parts], lengths)
        weights = np.repeat(np.array([part[3] for part in self._parts], dtype=np.float32), lengths)
        # The first token of a block follows the shared part, not the block before it in the array.
        weights[1:][blocks[1:] != blocks[:-1]] = 0.0
        return Sample(
            ids=np.concatenate([part[0] for part in self._parts]).astype(np.int64),
            positions=np.concatenate([part[1] for part in self._parts]),
            blocks=blocks,
            weights=weights,
            roles=np.repeat([part[4] for part in self._parts], lengths),
        )


def _can_answer(document: _Shown, kind: str) -> bool:
    if kind == "question":
        return bool(document.passage.questions) and bool(document.questions())
    return kind != "removed" or document.removed is not None


def _extent(passage: Passage, first: int, last: int) -> int:
    return passage.sentences[last].stop - passage.sentences[first].start


def _gaps(rng: np.random.Generator, spare: int, parts: int) -> npt.NDArray[np.int64]:
    """`parts` random gaps; together at most `spare` positions, any total equally likely."""
    cuts = np.sort(rng.integers(0, int(rng.integers(0, spare + 1)) + 1, size=parts))
    return np.diff(cuts, prepend=0)


def _ids(*values: int) -> Ids:
    return np.array(values, dtype=np.int32)
