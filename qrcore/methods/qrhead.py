"""QRRetriever: rank documents by the attention of query-focused retrieval heads (arXiv 2506.09944).

A prompt holds all candidates and then the query. A document's score is the attention that the query's tokens pay to
its tokens, summed over the chosen heads, minus the same for an empty query, without each document's low outliers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from qrcore.attention.read import Suffix, read_attention
from qrcore.contracts.method import Method, Needs
from qrcore.contracts.scorer import Reading
from qrcore.errors import HeadSetError, ScoreError
from qrcore.heads import Head, HeadSet, unique_heads
from qrcore.models import LanguageModel, LoadedModel, out_of_memory_as_error, setup_sha256, weights_sha256
from qrcore.ordering import prompt_order
from qrcore.prompts import PromptFormat
from qrcore.records import UNINFORMATIVE_QUERY, Document, Order, Ranking, RankRequest, ScorerIdentity, Span
from qrcore.requests import check_request
from qrcore.scoring import calibrate, pool_documents, rank_documents
from qrcore.tokens import EncodedPrompt, PromptEncoder, SpecialTokens

QuerySpan = Literal["official", "query"]


@dataclass(frozen=True, slots=True)
class QRHeadSettings:
    """Settings that change scores.

    ``query_span``: ``official`` averages over instruction, label, query and suffix as the published code does,
    ``query`` over the query's own tokens (the paper's Eq. 2). ``calibration_weight``: 1 is the paper's calibration,
    0 none. ``allow_sliding_window``: read heads of sliding-window layers even when the prompt exceeds the window.
    """

    prompt: PromptFormat
    null_query: str = "N/A"
    calibration_weight: float = 1.0
    query_span: QuerySpan = "official"
    order: Order = "as_given"
    document_special_tokens: SpecialTokens = "text"
    allow_sliding_window: bool = False


class QRHeadScorer:
    """Scores with one loaded model and one fixed head set; see :class:`qrcore.contracts.scorer.Scorer`."""

    def __init__(
        self,
        model: LoadedModel,
        heads: HeadSet,
        settings: QRHeadSettings,
        warnings: Sequence[str] = (),
        language_model: LanguageModel | None = None,
    ) -> None:
        self.heads = heads
        self.warnings = tuple(warnings)
        self.settings = settings
        self.model = model
        self.language_model = language_model
        self._encoder = PromptEncoder(model.tokenizer, settings.document_special_tokens)
        self._unique_heads = unique_heads(heads.head_list)
        self._window = _tightest_window(model, self._unique_heads)

    @property
    def max_tokens(self) -> int:
        """The longest prompt, query included, that the model is made for."""
        return self.model.source.max_tokens

    @property
    def identity(self) -> ScorerIdentity:
        """What this scorer is, in plain values."""
        source = self.model.source
        return ScorerIdentity(
            head_set_id=self.heads.id,
            heads=self.heads.heads,
            prompt=asdict(self.settings.prompt),
            prompt_sha256=self.settings.prompt.hash,
            revision=source.revision,
            weights_sha256=weights_sha256(source.path),
            setup_sha256=setup_sha256(source.path),
            layers=source.shape.layers,
            kept_layers=self.model.depth,
            dtype=str(self.model.model.dtype).removeprefix("torch."),
            device=str(self.model.model.device),
            max_tokens=self.max_tokens,
            warnings=self.warnings,
            detection_tokens=self.heads.prompt_tokens,
        )

    def score(self, query: str, docs: Sequence[Document]) -> list[float]:
        """Scores in the documents' order. Raises :class:`ScoreError`."""
        return self._score(RankRequest(query, tuple(docs)))[0]

    def score_heads(self, query: str, docs: Sequence[Document]) -> Tensor:
        """Scores per head, ``[doc, layer, head]`` over all layers and heads of the uncut model, calibrated and
        filtered per head; NaN for heads that are not in :attr:`heads`. Raises :class:`ScoreError`."""
        reading = self.read(query, docs)
        pooled = pool_documents(self._calibrated(reading), reading.document_spans)  # [head, doc]
        shape = self.model.source.shape
        scores = torch.full((len(docs), shape.layers, shape.query_heads), float("nan"))
        for index, head in enumerate(reading.heads):
            scores[:, head.layer, head.head] = pooled[index].cpu()
        return scores

    def read(self, query: str, docs: Sequence[Document]) -> Reading:
        """Raw attention under the query and under the null query. Raises :class:`ScoreError`."""
        request = RankRequest(query, tuple(docs))
        check_request(request)
        return self._read(request)

    def score_reading(self, reading: Reading, heads: Sequence[Head]) -> list[float]:
        """Scores of the documents of a reading, in the order given, as a scorer of ``heads`` alone would give them; a
        head that is named twice counts twice. Raises :class:`ScoreError` for scores that are no numbers."""
        places = [reading.heads.index(head) for head in heads]
        scores = pool_documents(self._calibrated(reading)[places].sum(dim=0), reading.document_spans)
        if not bool(torch.isfinite(scores).all()):
            raise ScoreError(
                "non_finite",
                f"scores: expected finite numbers, got NaN or infinity in {self.model.model.dtype}. "
                "Run again with dtype=float32.",
                stage="score",
            )
        values: list[float] = scores.tolist()
        return values

    def variant(self, heads: HeadSet | None = None, order: Order | None = None) -> QRHeadScorer:
        """The same loaded model with other heads of the layers that it holds, or another order of documents.

        Raises :class:`HeadSetError` for heads that are not there.
        """
        chosen = heads or self.heads
        chosen.check_fits(self.model.source.shape)
        if chosen.depth > self.model.depth:
            raise HeadSetError(
                f"head set {chosen.name!r}: expected heads of the {self.model.depth} layers that are loaded, got some "
                f"in layer {chosen.depth - 1}. Load a scorer of the deepest set first."
            )
        settings = replace(self.settings, order=order or self.settings.order)
        return QRHeadScorer(self.model, chosen, settings, self.warnings, self.language_model)

    def rank(self, query: str, docs: Sequence[Document]) -> Ranking:
        """The documents best first, every one exactly once. Raises :class:`ScoreError`."""
        return self._rank(RankRequest(query, tuple(docs)))

    def rank_many(self, requests: Iterable[RankRequest]) -> Iterator[Ranking | ScoreError]:
        """A ranking or the reason why there is none, for each request in order."""
        for request in requests:
            yield self._answer(request)

    def _answer(self, request: RankRequest) -> Ranking | ScoreError:
        try:
            return self._rank(request)
        except ScoreError as error:
            error.query_id = request.query_id
            # The frames behind an error hold its tensors: kept with the error, they would starve the rows after it.
            error.__traceback__ = error.__cause__ = error.__context__ = None
            return error

    def _rank(self, request: RankRequest) -> Ranking:
        if request.query == self.settings.null_query:
            return self._uninformative(request)
        with out_of_memory_as_error():
            scores, prompt_tokens = self._score(request)
        return Ranking(request.query_id, rank_documents(request, scores), prompt_tokens)

    def _uninformative(self, request: RankRequest) -> Ranking:
        # The query and its own calibration cancel: what is left is rounding noise, which must not decide an order.
        check_request(request)
        encoded, _ = self._encode(request, prompt_order(request, self.settings.order))
        documents = rank_documents(request, [0.0] * len(request.documents))
        return Ranking(request.query_id, documents, len(encoded.ids), flags=(UNINFORMATIVE_QUERY,))

    def _score(self, request: RankRequest) -> tuple[list[float], int]:
        check_request(request)
        reading = self._read(request)
        return self.score_reading(reading, self.heads.head_list), reading.prompt_tokens

    def _calibrated(self, reading: Reading) -> Tensor:
        return calibrate(reading.query_attention, reading.null_attention, self.settings.calibration_weight)

    def _read(self, request: RankRequest) -> Reading:
        order = prompt_order(request, self.settings.order)
        asked, null = self._encode(request, order)
        self._check_length(max(len(asked.ids), len(null.ids)))
        shared = asked.asking_span.start
        suffixes = [self._suffix(asked), self._suffix(null)]
        with torch.inference_mode():
            query_attention, null_attention = read_attention(
                self.model.model, asked.ids[:shared], suffixes, self._unique_heads
            )
        return Reading(
            heads=self._unique_heads,
            query_attention=query_attention[:, :shared],
            null_attention=null_attention[:, :shared],
            token_ids=asked.ids[:shared],
            document_spans=_in_given_order(asked.document_spans, order),
            prompt_order=tuple(order),
            prompt_tokens=len(asked.ids),
        )

    def _encode(self, request: RankRequest, order: Sequence[int]) -> tuple[EncodedPrompt, EncodedPrompt]:
        documents = [request.documents[position] for position in order]
        asked = self._encoder.encode(self.settings.prompt, request.query, documents)
        null = self._encoder.encode(self.settings.prompt, self.settings.null_query, documents)
        shared = asked.asking_span.start
        assert asked.ids[:shared] == null.ids[:shared], "the query changed the tokens of the documents"
        return asked, null

    def _suffix(self, prompt: EncodedPrompt) -> Suffix:
        start = prompt.asking_span.start
        rows = prompt.asking_span if self.settings.query_span == "official" else prompt.query_span
        if rows.start == rows.stop:
            raise ScoreError(
                "empty_query",
                "query: expected text to read attention from (query_span=query), got an empty string. Fill it in.",
                stage="tokenise",
            )
        return Suffix(prompt.ids[start:], Span(rows.start - start, rows.stop - start))

    def _check_length(self, tokens: int) -> None:
        if tokens > self.max_tokens:
            raise ScoreError(
                "context_too_long",
                f"prompt: expected at most {self.max_tokens} tokens for this model, got {tokens}. "
                "Pass fewer or shorter candidates, or a model with a longer context.",
                stage="tokenise",
            )
        if self._window is not None and tokens > self._window and not self.settings.allow_sliding_window:
            raise ScoreError(
                "sliding_window_exceeded",
                f"prompt: a chosen head lies in a sliding-window layer that sees {self._window} tokens, and the "
                f"prompt has {tokens}. Choose heads of full-attention layers, or set allow_sliding_window.",
                stage="tokenise",
            )


def _in_given_order(spans: Sequence[Span], order: Sequence[int]) -> tuple[Span, ...]:
    by_document = dict(zip(order, spans, strict=True))
    return tuple(by_document[position] for position in range(len(spans)))


def _tightest_window(model: LoadedModel, heads: Sequence[Head]) -> int | None:
    """The sliding window of the chosen heads' layers, in tokens; None if all of them see everything."""
    config = model.source.config
    window = getattr(config, "sliding_window", None)
    if window is None:
        return None
    kinds = getattr(config, "layer_types", None)
    sliding = kinds is None or any(kinds[head.layer] == "sliding_attention" for head in heads)
    return int(window) if sliding else None


METHOD = Method(
    name="qrhead",
    kind="scorer",
    source="QRHead, arXiv 2506.09944, Eq. 2 and 5",
    needs=Needs(),
    build=QRHeadScorer,
)
