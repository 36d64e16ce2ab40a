"""BM25 over texts, for first-stage lists and for ranking inside one context."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import bm25s
import Stemmer

# The longer of bm25s' two English lists: the shorter one keeps "how", "do" and "I", which begin most questions, are
# rare in documentation, and so would weigh most.
_STOP_WORDS: Final = "english_plus"


class Hit(NamedTuple):
    """A text by its position in the index, and its score."""

    position: int
    score: float


class Bm25Index:
    """Lucene's variant with k1 = 0.9 and b = 0.4 (the settings of Anserini's baselines), English stop words and
    Snowball stems. ``clean`` prepares every text and query first."""

    def __init__(self, texts: Sequence[str], clean: Callable[[str], str] = str) -> None:
        self._clean = clean
        self._ranker = bm25s.BM25(method="lucene", k1=0.9, b=0.4)
        words = self._words(texts)
        self._empty = not any(words)  # bm25s cannot index texts without a single word
        if not self._empty:
            self._ranker.index(words, show_progress=False)

    def top(self, query: str, k: int) -> list[Hit]:
        """The ``k`` best texts for a query, fewer where fewer share a word with it; ties keep the order of texts."""
        # bm25s fails on a query without words of its own vocabulary.
        known = [word for word in self._words([query])[0] if not self._empty and word in self._ranker.vocab_dict]
        scores = self._ranker.get_scores(known).tolist() if known else []
        found = (Hit(place, score) for place, score in enumerate(scores) if score > 0)
        return heapq.nsmallest(k, found, key=lambda hit: (-hit.score, hit.position))

    def _words(self, texts: Sequence[str]) -> list[list[str]]:
        # A stemmer of its own each time: they cannot be pickled, and an index travels between processes.
        tokens: list[list[str]] = bm25s.tokenize(
            [self._clean(text) for text in texts],
            stopwords=_STOP_WORDS,
            stemmer=Stemmer.Stemmer("english"),
            return_ids=False,
            show_progress=False,
        )
        return tokens
