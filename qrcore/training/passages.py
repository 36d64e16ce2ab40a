"""Training text as token ids: passages with their sentences, content words, neighbours and questions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerFast

from qrcore.training.tokenizer import CONTINUATION

Ids = npt.NDArray[np.int32]

_BLANK_LINE = "\n\n"
_STOP_WORDS = 160
_SENTENCE_ENDS = (".", "!", "?")
_CLOSING_MARKS = ('"', "'", ")", "]")


@dataclass(frozen=True, slots=True)
class QuestionRow:
    """A question that people wrote to a paragraph, with the sentence that answers it."""

    group: str
    paragraph: str
    question: str
    answer_sentence: str


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence as token range ``[start, stop)`` of its passage, and its content words as token ranges."""

    start: int
    stop: int
    words: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Question:
    """Token ids of a question and the number of the sentence that answers it."""

    ids: Ids
    sentence: int


@dataclass(frozen=True, slots=True)
class Passage:
    """A paragraph-sized piece of text; passages of one group are neighbours of one source, in its order."""

    group: int
    ids: Ids
    sentences: tuple[Sentence, ...]
    questions: tuple[Question, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes of passages and sentences, in tokens."""

    min_passage: int = 40
    max_passage: int = 320
    min_sentence: int = 8
    max_sentence: int = 80


@dataclass(frozen=True, slots=True)
class PassageCollection:
    """All passages, by group, where each content word occurs (for look-alike negatives), and how they were cut."""

    passages: tuple[Passage, ...]
    groups: tuple[tuple[int, ...], ...]
    asked: tuple[int, ...]
    by_word: Mapping[bytes, tuple[int, ...]] = field(repr=False)
    limits: Limits = field(default_factory=Limits)

    def tokens(self) -> int:
        """Tokens of all passages together."""
        return sum(len(passage.ids) for passage in self.passages)


class PassageBuilder:
    """Cuts texts into passages with one tokenizer; what is a content word is decided by the texts themselves."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, limits: Limits | None = None) -> None:
        self._tokenizer = tokenizer
        self._limits = limits or Limits()
        names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        self._continues = np.array([name.startswith(CONTINUATION) for name in names])
        self._wordlike = np.array([name[0].isalnum() for name in names])
        self._ends = np.array([name in _SENTENCE_ENDS for name in names])
        self._closes = np.array([name in _CLOSING_MARKS for name in names])

    def build(self, texts: Sequence[str], questions: Sequence[QuestionRow] = ()) -> PassageCollection:
        """Passages of `texts` (one group a text) and of the questions' paragraphs (one group an article)."""
        pieces = [(group, piece) for group, text in enumerate(texts) for piece in self._text_pieces(text)]
        pieces_of_questions, asked = self._question_pieces(questions, first_group=len(texts))
        stop_words = self._stop_words(piece for _, piece in pieces)
        passages = [self._passage(group, piece, stop_words) for group, piece in pieces]
        passages += [
            self._asked_passage(group, piece, stop_words, asked[key])
            for key, (group, piece) in pieces_of_questions.items()
        ]
        return _collect([passage for passage in passages if passage.sentences], self._limits)

    def encode(self, text: str) -> Ids:
        """Token ids of `text` without the beginning-of-sequence token; special tokens stay plain text."""
        return np.asarray(self.encode_many([text])[0], dtype=np.int32)

    def encode_many(self, texts: Sequence[str]) -> list[Ids]:
        """Token ids of each text, see :meth:`encode`."""
        if not texts:
            return []
        encoded = self._tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)
        return [np.asarray(ids, dtype=np.int32) for ids in encoded["input_ids"]]

    def _text_pieces(self, text: str) -> list[Ids]:
        """Paragraphs of one text; short ones are joined to the next, long ones cut at a sentence's end."""
        pieces: list[Ids] = []
        pending: list[Ids] = []
        for ids in self.encode_many([part for part in text.split(_BLANK_LINE) if part.strip()]):
            pending.append(ids)
            if sum(map(len, pending)) >= self._limits.min_passage:
                pieces += self._cut(np.concatenate(pending))
                pending = []
        return pieces

    def _cut(self, ids: Ids) -> list[Ids]:
        pieces: list[Ids] = []
        start = 0
        for stop in self._sentence_stops(ids):
            if stop - start > self._limits.max_passage:
                break
            if stop - start >= self._limits.max_passage // 2 or stop == len(ids):
                pieces.append(ids[start:stop])
                start = stop
        return [piece for piece in pieces if len(piece) >= self._limits.min_passage]

    def _question_pieces(
        self, questions: Sequence[QuestionRow], first_group: int
    ) -> tuple[dict[str, tuple[int, Ids]], dict[str, list[tuple[Ids, Ids]]]]:
        paragraphs = list(dict.fromkeys(row.paragraph for row in questions))
        group_of = {row.paragraph: row.group for row in questions}
        number = {name: first_group + i for i, name in enumerate(dict.fromkeys(group_of.values()))}
        encoded = dict(zip(paragraphs, self.encode_many(paragraphs), strict=True))
        pieces = {paragraph: (number[group_of[paragraph]], encoded[paragraph]) for paragraph in paragraphs}
        asked: dict[str, list[tuple[Ids, Ids]]] = defaultdict(list)
        question_ids = self.encode_many([row.question for row in questions])
        answer_ids = self.encode_many([row.answer_sentence for row in questions])
        for row, question, answer in zip(questions, question_ids, answer_ids, strict=True):
            asked[row.paragraph].append((question, answer))
        return pieces, asked

    def _asked_passage(
        self, group: int, ids: Ids, stop_words: frozenset[bytes], asked: list[tuple[Ids, Ids]]
    ) -> Passage:
        plain = self._passage(group, ids, stop_words)
        questions = []
        for question, answer in asked:
            at = _find(ids, answer)
            holder = next((i for i, s in enumerate(plain.sentences) if at is not None and s.start <= at < s.stop), None)
            if holder is not None:
                questions.append(Question(question, holder))
        return Passage(group, ids, plain.sentences, tuple(questions))

    def _passage(self, group: int, ids: Ids, stop_words: frozenset[bytes]) -> Passage:
        starts = [0, *self._sentence_stops(ids)[:-1]]
        stops = self._sentence_stops(ids)
        words = self._words(ids)
        sentences = []
        for start, stop in zip(starts, stops, strict=True):
            content = tuple((a, b) for a, b in words if start <= a < stop and ids[a:b].tobytes() not in stop_words)
            if content and stop - start <= self._limits.max_sentence:
                sentences.append(Sentence(start, stop, content))
        return Passage(group, ids, tuple(sentences))

    def _sentence_stops(self, ids: Ids) -> list[int]:
        stops: list[int] = []
        last = 0
        for end in np.flatnonzero(self._ends[ids]):
            stop = int(end) + 1
            while stop < len(ids) and self._closes[ids[stop]]:
                stop += 1
            # Short pieces are mostly abbreviations and initials, not sentences.
            if stop - last >= self._limits.min_sentence and len(ids) - stop >= self._limits.min_sentence:
                stops.append(stop)
                last = stop
        return [*stops, len(ids)]

    def _words(self, ids: Ids) -> list[tuple[int, int]]:
        starts = np.flatnonzero(~self._continues[ids])
        stops = [*starts[1:].tolist(), len(ids)]
        return [(a, b) for a, b in zip(starts.tolist(), stops, strict=True) if self._wordlike[ids[a]]]

    def _stop_words(self, pieces: Iterable[Ids]) -> frozenset[bytes]:
        counts: Counter[bytes] = Counter()
        for ids in pieces:
            counts.update(ids[a:b].tobytes() for a, b in self._words(ids))
        return frozenset(word for word, _ in counts.most_common(_STOP_WORDS))


