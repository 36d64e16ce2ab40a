"""The contract of methods that score the candidates of a query."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from qrcore.encoding import EncodedRequest, RequestEncoder
from qrcore.errors import ScoreError
from qrcore.heads import Head, HeadSet
from qrcore.models import LanguageModel
from qrcore.records import Document, Order, Ranking, RankRequest, ScorerIdentity, Span


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """Raw attention of the heads over one prompt: what every method computes from.

    ``query_attention`` and ``null_attention``: ``[head, token]`` float32, softmax attention averaged over the rows
    of the query and of the null query, over the ``token_ids`` of the document prefix that both share. ``heads``:
    each head once, the order of the first axis. ``document_spans``: half-open token spans in the order in which the
    documents were *given*; ``prompt_order[i]``: which given document stands at place i of the prompt.
    """

    heads: tuple[Head, ...]
    query_attention: Tensor
    null_attention: Tensor
    token_ids: tuple[int, ...]
    document_spans: tuple[Span, ...]
    prompt_order: tuple[int, ...]
    prompt_tokens: int


class Scorer(Protocol):
    """Scores candidates with one model and one fixed head set."""

    @property
    def heads(self) -> HeadSet: ...

    @property
    def language_model(self) -> LanguageModel | None:
        """The same weights with all layers and the language-model head, where they were loaded so (``depth=full``)."""
        ...

    @property
    def max_tokens(self) -> int: ...

    @property
    def identity(self) -> ScorerIdentity: ...

    @property
    def encoder(self) -> RequestEncoder:
        """What :meth:`encode` uses, for requests that are to be shorter still."""
        ...

    @property
    def largest_pass(self) -> int | None:
        """Tokens of documents, query and null query that fit the memory allowed; None: any number."""
        ...

    def score(self, query: str, docs: Sequence[Document]) -> list[float]: ...

    def score_heads(self, query: str, docs: Sequence[Document]) -> Tensor: ...

    def read(self, query: str, docs: Sequence[Document]) -> Reading: ...

    def score_reading(self, reading: Reading, heads: Sequence[Head]) -> list[float]:
        """Scores of the documents of a reading, in the order given, as a scorer of ``heads`` alone would give them."""
        ...

    def variant(self, heads: HeadSet | None = None, order: Order | None = None) -> Scorer:
        """The same model with other heads of the layers that it holds, or another order of documents."""
        ...

    def rank(self, query: str, docs: Sequence[Document]) -> Ranking: ...

    def rank_many(self, requests: Iterable[RankRequest]) -> Iterator[Ranking | ScoreError]:
        """A ranking or the reason why there is none, for each request in order; requests may share passes."""
        ...

    def encode(self, request: RankRequest) -> EncodedRequest:
        """The request in tokens. Raises :class:`ScoreError`."""
        ...

    def rank_encoded(self, entries: Sequence[EncodedRequest | ScoreError]) -> Iterator[Ranking | ScoreError]:
        """:meth:`rank_many` of requests that are encoded; errors are handed through."""
        ...
