"""The lists on which the embedded model is judged, built from collections beside the repository."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from qrcore import Document

COLLECTIONS: Final = Path(__file__).resolve().parents[3] / "shared" / "data"
DEV_SHARE: Final = 0.4


@dataclass(frozen=True, slots=True)
class JudgedList:
    """One query, its candidates in prompt order, and the relevance of those that are relevant."""

    query_id: str
    query: str
    documents: tuple[Document, ...]
    relevance: dict[str, int]

    @property
    def is_dev(self) -> bool:
        """Whether the query belongs to the 40 % on which choices are made."""
        digest = hashlib.sha256(self.query_id.encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64 < DEV_SHARE


@dataclass(frozen=True, slots=True)
class _Collection:
    rows: list[dict[str, Any]]
    qrels: dict[str, dict[str, int]]

    def documents(self) -> list[dict[str, Any]]:
        """Every distinct candidate, in order of first appearance."""
        return list({c["doc_id"]: c for row in self.rows for c in row["candidates"]}.values())


def build_lists(name: str) -> list[JudgedList]:
    """The lists of one name of :data:`BUILDERS`; queries without a relevant document in the list are left out."""
    return [entry for entry in BUILDERS[name]() if entry.relevance]


def _xquad(random_paragraphs: int, words: int | None) -> list[JudgedList]:
    """The gold paragraph, its four neighbours in the text, and random other paragraphs."""
    collection = _read("xquad_long")
    lists = []
    for row in collection.rows:
        texts = row["candidates"]
        gold = next(i for i, c in enumerate(texts) if collection.qrels[row["query_id"]].get(c["doc_id"]))
        near = sorted(range(len(texts)), key=lambda i: (abs(i - gold), i))[:5]
        far = [i for i in range(len(texts)) if i not in near]
        chosen = near + _rng(row["query_id"]).sample(far, random_paragraphs)
        lists.append(_judged(row, [texts[i] for i in chosen], collection, words))
    return lists


def _nq() -> list[JudgedList]:
    """The gold passage, the four best others by BM25, and five random passages of the pool."""
    collection = _read("nq_pool")
    pool = collection.documents()
    lists = []
    for row in collection.rows:
        relevant = collection.qrels[row["query_id"]]
        gold = [c for c in row["candidates"] if relevant.get(c["doc_id"])][:1]
        hard = [c for c in row["candidates"] if not relevant.get(c["doc_id"])][:4]
        taken = {c["doc_id"] for c in gold + hard} | set(relevant)
        others = _rng(row["query_id"]).sample([c for c in pool if c["doc_id"] not in taken], 5)
        lists.append(_judged(row, gold + hard + others, collection, None))
    return lists


def _first(name: str, count: int, words: int | None) -> list[JudgedList]:
    """The first candidates as they come."""
    collection = _read(name)
    return [_judged(row, row["candidates"][:count], collection, words) for row in collection.rows]


BUILDERS: Final[dict[str, Callable[[], list[JudgedList]]]] = {
    "xquad-10": lambda: _xquad(5, None),
    "nq-10": _nq,
    "hotpotqa-10": lambda: _first("hotpotqa", 10, None),
    "scifact-10 (100 words)": lambda: _first("scifact", 10, 100),
    "xquad-20 (100 words)": lambda: _xquad(15, 100),
    "xquad-20": lambda: _xquad(15, None),
}


def _read(name: str) -> _Collection:
    folder = COLLECTIONS / name
    qrels: dict[str, dict[str, int]] = {}
    for row in pq.read_table(folder / "qrels.parquet").to_pylist():
        qrels.setdefault(row["query_id"], {})[row["doc_id"]] = row["relevance"]
    return _Collection(pq.read_table(folder / "candidates.parquet").to_pylist(), qrels)


def _judged(
    row: dict[str, Any], candidates: Iterable[dict[str, Any]], collection: _Collection, words: int | None
) -> JudgedList:
    # Shuffled, so that neither the place in the prompt nor the order of ties tells the gold.
    shown = list(candidates)
    _rng(row["query_id"] + " order").shuffle(shown)
    relevance = collection.qrels.get(row["query_id"], {})
    documents = tuple(Document(doc_id=c["doc_id"], title=c["title"], text=_cut(c["text"], words)) for c in shown)
    in_list = {d.doc_id: relevance[d.doc_id] for d in documents if relevance.get(d.doc_id, 0) > 0}
    return JudgedList(row["query_id"], row["query"], documents, in_list)


def _cut(text: str, words: int | None) -> str:
    parts: Sequence[str] = text.split()
    return text if words is None or len(parts) <= words else " ".join(parts[:words])


def _rng(key: str) -> random.Random:
    return random.Random(hashlib.sha256(key.encode()).hexdigest())
