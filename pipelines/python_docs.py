"""A small real collection: questions of programmers over the documentation strings of the standard library."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import python_corpus
from pipelines.bm25 import Bm25Index
from pipelines.schemas import INPUT_SCHEMA, QRELS_SCHEMA
from pipelines.storage import Storage, join
from qrcore.errors import ConfigError, InputError

#: Where `build` puts things below its output.
SHARDS_FOLDER: Final = "shards"
QRELS_FILE: Final = "labels/qrels.parquet"


@dataclass(frozen=True, slots=True)
class PythonDoc:
    """One documentation string: `doc_id` is the shortest of its public dotted `names`, which all carry this text."""

    doc_id: str
    names: tuple[str, ...]
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Question:
    """A question in plain words, the public names whose documentation answers it, and its split (dev or test)."""

    query_id: str
    question: str
    gold: tuple[str, ...]
    split: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """One document of a first-stage list; `rank` counts from 1."""

    doc_id: str
    title: str
    text: str
    score: float
    rank: int


@dataclass(frozen=True, slots=True)
class BuildCounts:
    """What `build` wrote. `unanswerable` questions were left out: this Python documents none of their answers."""

    documents: int
    questions: int
    unanswerable: int
    judgements: int
    candidates: int
    shards: int


def collect_documents() -> list[PythonDoc]:
    """Collect the public documentation strings of the standard library, one document per text, ordered by `doc_id`.

    A text is the signature and the first paragraph, together at most 60 words. It is read in a fresh interpreter, so
    the result depends on the Python version and platform alone. Raises :class:`InputError` if that interpreter fails.
    """
    names_of: dict[str, list[str]] = {}
    for name, text in _names_and_texts().items():
        names_of.setdefault(text, []).append(name)
    documents = []
    for text, names in names_of.items():
        names.sort(key=lambda name: (len(name), name))
        documents.append(PythonDoc(doc_id=names[0], names=tuple(names), title=names[0], text=text))
    return sorted(documents, key=lambda document: document.doc_id)


def load_questions(path: str | Path) -> list[Question]:
    """Read questions from a file with one JSON object a line; raises :class:`InputError` for a line that is not one."""
    questions = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            questions.append(Question(row["query_id"], row["question"], tuple(row["gold"]), row["split"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}, line {number}: expected an object with query_id, question, gold and split, "
                f"got {line[:80]!r}. Correct the line."
            ) from error
    return questions


def judge(questions: Sequence[Question], documents: Sequence[PythonDoc]) -> dict[str, dict[str, int]]:
    """Relevance by query and document: a gold name stands for the document that carries it, whatever its `doc_id`.

    Names that this Python does not document are skipped, and questions without any other are absent.
    """
    doc_id_of = {name: document.doc_id for document in documents for name in document.names}
    judged = {}
    for question in questions:
        relevant = {doc_id_of[name]: 1 for name in question.gold if name in doc_id_of}
        if relevant:
            judged[question.query_id] = relevant
    return judged


def first_stage(questions: Sequence[Question], documents: Sequence[PythonDoc], k: int) -> dict[str, list[Candidate]]:
    """The `k` best documents for each question by BM25 over title and text; fewer where fewer share a word with it.

    Lucene's variant with k1 = 0.9 and b = 0.4 (the settings of Anserini's baselines), English stop words and Snowball
    stems. Names are split into words. Ties keep the order of `documents`.
    """
    index = Bm25Index([f"{document.title} {document.text}" for document in documents], clean=split_identifiers)
    found = {}
    for question in questions:
        hits = index.top(question.question, k)
        ranked = [(documents[hit.position], hit.score) for hit in hits]
        found[question.query_id] = [
            Candidate(document.doc_id, document.title, document.text, score, rank)
            for rank, (document, score) in enumerate(ranked, start=1)
        ]
    return found


def build(output_uri: str, questions_path: str | Path, k: int, shards: int, split: str | None = None) -> BuildCounts:
    """Write input shards and their judgements below `output_uri`, for all questions or those of one split.

    Shards go to `shards/part-*.parquet`, judgements to `labels/qrels.parquet`. A relevant document that the first
    stage misses stays missing. Raises :class:`ConfigError` for numbers below 1 and :class:`InputError` if the folder
    of shards holds other files, which a job would read as well.
    """
    if k < 1 or shards < 1:
        raise ConfigError(f"expected k and shards of at least 1, got k={k} and shards={shards}. Raise them.")
    documents = collect_documents()
    asked = [question for question in load_questions(questions_path) if split in (None, question.split)]
    judged = judge(asked, documents)
    questions = [question for question in asked if question.query_id in judged]
    found = first_stage(questions, documents, k)
    written = _write_shards(join(output_uri, SHARDS_FOLDER), questions, found, shards)
    judgements = _write_qrels(join(output_uri, QRELS_FILE), judged)
    return BuildCounts(
        documents=len(documents),
        questions=len(questions),
        unanswerable=len(asked) - len(questions),
        judgements=judgements,
        candidates=sum(map(len, found.values())),
        shards=written,
    )


def split_identifiers(text: str) -> str:
    """Put spaces where dots, underscores and camel case join words: `os.makeDirs_now` gives `os make Dirs now`."""
    text = re.sub(r"[._]+", " ", text)
    text = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", text)
    # "HTMLParser" is two words, "IPv4" is one.
    return re.sub(r"([A-Z]{2,})([A-Z][a-z])", r"\1 \2", text)


def _names_and_texts() -> dict[str, str]:
    # -I and -S: without the user's modules, environment and site-packages.
    command = [sys.executable, "-I", "-S", python_corpus.__file__]
    finished = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if finished.returncode != 0:
        message = finished.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise InputError(
            f"expected {' '.join(command)} to read the standard library, it failed with {message!r}. "
            "Check that this Python is installed completely."
        )
    texts: dict[str, str] = json.loads(finished.stdout)
    return texts


def _write_shards(
    folder: str, questions: Sequence[Question], found: Mapping[str, Sequence[Candidate]], shards: int
) -> int:
    rows = [
        {
            "query_id": question.query_id,
            "query": question.question,
            "candidates": [asdict(candidate) for candidate in found[question.query_id]],
        }
        for question in questions
    ]
    size = max(1, -(-len(rows) // shards))
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    names = [f"part-{number:03d}.parquet" for number in range(len(parts))]
    storage = Storage(folder)
    strangers = {file.uri.rpartition("/")[2] for file in storage.list_files(folder)} - set(names)
    if strangers:
        raise InputError(f"{folder}: expected no other files, found {sorted(strangers)[0]}. Choose an empty folder.")
    for name, part in zip(names, parts, strict=True):
        _put_if_changed(storage, join(folder, name), _parquet(part, INPUT_SCHEMA))
    return len(parts)


def _write_qrels(uri: str, judged: Mapping[str, Mapping[str, int]]) -> int:
    rows = [
        {"query_id": query_id, "doc_id": doc_id, "relevance": relevance}
        for query_id, relevant in judged.items()
        for doc_id, relevance in relevant.items()
    ]
    _put_if_changed(Storage(uri), uri, _parquet(rows, QRELS_SCHEMA))
    return len(rows)


def _put_if_changed(storage: Storage, uri: str, data: bytes) -> None:
    # A run is tied to its input files: writing the same bytes again would make the next run start from nothing.
    if not storage.exists(uri) or storage.read(uri) != data:
        storage.replace(uri, data)


def _parquet(rows: list[dict[str, Any]], schema: pa.Schema) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink)
    return sink.getvalue()
