"""Build the judged lists on which the embedded model is measured: ``python -m tests.benchmarks.embedded_lists --output
FOLDER``.

Each list becomes ``FOLDER/<name>/`` with ``lists.parquet`` (an input shard), ``qrels.parquet`` and, where the
collection has them, ``answers.parquet``. The collections stand beside the repository, not in it; ``python-docs`` is
made from the documentation of the Python that runs.
"""

from __future__ import annotations

import argparse
import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import python_docs
from pipelines.schemas import INPUT_SCHEMA, QRELS_SCHEMA
from pipelines.training.judged import ANSWERS_SCHEMA
from pipelines.units import parquet_table

COLLECTIONS: Final = Path(__file__).resolve().parents[3] / "shared" / "data"
PYTHON_QUESTIONS: Final = Path(__file__).resolve().parents[1] / "data" / "python_docs_questions.jsonl"

_FIRST_STAGE_DEPTH: Final = 10

_Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class JudgedRows:
    """Input rows, relevance by query and document, and the answers of queries that have any."""

    lists: list[_Row]
    qrels: dict[str, dict[str, int]]
    answers: dict[str, list[str]] = field(default_factory=dict)


def build(name: str) -> JudgedRows:
    """The lists of one name of :data:`BUILDERS`."""
    return BUILDERS[name]()


def write(built: JudgedRows, folder: Path) -> None:
    """Write ``lists.parquet``, ``qrels.parquet`` and, if there are answers, ``answers.parquet`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    asked = [row["query_id"] for row in built.lists]
    qrels = [
        {"query_id": query_id, "doc_id": doc_id, "relevance": relevance}
        for query_id in asked
        for doc_id, relevance in built.qrels.get(query_id, {}).items()
    ]
    _write(built.lists, INPUT_SCHEMA, folder / "lists.parquet")
    _write(qrels, QRELS_SCHEMA, folder / "qrels.parquet")
    if built.answers:
        answers = [{"query_id": query_id, "answers": built.answers.get(query_id, [])} for query_id in asked]
        _write(answers, ANSWERS_SCHEMA, folder / "answers.parquet")


def _write(rows: list[_Row], schema: pa.Schema, path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def _xquad(random_paragraphs: int, words: int | None) -> JudgedRows:
    """The gold paragraph, its four neighbours in the text, and random other paragraphs."""
    collection = read_collection("xquad_long")
    lists = []
    for row in collection.lists:
        texts = row["candidates"]
        gold = next(i for i, c in enumerate(texts) if collection.qrels[row["query_id"]].get(c["doc_id"]))
        near = sorted(range(len(texts)), key=lambda i: (abs(i - gold), i))[:5]
        far = [i for i in range(len(texts)) if i not in near]
        chosen = near + _rng(row["query_id"]).sample(far, random_paragraphs)
        lists.append(_shuffled(row, [texts[i] for i in chosen], words))
    return JudgedRows(lists, collection.qrels, collection.answers)


def _nq() -> JudgedRows:
    """The gold passage, the four best others by BM25, and five random passages of the pool.

    A gold passage that BM25 did not find is taken from the pool: without such queries BM25 would look too good.
    """
    collection = read_collection("nq_pool")
    # Every distinct candidate, in order of first appearance.
    pool = list({c["doc_id"]: c for row in collection.lists for c in row["candidates"]}.values())
    lists = []
    for row in collection.lists:
        relevant = collection.qrels[row["query_id"]]
        gold = [c for c in (*row["candidates"], *pool) if relevant.get(c["doc_id"])][:1]
        hard = [c for c in row["candidates"] if not relevant.get(c["doc_id"])][:4]
        taken = {c["doc_id"] for c in gold + hard} | set(relevant)
        others = _rng(row["query_id"]).sample([c for c in pool if c["doc_id"] not in taken], 5)
        lists.append(_shuffled(row, gold + hard + others, None))
    return JudgedRows(lists, collection.qrels, collection.answers)


def _first(name: str, count: int, words: int | None) -> JudgedRows:
    """The first candidates as they come."""
    collection = read_collection(name)
    lists = [_shuffled(row, row["candidates"][:count], words) for row in collection.lists]
    return JudgedRows(lists, collection.qrels, collection.answers)


def _python_docs() -> JudgedRows:
    """The best documents by BM25, with rank and score."""
    documents = python_docs.collect_documents()
    questions = python_docs.load_questions(PYTHON_QUESTIONS)
    found = python_docs.first_stage(questions, documents, _FIRST_STAGE_DEPTH)
    lists = [
        {
            "query_id": question.query_id,
            "query": question.question,
            "candidates": [asdict(candidate) for candidate in found[question.query_id]],
        }
        for question in questions
    ]
    return JudgedRows(lists, python_docs.judge(questions, documents))


BUILDERS: Final[dict[str, Callable[[], JudgedRows]]] = {
    "xquad-10": lambda: _xquad(5, None),
    "nq-10": _nq,
    "hotpotqa-10": lambda: _first("hotpotqa", 10, None),
    "scifact-10": lambda: _first("scifact", 10, 100),
    "xquad-20-short": lambda: _xquad(15, 100),
    "xquad-20": lambda: _xquad(15, None),
    "python-docs": _python_docs,
}


def read_collection(name: str, collections: Path | None = None) -> JudgedRows:
    folder = (collections or COLLECTIONS) / name
    qrels: dict[str, dict[str, int]] = {}
    for row in _rows(folder / "qrels.parquet"):
        qrels.setdefault(row["query_id"], {})[row["doc_id"]] = row["relevance"]
    answers = {row["query_id"]: row["answers"] for row in _rows(folder / "answers.parquet")}
    return JudgedRows(list(_rows(folder / "candidates.parquet")), qrels, answers)


def _rows(path: Path) -> Iterator[_Row]:
    if path.exists():
        yield from parquet_table(path.read_bytes()).to_pylist()


def _shuffled(row: _Row, candidates: Iterable[_Row], words: int | None) -> _Row:
    # Neither the place in the prompt nor the order of ties tells the gold; without scores the order is kept.
    shown = list(candidates)
    _rng(row["query_id"] + " order").shuffle(shown)
    return {
        "query_id": row["query_id"],
        "query": row["query"],
        "candidates": [{"doc_id": c["doc_id"], "title": c["title"], "text": cut(c["text"], words)} for c in shown],
    }


def cut(text: str, words: int | None) -> str:
    parts: Sequence[str] = text.split()
    return text if words is None or len(parts) <= words else " ".join(parts[:words])


def _rng(key: str) -> random.Random:
    return random.Random(hashlib.sha256(key.encode()).hexdigest())


def main() -> None:
    """Build and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--lists", nargs="*", choices=tuple(BUILDERS), default=tuple(BUILDERS))
    arguments = parser.parse_args()
    if not COLLECTIONS.is_dir():
        raise SystemExit(f"expected the collections in {COLLECTIONS}; they are not part of the repository")
    for name in arguments.lists:
        built = build(name)
        write(built, arguments.output / name)
        print(f"{name}: {len(built.lists)} lists", flush=True)


if __name__ == "__main__":
    main()
