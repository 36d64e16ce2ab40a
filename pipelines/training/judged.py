"""Judged lists: queries with candidates of which some are known to be relevant, split into dev and test."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import pyarrow as pa

from pipelines.identity import content_hash
from pipelines.inputs import list_inputs
from pipelines.labels import Qrels, load_qrels
from pipelines.rows import read_input_rows, request_from_row
from pipelines.schemas import SCHEMA_VERSION, SCHEMA_VERSION_KEY, check_input_schema, is_list, is_text
from pipelines.splits import Part, part_of
from pipelines.storage import Storage, StorageOptions
from pipelines.units import parquet_table
from qrcore.errors import InputError, ScoreError
from qrcore.records import Document, RankRequest
from qrcore.requests import check_request

ANSWERS_SCHEMA: Final = pa.schema(
    [pa.field("query_id", pa.string()), pa.field("answers", pa.list_(pa.string()))],
    metadata={SCHEMA_VERSION_KEY: SCHEMA_VERSION.encode()},
)


@dataclass(frozen=True, slots=True)
class JudgedList:
    """One query, its candidates in prompt order, and the relevance of those among them that are relevant.

    ``answers``: strings that answer the query, if known. ``missed``: relevant documents that are no candidates.
    """

    query_id: str
    query: str
    documents: tuple[Document, ...]
    relevance: dict[str, int]
    answers: tuple[str, ...] = ()
    missed: frozenset[str] = frozenset()

    @property
    def is_dev(self) -> bool:
        """Whether the query belongs to the 40 % on which choices are made."""
        return part_of(self.query_id) == "dev"

    @property
    def relevant_places(self) -> tuple[int, ...]:
        """The places in the prompt, from 1, of the relevant documents."""
        return tuple(
            place for place, document in enumerate(self.documents, start=1) if document.doc_id in self.relevance
        )


@dataclass(frozen=True, slots=True)
class JudgedSet:
    """The judged lists of one collection; ``ranked``: every candidate has its first stage's rank."""

    name: str
    lists: tuple[JudgedList, ...]
    ranked: bool

    @property
    def hash(self) -> str:
        """SHA-256 of everything that a measurement depends on, hexadecimal; not of where it is stored."""
        return content_hash([self.name, self.ranked, [_content(entry) for entry in self.lists]])

    def part(self, part: Part) -> tuple[JudgedList, ...]:
        """The lists of one part of the split, in their order."""
        return tuple(entry for entry in self.lists if entry.is_dev == (part == "dev"))


def _content(entry: JudgedList) -> list[Any]:
    documents = [[one.doc_id, one.title, one.text, one.rank] for one in entry.documents]
    return [entry.query_id, entry.query, documents, entry.relevance, entry.answers, sorted(entry.missed)]


def read_judged_set(
    name: str,
    inputs: Sequence[str],
    qrels: str,
    answers: str | None = None,
    storage_options: StorageOptions | None = None,
) -> JudgedSet:
    """The judged lists in input shards; those without a relevant document among their candidates are left out.

    ``qrels`` and ``answers`` (rows ``query_id``, ``answers: list<string>``) are Parquet files or folders of them.
    Candidates with ranks, or with scores alone, keep their first-stage rank and stand in the prompt in an order drawn
    from a hash of the query_id, so that the place tells nothing; others stand as stored. Raises :class:`InputError`
    for rows that break the contract, a query_id that comes twice, and if no list is left.
    """
    options = storage_options or StorageOptions()
    relevance = load_qrels(qrels, options)
    texts = _load_answers(answers, options) if answers is not None else {}
    lists: dict[str, JudgedList] = {}
    for request in _requests(inputs, options):
        query_id = str(request.query_id)
        if query_id in lists:
            raise InputError(f"lists {name}: expected each query_id once, got {query_id!r} twice. Remove one of them.")
        lists[query_id] = _judged(request, relevance, texts.get(query_id, ()))
    kept = tuple(entry for entry in lists.values() if entry.relevance)
    if not kept:
        raise InputError(
            f"lists {name}: expected lists with a relevant document among the candidates, got {len(lists)} lists and "
            f"none with one. Check that {qrels} judges the query_ids and doc_ids of these lists."
        )
    return JudgedSet(name, kept, ranked=all(d.rank is not None for entry in kept for d in entry.documents))


