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

    Of the queries made of words, a share ``joined`` takes words of a second document too, as questions with two hops
    do (either document may be the answer), and a share ``long`` takes up to twice as many words.
    """

    question: float = 0.45
    words: float = 0.35
    span: float = 0.1
    removed: float = 0.1
    joined: float = 0.0
    long: float = 0.0

    def draw(self, rng: np.random.Generator) -> QueryKind:
        """One kind."""
        kinds: tuple[QueryKind, ...] = ("question", "words", "span", "removed")
        weights = np.array([self.question, self.words, self.span, self.removed])
        return kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]


class QueryWriter:
    """Writes synthetic queries as token ids."""

    def __init__(
        self, builder: PassageBuilder, *, shuffled: float = 0.4, wrapped: float = 0.4, cut: float = 0.1
    ) -> None:
        self._openings = builder.encode_many(_QUESTION_OPENINGS)
        self._mark = builder.encode("?")
        self._shuffled = shuffled
        self._wrapped = wrapped
        self._cut = cut

    def words(self, rng: np.random.Generator, passage: Passage, sentence: Sentence, most: int = 7) -> Ids:
        """Two to `most` content words of the sentence, at times shuffled, shortened, or put as a question."""
        wanted = min(len(sentence.words), int(rng.integers(2, most + 1)))
        chosen = rng.choice(len(sentence.words), size=wanted, replace=False)
        if rng.random() >= self._shuffled:
            chosen.sort()
        parts = [self._word(rng, passage, sentence.words[int(i)]) for i in chosen]
        if rng.random() < self._wrapped:
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
        if stop - start > 1 and rng.random() < self._cut:
            stop = int(rng.integers(start + 1, stop))
        return passage.ids[start:stop]
