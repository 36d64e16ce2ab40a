"""Frozen records that cross borders: what is asked and what is answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Order = Literal["as_given", "reversed", "shuffled"]

#: Flag of a ranking whose query equals the null query: there is nothing to calibrate against.
UNINFORMATIVE_QUERY = "uninformative_query"
#: Flag of a ranking of which documents were cut, because the settings say so.
TRUNCATED_DOCUMENTS = "truncated_documents"

#: Flag of a ranking whose query is one that the heads were found on: its judgements prove nothing of them.
DETECTION_QUERY = "detection_query"


class Span(NamedTuple):
    """A half-open range ``[start, stop)`` of token or character positions."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Document:
    """One candidate. ``score`` and ``rank`` are the first stage's; they never enter a score of ours.

    ``rank`` breaks ties and comes back as ``input_rank``; None stands for the place in the list, from 1.
    """

    doc_id: str
    text: str
    title: str | None = None
    score: float | None = None
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class RankRequest:
    """A query and its candidates, in first-stage order (best first) where there is one."""

    query: str
    documents: tuple[Document, ...]
    query_id: str | None = None


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """One line of a ranking; ranks count from 1, ``score`` is a float32 value.

    ``round``: the last prompt that the document was in, from 1; ``cut_tokens``: what was cut off its text, which
    happens only where the settings say so.
    """

    doc_id: str
    rank: int
    score: float
    input_rank: int
    input_score: float | None
    round: int = 1
    cut_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Ranking:
    """Every candidate of one query exactly once, best first.

    ``prompt_tokens`` counts the prompts of the real query; ``windows`` the prompts that were needed; scores are
    comparable within one prompt only, as those of the documents of the last ``round`` are.
    """

    query_id: str | None
    documents: tuple[RankedDocument, ...]
    prompt_tokens: int
    windows: int = 1
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ScorerIdentity:
    """What a loaded scorer is, in plain values: everything that ``auto`` came to, and what the weights are.

    ``revision``: the commit of a hub model; ``prompt``: all fields of the prompt format; ``setup_sha256``: of the
    configuration and the tokenizer's files; ``kept_layers`` of ``layers`` were loaded; ``max_tokens``: the longest
    prompt the model is made for; ``warnings``: what is not known or not right of the head set and the model;
    ``detection_tokens``: quantiles of the prompts that the heads were found with, if the head set tells; ``sight``: how
    far the nearest-sighted head looks back, None: everything; ``largest_pass``: tokens of documents, query and null
    query that memory allows, None: any.
    ``detection_tokens``: quantiles of the prompts that the heads were found with, and ``detection_queries`` the
    queries, as :func:`qrcore.matching.query_digest` writes them, if the head set tells.
    """

    head_set_id: str
    heads: tuple[str, ...]
    prompt: dict[str, Any]
    prompt_sha256: str
    revision: str | None
    weights_sha256: str
    setup_sha256: str
    layers: int
    kept_layers: int
    dtype: str
    device: str
    max_tokens: int
    warnings: tuple[str, ...] = ()
    detection_tokens: dict[str, int] | None = None
    sight: int | None = None
    largest_pass: int | None = None
    detection_queries: frozenset[str] = frozenset()
