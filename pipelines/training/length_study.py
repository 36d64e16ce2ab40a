"""How quality changes with the length of the prompt: dev queries among more and more other documents."""

from __future__ import annotations

import hashlib
import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from statistics import fmean
from typing import Final

from pipelines.training.findings import LengthPoint
from pipelines.training.judged import JudgedList, JudgedSet
from pipelines.training.orders import interval, open_scorer, quality, random_quality, scorer_order
from qrcore.contracts.scorer import Scorer
from qrcore.models import load_tokenizer, open_model
from qrcore.prompts import EMBEDDED
from qrcore.records import Document
from qrcore.tokens import PromptEncoder

BUDGETS: Final = (512, 1024, 2048, 3072, 4000)

_CountTokens = Callable[[Document], int]


@dataclass(frozen=True, slots=True)
class _Growing:
    """A query's documents in the order in which they are added, and the prompt's length after each of them."""

    entry: JudgedList
    documents: tuple[Document, ...]
    lengths: tuple[int, ...]

    def within(self, budget: int) -> JudgedList | None:
        """The documents that fit, in a hashed order; None unless they hold all relevant ones and another, and leave
        out at least one: a list that ends early says nothing about the budget's length."""
        count = bisect_right(self.lengths, budget)
        if not len(self.entry.relevance) < count < len(self.documents):
            return None
        shown = sorted(self.documents[:count], key=lambda document: _digest(f"{self.entry.query_id} {document.doc_id}"))
        return replace(self.entry, documents=tuple(shown))


def length_curve(
    folder: str, judged: JudgedSet, budgets: Sequence[int] = BUDGETS, *, seed: int = 0, device: str = "auto"
) -> tuple[LengthPoint, ...]:
    """nDCG@10 of the folder's head set on dev queries against prompt length in tokens.

    A query's lists are nested: its relevant documents, then other documents of its own list, then of other lists of
    the set, until the next one would pass the budget. A point rests on the queries whose relevant documents and
    another fit its budget and whose documents do not end before it, so points can rest on different queries. Budgets
    beyond the model's limit, and those that no query can fill, are left out.
    """
    lists = judged.part("dev")
    scorer = open_scorer(folder, device=device)
    growing = _grow(folder, lists, _pool(judged), seed)
    points = []
    for budget in budgets:
        filled = [found for entry in growing if (found := entry.within(budget)) is not None]
        if budget <= scorer.max_tokens and filled:
            points.append(_point(budget, filled, scorer, seed))
    return tuple(points)


def _point(budget: int, lists: Sequence[JudgedList], scorer: Scorer, seed: int) -> LengthPoint:
    order, _ = scorer_order(lists, scorer)
    return LengthPoint(
        tokens=budget,
        queries=len(lists),
        documents=fmean(len(entry.documents) for entry in lists),
        heads=interval(quality(lists, order).ndcg_10, seed),
        random=fmean(random_quality(lists, seed).ndcg_10.values()),
    )


def _pool(judged: JudgedSet) -> list[Document]:
    return list({document.doc_id: document for entry in judged.lists for document in entry.documents}.values())


def _grow(folder: str, lists: Sequence[JudgedList], pool: Sequence[Document], seed: int) -> list[_Growing]:
    tokenizer = load_tokenizer(open_model(folder))
    encoder = PromptEncoder(tokenizer)
    lengths: dict[str, int] = {}

    def count(document: Document) -> int:
        # Once a document, not once a prompt: lengths add up but for a token or two where texts touch.
        if document.doc_id not in lengths:
            shown = f"{EMBEDDED.separator}[1] {document.title or ''}\n{document.text}"
            lengths[document.doc_id] = len(tokenizer.encode(shown, add_special_tokens=False))
        return lengths[document.doc_id]

    return [_grow_one(entry, pool, len(encoder.encode(EMBEDDED, entry.query, ()).ids), count, seed) for entry in lists]


def _grow_one(
    entry: JudgedList, pool: Sequence[Document], without_documents: int, count: _CountTokens, seed: int
) -> _Growing:
    draw = random.Random(f"{seed} {entry.query_id}")
    relevant = [document for document in entry.documents if document.doc_id in entry.relevance]
    own = [document for document in entry.documents if document.doc_id not in entry.relevance]
    taken = {document.doc_id for document in entry.documents} | entry.missed
    others = [document for document in pool if document.doc_id not in taken]
    documents = [*relevant, *draw.sample(own, len(own)), *draw.sample(others, len(others))]
    lengths = accumulate((count(document) for document in documents), initial=without_documents)
    return _Growing(entry, tuple(documents), tuple(lengths)[1:])


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
