"""QRRetriever: rank documents by the attention of query-focused retrieval heads (arXiv 2506.09944).

A prompt holds all candidates and then the query. A document's score is the attention that the query's tokens pay to
its tokens, summed over the chosen heads, minus the same for an empty query, without each document's low outliers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from qrcore.attention.compiled import CompiledParts
from qrcore.attention.read import SharedPrompt, Suffix, read_packed
from qrcore.attention.rotary import rotary_class
from qrcore.contracts.method import Method, Needs
from qrcore.contracts.scorer import Reading
from qrcore.encoding import EncodedRequest, PromptLimits, QuerySpan, RequestEncoder
from qrcore.engine import EngineSettings, chosen_kernel
from qrcore.errors import ConfigError, HeadSetError, ScoreError
from qrcore.heads import Head, HeadSet, unique_heads
from qrcore.memory import PassMemory
from qrcore.models import (
    LanguageModel,
    LoadedModel,
    ModelSource,
    out_of_memory_as_error,
    setup_sha256,
    weights_sha256,
)
from qrcore.packing import plan_passes
from qrcore.passes import tell_pass
from qrcore.prompts import PromptFormat
from qrcore.records import UNINFORMATIVE_QUERY, Document, Order, Ranking, RankRequest, ScorerIdentity
from qrcore.scoring import calibrate, pool_documents, rank_documents
from qrcore.tokens import SpecialTokens


@dataclass(frozen=True, slots=True)
class QRHeadSettings:
    """Settings that change scores.

    ``query_span``: ``official`` averages over instruction, label, query and suffix as the published code does,
    ``query`` over the query's own tokens (the paper's Eq. 2). ``order_seed``: of the order ``shuffled``.
    ``calibration_weight``: 1 is the paper's calibration,
    0 none. ``allow_sliding_window``: read heads of sliding-window layers even when the prompt exceeds the window.
    """

    prompt: PromptFormat
    null_query: str = "N/A"
    calibration_weight: float = 1.0
    query_span: QuerySpan = "official"
    order: Order = "as_given"
    document_special_tokens: SpecialTokens = "text"
    allow_sliding_window: bool = False
    order_seed: int = 0


class QRHeadScorer:
    """Scores with one loaded model and one fixed head set; see :class:`qrcore.contracts.scorer.Scorer`."""

    def __init__(
        self,
        model: LoadedModel,
        heads: HeadSet,
        settings: QRHeadSettings,
        warnings: Sequence[str] = (),
        engine: EngineSettings | None = None,
        language_model: LanguageModel | None = None,
    ) -> None:
        self.heads = heads
        self.warnings = tuple(warnings)
        self.settings = settings
        self.model = model
        self.engine = engine or EngineSettings()
        self.language_model = language_model
        self._unique_heads = unique_heads(heads.head_list)
        self._encoder = request_encoder(model.tokenizer, model.source, heads, settings, self.max_tokens)
        self._check_memory()
        self._compiled = CompiledParts(model.model) if self.engine.compile else None

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
            sight=self.encoder.limits.window,
            largest_pass=self.largest_pass,
            detection_queries=frozenset(self.heads.detection_queries or ()),
        )

    @property
    def encoder(self) -> RequestEncoder:
        """See :class:`qrcore.contracts.scorer.Scorer`."""
        return self._encoder

    @property
    def largest_pass(self) -> int | None:
        """Tokens of a pass that ``engine.memory_bytes`` allows beside the weights; None without such a limit."""
        allowed = self.engine.memory_bytes
        return None if allowed is None else self._memory.largest_pass(allowed)

    def score(self, query: str, docs: Sequence[Document]) -> list[float]:
        """Scores in the documents' order. Raises :class:`ScoreError`."""
        return self.score_reading(self.read(query, docs), self.heads.head_list)

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
        return self._read([[self.encode(RankRequest(query, tuple(docs)))]])[0]

    def score_reading(self, reading: Reading, heads: Sequence[Head]) -> list[float]:
        """Scores of the documents of a reading, in the order given, as a scorer of ``heads`` alone would give them; a
        head that is named twice counts twice. Raises :class:`ScoreError` for scores that are no numbers."""
        places = [reading.heads.index(head) for head in heads]
        token_scores = self._calibrated(reading)[places].sum(dim=0)
        scores = pool_documents(token_scores.cpu(), reading.document_spans)  # many small steps
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
        return QRHeadScorer(self.model, chosen, settings, self.warnings, self.engine, self.language_model)

    def rank(self, query: str, docs: Sequence[Document]) -> Ranking:
        """The documents best first, every one exactly once. Raises :class:`ScoreError`."""
        answer = next(self.rank_encoded([self.encode(RankRequest(query, tuple(docs)))]))
        if isinstance(answer, ScoreError):
            raise answer
        return answer

    def rank_many(self, requests: Iterable[RankRequest]) -> Iterator[Ranking | ScoreError]:
        """A ranking or the reason why there is none, for each request in order.

        All requests are taken first, so that they can share documents and passes; with ``pack_tokens=0`` one by one.
        """
        if self.engine.pack_tokens == 0:
            for request in requests:
                yield from self.rank_encoded(list(self._encoder.encode_many([request])))
        else:
            yield from self.rank_encoded(list(self._encoder.encode_many(requests)))

    def encode(self, request: RankRequest) -> EncodedRequest:
        """The request in tokens, as :meth:`rank_encoded` takes it. Raises :class:`ScoreError`."""
        return self._encoder.encode(request)

    def rank_encoded(self, entries: Sequence[EncodedRequest | ScoreError]) -> Iterator[Ranking | ScoreError]:
        """:meth:`rank_many` of requests that are encoded, here or elsewhere; errors are handed through."""
        answers = {place: answer for place, entry in enumerate(entries) if (answer := self._answer_unread(entry))}
        unread = {place: entry for place, entry in enumerate(entries) if place not in answers}
        places, requests = list(unread), [entry for entry in unread.values() if isinstance(entry, EncodedRequest)]
        position = 0
        for groups in plan_passes(requests, self._pass_tokens, self._prompt_class):
            together = [[requests[place] for place in group.places] for group in groups]
            ranked = [places[place] for group in groups for place in group.places]
            answers.update(zip(ranked, self._rank_together(together), strict=True))
            while position in answers:
                yield answers.pop(position)
                position += 1
        yield from (answers[place] for place in sorted(answers))

    def _answer_unread(self, entry: EncodedRequest | ScoreError) -> Ranking | ScoreError | None:
        """The answer of a row that needs no model, or None."""
        if isinstance(entry, ScoreError):
            return entry
        if entry.uninformative:
            # The query and its own calibration cancel: what is left is rounding noise, which must not decide an order.
            documents = rank_documents(entry.request, [0.0] * len(entry.request.documents))
            return Ranking(entry.request.query_id, documents, entry.prompt_tokens, flags=(UNINFORMATIVE_QUERY,))
        if self._fits([[entry]]):
            return None
        return _of_row(entry, self._too_large(entry))

    def _rank_together(self, groups: _Groups) -> list[Ranking | ScoreError]:
        """Answers of all requests of a pass; what cannot run together runs in halves, so that an error stays alone."""
        members = [member for group in groups for member in group]
        problem = None if self._fits(groups) else self._too_large(members[0])
        if problem is None:
            try:
                with out_of_memory_as_error():
                    readings = self._read(groups)
                return [self._answer(member, reading) for member, reading in zip(members, readings, strict=True)]
            except ScoreError as error:
                problem = _of_row(members[0], error)
        if len(members) == 1:
            return [problem]
        return [answer for half in _halves(groups) for answer in self._rank_together(half)]

    def _answer(self, request: EncodedRequest, reading: Reading) -> Ranking | ScoreError:
        try:
            scores = self.score_reading(reading, self.heads.head_list)
        except ScoreError as error:
            return _of_row(request, error)
        documents = rank_documents(request.request, scores)
        return Ranking(request.request.query_id, documents, request.prompt_tokens)

    def _read(self, groups: _Groups) -> list[Reading]:
        """One pass: a segment for each group of requests over the same documents."""
        if self.language_model is None:  # of which more is loaded than is predicted
            tell_pass(lambda: self._pass_bytes(groups))
        compiled = self._compiled.in_place() if self._compiled else nullcontext()
        with torch.inference_mode(), chosen_kernel(self.engine), compiled:
            attention = read_packed(
                self.model.model,
                [_shared_prompt(group) for group in groups],
                self._unique_heads,
                self.engine.chunk_tokens,
            )
        return [
            self._reading(member, query_attention, of_group[-1])
            for group, of_group in zip(groups, attention, strict=True)
            for member, query_attention in zip(group, of_group, strict=False)  # the last one is the null query's
        ]

    def _reading(self, request: EncodedRequest, query_attention: Tensor, null_attention: Tensor) -> Reading:
        shared = len(request.prefix_ids)
        return Reading(
            heads=self._unique_heads,
            query_attention=query_attention[:, :shared],
            null_attention=null_attention[:, :shared],
            token_ids=tuple(request.prefix_ids.tolist()),
            document_spans=request.document_spans,
            prompt_order=request.prompt_order,
            prompt_tokens=request.prompt_tokens,
        )

    def _calibrated(self, reading: Reading) -> Tensor:
        return calibrate(reading.query_attention, reading.null_attention, self.settings.calibration_weight)

    def _check_memory(self) -> None:
        allowed = self.engine.memory_bytes
        if allowed is not None and self._memory.weights >= allowed:
            raise ConfigError(
                f"memory_bytes: expected more than the {self._memory.weights} bytes that the weights take, got "
                f"{allowed}. Allow more, or choose heads that lie less deep."
            )

    def _prompt_class(self, tokens: int) -> int:
        return rotary_class(self.model.source.config, tokens)

    @cached_property
    def _pass_tokens(self) -> int:
        """Tokens of short prompts that share a pass: as many as are asked for, and as fit beside the weights."""
        fitting = self.largest_pass
        return self.engine.pack_tokens if fitting is None else min(self.engine.pack_tokens, fitting)

    @cached_property
    def _memory(self) -> PassMemory:
        loaded = self.model
        return PassMemory.of(
            loaded.source.config,
            self._unique_heads,
            loaded.model.dtype,
            self.engine.chunk_tokens,
            on_cpu=loaded.model.device.type == "cpu",
        )

    def _fits(self, groups: _Groups) -> bool:
        allowed = self.engine.memory_bytes
        return allowed is None or self._pass_bytes(groups) <= allowed

    def _pass_bytes(self, groups: _Groups) -> int:
        prompts = [_shared_prompt(group) for group in groups]
        tokens = sum(len(prompt.prefix_ids) + sum(len(s.ids) for s in prompt.suffixes) for prompt in prompts)
        suffixes = sum(len(prompt.suffixes) for prompt in prompts)
        longest = max(member.longest_prompt for group in groups for member in group)
        return self._memory.predict(tokens, suffixes, longest).total

    def _too_large(self, request: EncodedRequest) -> ScoreError:
        return ScoreError(
            "oom",
            f"memory: expected this prompt to fit into {self.engine.memory_bytes} bytes with the weights, and "
            f"{self._pass_bytes([[request]])} are predicted for its {request.longest_prompt} tokens. "
            "Run again with fewer actors, shorter candidates or more memory.",
            stage="score",
        )


