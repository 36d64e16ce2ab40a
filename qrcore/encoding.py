"""From a request to token ids and spans: everything before the model, for machines that need not hold one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from qrcore.errors import ScoreError
from qrcore.ordering import prompt_order
from qrcore.prompts import PromptFormat
from qrcore.records import Document, Order, RankRequest, Span
from qrcore.requests import check_request
from qrcore.timing import TOKENISE, part
from qrcore.tokens import EncodedPrompt, PromptEncoder, SpecialTokens

QuerySpan = Literal["official", "query"]
Ids = npt.NDArray[np.int32]

#: As wide as the marks ``[i]`` of most prompts are.
_USUAL_NUMBER: Final = 999


@dataclass(frozen=True, slots=True)
class PromptLimits:
    """How long a prompt may be, in tokens: ``max_tokens``: what the model is made for; ``window``: how far the
    nearest-sighted of the chosen heads looks back, None if all see everything; ``pass_tokens``: documents, query and
    null query together, None: any number."""

    max_tokens: int
    window: int | None = None
    pass_tokens: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class EncodedRequest:
    """A request in tokens; plain values and int32 arrays, so that it crosses process borders cheaply.

    ``prefix_ids``: the documents, shared by both suffixes; ``query_ids`` and ``null_ids`` follow them, and attention is
    read from their ``query_rows`` and ``null_rows``. ``document_spans``: tokens of the prefix, in the order in which
    the documents were *given*; ``prompt_order[i]``: which given document stands at place i of the prompt.
    ``request``: as it was asked, without the documents' texts. ``uninformative``: the query is the null query.
    """

    request: RankRequest
    prefix_ids: Ids
    query_ids: Ids
    query_rows: Span
    null_ids: Ids
    null_rows: Span
    document_spans: tuple[Span, ...]
    prompt_order: tuple[int, ...]
    uninformative: bool

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the real query's prompt."""
        return len(self.prefix_ids) + len(self.query_ids)

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longer one of the real and the null prompt."""
        return len(self.prefix_ids) + max(len(self.query_ids), len(self.null_ids))

    @property
    def pass_tokens(self) -> int:
        """Tokens of the documents and both suffixes: what goes through the model."""
        return len(self.prefix_ids) + len(self.query_ids) + len(self.null_ids)


class RequestEncoder:
    """Encodes requests with one tokenizer and fixed settings; holds no weights."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt: PromptFormat,
        limits: PromptLimits,
        null_query: str = "N/A",
        query_span: QuerySpan = "official",
        order: Order = "as_given",
        document_special_tokens: SpecialTokens = "text",
        order_seed: int = 0,
    ) -> None:
        self.limits = limits
        self._encoder = PromptEncoder(tokenizer, document_special_tokens)
        self._prompt = prompt
        self._null_query = null_query
        self._query_span = query_span
        self._order = order
        self._order_seed = order_seed

    @part(TOKENISE)
    def encode(self, request: RankRequest) -> EncodedRequest:
        """The request in tokens. Raises :class:`ScoreError` for one that cannot be answered."""
        check_request(request)
        order = prompt_order(request, self._order, self._order_seed)
        documents = [request.documents[position] for position in order]
        asked = self._encoder.encode(self._prompt, request.query, documents)
        null = self._encoder.encode(self._prompt, self._null_query, documents)
        shared = asked.asking_span.start
        assert asked.ids[:shared] == null.ids[:shared], "the query changed the tokens of the documents"
        encoded = EncodedRequest(
            request=_without_texts(request),
            prefix_ids=_array(asked.ids[:shared]),
            query_ids=_array(asked.ids[shared:]),
            query_rows=self._rows(asked),
            null_ids=_array(null.ids[shared:]),
            null_rows=self._rows(null),
            document_spans=_in_given_order(asked.document_spans, order),
            prompt_order=tuple(order),
            uninformative=request.query == self._null_query,
        )
        self._check_length(encoded.longest_prompt)
        self._check_pass(encoded.pass_tokens)
        return encoded

    def within(self, window_tokens: int | None, pass_tokens: int | None) -> RequestEncoder:
        """The same encoder for prompts of at most ``window_tokens`` and passes of at most ``pass_tokens``."""
        longest = self.limits.max_tokens if window_tokens is None else min(self.limits.max_tokens, window_tokens)
        narrower = copy(self)
        narrower.limits = PromptLimits(longest, self.limits.window, pass_tokens)
        return narrower

    def room(self, query: str) -> int:
        """How many tokens of documents fit a prompt with this query. Raises :class:`ScoreError` if none do."""
        asked, null = (self._encoder.encode(self._prompt, text, ()) for text in (query, self._null_query))
        frame = max(len(asked.ids), len(null.ids))
        room = min(self.limits.max_tokens, self.limits.window or self.limits.max_tokens) - frame
        if self.limits.pass_tokens is not None:
            both = len(asked.ids) + len(null.ids) - null.asking_span.start
            room = min(room, self.limits.pass_tokens - both)
        if room < 1:
            raise ScoreError(
                "context_too_long",
                f"query: expected it to leave room for documents in a prompt, its prompt has {frame} tokens without "
                "any. Shorten the query, or allow longer prompts.",
                stage="tokenise",
            )
        return room

    def document_tokens(self, document: Document) -> int:
        """About how many tokens a document takes of a prompt, its mark and title included; rather more than less."""
        return self._encoder.count(self._prompt.block(_USUAL_NUMBER, document))

    def text_offsets(self, text: str) -> list[tuple[int, int]]:
        """Half-open character spans of the tokens of a document's text."""
        return self._encoder.offsets(text)

    @property
    def null_query(self) -> str:
        """What scores are calibrated against."""
        return self._null_query

    def encode_many(self, requests: Iterable[RankRequest]) -> Iterator[EncodedRequest | ScoreError]:
        """Each request in tokens, or why it cannot be answered, in order."""
        for request in requests:
            try:
                yield self.encode(request)
            except ScoreError as error:
                error.query_id = request.query_id
                error.__traceback__ = error.__context__ = None
                yield error

    def _rows(self, prompt: EncodedPrompt) -> Span:
        """Which of the suffix's tokens attention is read from."""
        start = prompt.asking_span.start
        rows = prompt.asking_span if self._query_span == "official" else prompt.query_span
        if rows.start == rows.stop:
            raise ScoreError(
                "empty_query",
                "query: expected text to read attention from (query_span=query), got an empty string. Fill it in.",
                stage="tokenise",
            )
        return Span(rows.start - start, rows.stop - start)

    def _check_length(self, tokens: int) -> None:
        limits = self.limits
        if tokens > limits.max_tokens:
            raise ScoreError(
                "context_too_long",
                f"prompt: expected at most {limits.max_tokens} tokens for this model, got {tokens}. "
                "Pass fewer or shorter candidates, or a model with a longer context.",
                stage="tokenise",
            )
        if limits.window is not None and tokens > limits.window:
            raise ScoreError(
                "sliding_window_exceeded",
                f"prompt: a chosen head lies in a sliding-window layer that sees {limits.window} tokens, and the "
                f"prompt has {tokens}. Choose heads of full-attention layers, or set allow_sliding_window.",
                stage="tokenise",
            )

    def _check_pass(self, tokens: int) -> None:
        allowed = self.limits.pass_tokens
        if allowed is not None and tokens > allowed:
            raise ScoreError(
                "context_too_long",
                f"prompt: expected at most {allowed} tokens of documents, query and null query, as memory allows, got "
                f"{tokens}. Pass fewer or shorter candidates, or allow more memory.",
                stage="tokenise",
            )


def _array(ids: Sequence[int]) -> Ids:
    return np.array(ids, dtype=np.int32)


def _without_texts(request: RankRequest) -> RankRequest:
    documents = tuple(Document(d.doc_id, "", None, d.score, d.rank) for d in request.documents)
    return replace(request, documents=documents)


def _in_given_order(spans: Sequence[Span], order: Sequence[int]) -> tuple[Span, ...]:
    by_document = dict(zip(order, spans, strict=True))
    return tuple(by_document[position] for position in range(len(spans)))