def _find(ids: Ids, part: Ids) -> int | None:
    """Where `part` begins in `ids`, or None."""
    if not len(part) or len(part) > len(ids):
        return None
    windows = np.lib.stride_tricks.sliding_window_view(ids, len(part))
    hits = np.flatnonzero((windows == part).all(axis=1))
    return int(hits[0]) if len(hits) else None


def _collect(passages: Sequence[Passage], limits: Limits) -> PassageCollection:
    groups: dict[int, list[int]] = defaultdict(list)
    by_word: dict[bytes, list[int]] = defaultdict(list)
    for number, passage in enumerate(passages):
        groups[passage.group].append(number)
        words = {passage.ids[a:b].tobytes() for s in passage.sentences for a, b in s.words}
        for word in words:
            by_word[word].append(number)
    # Words of one passage find nothing; words of very many tell nothing.
    shared = {word: tuple(found) for word, found in by_word.items() if 2 <= len(found) <= 2000}
    order = {old: new for new, old in enumerate(groups)}
    renumbered = tuple(
        Passage(order[passage.group], passage.ids, passage.sentences, passage.questions) for passage in passages
    )
    return PassageCollection(
        passages=renumbered,
        groups=tuple(tuple(members) for members in groups.values()),
        asked=tuple(number for number, passage in enumerate(passages) if passage.questions),
        by_word=shared,
        limits=limits,
    )