_Groups = Sequence[Sequence[EncodedRequest]]


def _halves(groups: _Groups) -> tuple[_Groups, _Groups]:
    if len(groups) > 1:
        return groups[: len(groups) // 2], groups[len(groups) // 2 :]
    (members,) = groups
    return [members[: len(members) // 2]], [members[len(members) // 2 :]]


def _of_row(request: EncodedRequest, error: ScoreError) -> ScoreError:
    error.query_id = request.request.query_id
    # The frames behind an error hold its tensors: kept with the error, they would starve the rows after it.
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error


def _shared_prompt(group: Sequence[EncodedRequest]) -> SharedPrompt:
    first = group[0]
    queries = [Suffix(member.query_ids, member.query_rows) for member in group]
    return SharedPrompt(first.prefix_ids, (*queries, Suffix(first.null_ids, first.null_rows)))


def request_encoder(
    tokenizer: PreTrainedTokenizerBase, source: ModelSource, heads: HeadSet, settings: QRHeadSettings, max_tokens: int
) -> RequestEncoder:
    """Encodes requests as a scorer of these settings does; needs no weights."""
    window = None if settings.allow_sliding_window else _tightest_window(source.config, heads.head_list)
    return RequestEncoder(
        tokenizer,
        settings.prompt,
        PromptLimits(max_tokens, window),
        null_query=settings.null_query,
        query_span=settings.query_span,
        order=settings.order,
        document_special_tokens=settings.document_special_tokens,
        order_seed=settings.order_seed,
    )


def _tightest_window(config: PreTrainedConfig, heads: Sequence[Head]) -> int | None:
    """The sliding window of the chosen heads' layers, in tokens; None if all of them see everything."""
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
