"""TREC's text formats: runs (``query Q0 doc rank score tag``) and judgements (``query 0 doc relevance``).

Order is the rank column's, in and out. trec_eval itself looks at scores only and breaks ties by id, so an exported run
carries falling scores that say the same as its ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from qrcore.errors import InputError


class RunLine(NamedTuple):
    """One line of a run; ranks count from 1."""

    query_id: str
    doc_id: str
    rank: int
    score: float


def read_run(uri: str, text: str) -> dict[str, list[RunLine]]:
    """A run by query, best first. Ranks may begin at 0. Raises :class:`InputError` naming the line."""
    lines: dict[str, list[RunLine]] = {}
    for number, fields in _fields(text):
        if len(fields) not in (5, 6):
            raise _bad(uri, number, "query Q0 doc rank score tag", fields)
        try:
            line = RunLine(fields[0], fields[2], int(fields[3]), float(fields[4]))
        except ValueError as error:
            raise _bad(uri, number, "a whole rank and a score", fields) from error
        lines.setdefault(line.query_id, []).append(line)
    return {query_id: _ranked(uri, query_id, found) for query_id, found in lines.items()}


def _ranked(uri: str, query_id: str, lines: list[RunLine]) -> list[RunLine]:
    lines = sorted(lines, key=lambda line: line.rank)
    ranks = [line.rank for line in lines]
    if len(set(ranks)) != len(ranks) or ranks[0] < 0:
        raise InputError(
            f"run {uri}, query {query_id!r}: expected each rank once, from 1 or 0, got "
            f"{', '.join(map(str, ranks[:6]))}. Write the places into the rank column; scores do not decide the order."
        )
    return [line._replace(rank=line.rank + 1) for line in lines] if ranks[0] == 0 else lines


def write_run(rankings: Iterable[tuple[str, Sequence[str]]], tag: str) -> Iterator[str]:
    """Lines of a run from (query_id, doc_ids best first). Raises :class:`InputError` for ids with white space."""
    for query_id, doc_ids in rankings:
        for rank, doc_id in enumerate(doc_ids, start=1):
            yield f"{_name(query_id)} Q0 {_name(doc_id)} {rank} {len(doc_ids) - rank + 1} {tag}\n"


def read_qrels(uri: str, text: str) -> dict[str, dict[str, int]]:
    """Judgements by query and document: TREC's four columns, or BEIR's three under a header line.

    Raises :class:`InputError` naming the line.
    """
    qrels: dict[str, dict[str, int]] = {}
    for number, fields in _fields(text):
        if number == 1 and fields[-1].lower() in ("score", "relevance", "rel"):
            continue
        if len(fields) not in (3, 4):
            raise _bad(uri, number, "query 0 doc relevance", fields)
        try:
            qrels.setdefault(fields[0], {})[fields[-2]] = _grade(fields[-1])
        except ValueError as error:
            raise _bad(uri, number, "a whole relevance", fields) from error
    return qrels


def _grade(text: str) -> int:
    if (value := float(text)) != int(value):
        raise ValueError(text)
    return int(value)


def write_qrels(qrels: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """Lines of TREC judgements. Raises :class:`InputError` for ids with white space."""
    for query_id, judged in qrels.items():
        for doc_id, relevance in judged.items():
            yield f"{_name(query_id)} 0 {_name(doc_id)} {relevance}\n"


def _fields(text: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if fields := line.split():
            yield number, fields


def _name(name: str) -> str:
    if name.split() != [name]:
        raise InputError(
            f"TREC export: expected ids without white space, got {name!r}. Rename it, or use the Parquet output."
        )
    return name


def _bad(uri: str, number: int, expected: str, fields: Sequence[str]) -> InputError:
    return InputError(f"{uri}, line {number}: expected {expected}, got {' '.join(fields)[:80]!r}. Correct the line.")
