"""The queries of training samples: real questions, words of a sentence, verbatim pieces, sentences taken away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from qrcore.training.passages import Ids, Passage, PassageBuilder, Sentence

QueryKind = Literal["question", "words", "span", "removed"]

_QUESTION_OPENINGS = (
    "what is the", "what", "who", "who was", "when did", "when was", "where is", "where did",
    "how did", "how many", "how does", "why did", "why is", "which", "in what", "what kind of",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class QueryMix:
    """How often each kind of query is asked (weights; a kind that a passage lacks falls back to words).

    Of the queries made of words, a share ``long`` takes up to twice as many words. A share ``reasked`` of all questions
    is followed by the question whether a given answer, right or wrong, is right; of the others a share ``answered`` is
    answered in full, the rest ends with the document's number, which leaves room for more questions. A share
    ``misled`` of the full answers begins anywhere in the document: a model's own answers do, and must go on from there.
    """

    question: float = 0.45
    words: float = 0.35
    span: float = 0.1
    removed: float = 0.1
    long: float = 0.0
    reasked: float = 0.0
    answered: float = 1.0
    misled: float = 0.0

    def draw(self, rng: np.random.Generator) -> QueryKind:
        """One kind."""
        kinds: tuple[QueryKind, ...] = ("question", "words", "span", "removed")
        weights = np.array([self.question, self.words, self.span, self.removed])
        return kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]


@dataclass(frozen=True, slots=True)
class WritingShares:
    """Of the queries made of words, which are ``shuffled`` and which ``wrapped`` into a question; which words of more
    than one token are ``cut``."""

    shuffled: float = 0.4
    wrapped: float = 0.4
    cut: float = 0.1


class QueryWriter:
    """Writes synthetic queries as token ids."""

    def __init__(self, builder: PassageBuilder, shares: WritingShares | None = None) -> None:
        self.shares = shares or WritingShares()
        self._openings = builder.encode_many(_QUESTION_OPENINGS)
        self._mark = builder.encode("?")

    def question(self, rng: np.random.Generator, ids: Ids) -> Ids:
        """A real question, half of the time without its question mark, as people type."""
        marked = len(ids) > 1 and np.array_equal(ids[-1:], self._mark)
        return ids[:-1] if marked and rng.random() < 0.5 else ids

    def words(self, rng: np.random.Generator, passage: Passage, sentence: Sentence, most: int = 7) -> Ids:
        """Two to `most` content words of the sentence, at times shuffled, shortened, or put as a question."""
        wanted = min(len(sentence.words), int(rng.integers(2, most + 1)))
        chosen = rng.choice(len(sentence.words), size=wanted, replace=False)
        if rng.random() >= self.shares.shuffled:
            chosen.sort()
        parts = [self._word(rng, passage, sentence.words[int(i)]) for i in chosen]
        if rng.random() < self.shares.wrapped:
            parts = [self._openings[int(rng.integers(len(self._openings)))], *parts, self._mark]
        return np.concatenate(parts)

    def span(self, rng: np.random.Generator, passage: Passage, sentence: Sentence) -> Ids:
        """A verbatim piece of the sentence that begins and ends with content words."""
        first = int(rng.integers(0, max(1, len(sentence.words) - 3)))
        last = min(len(sentence.words) - 1, first + int(rng.integers(2, 6)))
        return passage.ids[sentence.words[first][0] : sentence.words[last][1]]

    def _word(self, rng: np.random.Generator, passage: Passage, word: tuple[int, int]) -> Ids:
        start, stop = word
        # Questions inflect words; a head that matches first tokens finds them all the same.
        if stop - start > 1 and rng.random() < self.shares.cut:
            stop = int(rng.integers(start + 1, stop))
        return passage.ids[start:stop]