def _requests(inputs: Sequence[str], options: StorageOptions) -> Iterator[RankRequest]:
    for uri, table in _tables(inputs, options):
        if problems := check_input_schema(table.schema):
            raise InputError(f"{uri}: expected an input shard; {'; '.join(problems)}.")
        for number, row in enumerate(read_input_rows(table)):
            try:
                request = row if isinstance(row, ScoreError) else request_from_row(row)
                if isinstance(request, ScoreError):
                    raise request
                check_request(request)
            except ScoreError as error:
                if error.code == "no_candidates":  # a first stage that found nothing found nothing relevant
                    continue
                raise InputError(f"{uri}, row {number}: {error}") from error
            yield request


def _judged(request: RankRequest, qrels: Qrels, answers: Sequence[str]) -> JudgedList:
    query_id = str(request.query_id)
    documents = _in_prompt_order(query_id, request.documents)
    relevant = {doc_id: grade for doc_id, grade in qrels.get(query_id, {}).items() if grade > 0}
    shown = {document.doc_id for document in documents}
    return JudgedList(
        query_id=query_id,
        query=request.query,
        documents=documents,
        relevance={doc_id: grade for doc_id, grade in relevant.items() if doc_id in shown},
        answers=tuple(answers),
        missed=frozenset(relevant.keys() - shown),
    )


def _in_prompt_order(query_id: str, documents: Sequence[Document]) -> tuple[Document, ...]:
    if any(document.rank is None for document in documents):
        if not _come_by_score(documents):
            return tuple(documents)
        documents = [replace(document, rank=rank) for rank, document in enumerate(documents, start=1)]
    shown = list(documents)
    random.Random(hashlib.sha256(f"{query_id} order".encode()).hexdigest()).shuffle(shown)
    return tuple(shown)


def _come_by_score(documents: Sequence[Document]) -> bool:
    scores = [document.score for document in documents if document.score is not None and not math.isnan(document.score)]
    return len(scores) == len(documents) and scores == sorted(scores, reverse=True)


def _load_answers(uri: str, options: StorageOptions) -> Mapping[str, list[str]]:
    answers: dict[str, list[str]] = {}
    for file, table in _tables([uri], options):
        if problem := _answers_problem(table.schema):
            raise InputError(
                f"answers {file}: expected query_id: string, answers: list<string>; {problem}. Correct it."
            )
        try:
            rows = table.select(ANSWERS_SCHEMA.names).to_pylist()
        except UnicodeDecodeError as error:
            raise InputError(
                f"answers {file}: expected UTF-8 text, got other bytes ({error}). Re-encode it."
            ) from error
        for row in rows:
            answers.setdefault(row["query_id"], []).extend(
                text.strip() for text in row["answers"] or () if text and text.strip()
            )
    return answers


def _answers_problem(schema: pa.Schema) -> str:
    for name in ANSWERS_SCHEMA.names:
        if name not in schema.names:
            return f"column {name!r} is missing"
    if not is_text(schema.field("query_id").type):
        return f"query_id has type {schema.field('query_id').type}"
    kind = schema.field("answers").type
    return "" if is_list(kind) and is_text(kind.value_type) else f"answers has type {kind}"


def _tables(uris: Sequence[str], options: StorageOptions) -> Iterator[tuple[str, Any]]:
    for info in list_inputs(uris, options):
        data = Storage(info.uri, options).read(info.uri)
        try:
            table = parquet_table(data)
        except (pa.ArrowException, OSError) as error:
            problem = str(error).splitlines()[0]
            raise InputError(f"{info.uri}: expected Parquet, got {problem}. Write the file again.") from error
        yield info.uri, table
