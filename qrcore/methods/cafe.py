"""CAFE (arXiv 2505.10063): from many documents to a few, then the attention of the question is pushed to the best.

Stage 1, coarse: a head's score of a document is its attention mass from the question, normalised over the documents
(``beta_h(d) = alpha_h(q, d) / sum_j alpha_h(q, d_j)``). The M1 best documents of each of K1 heads are kept, in
ascending order of the sum over heads, so that the best stands last. Stage 2, fine: on the shortened prompt, the M2 best
documents of each of K2 other heads become candidates, and the logits from the question's tokens to theirs get ``delta``
on all heads while the answer is generated.

The print has ``softmax((Q K^T + B) / sqrt(d))``, which divides ``delta`` by the root of the head size; here it is added
to the scaled logits unless ``bias_inside_scale`` asks for the print. Its ``delta`` is log 10 in one section and log 13
in another. Heads of both stages are detected on labelled samples, those of the second on shortened lists
(:mod:`qrcore.methods.share`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor

from qrcore.attention.gate import Gate
from qrcore.attention.read import Suffix, read_attention
from qrcore.contracts.context_generator import ContextAnswer
from qrcore.contracts.method import Method, Needs
from qrcore.decode import decode_greedy
from qrcore.errors import ConfigError, ScoreError
from qrcore.heads import Head, all_heads
from qrcore.models import LanguageModel, out_of_memory_as_error
from qrcore.prompts import PromptFormat
from qrcore.records import Document, Span
from qrcore.scoring import document_shares
from qrcore.tokens import EncodedPrompt, PromptEncoder

#: *cafe*: both stages; *filter*: the first alone; *random_order*: both, the kept documents shuffled; *full*: all
#: documents as given, no stage; *oracle*: the gold documents alone, no stage.
Variant = Literal["cafe", "filter", "random_order", "full", "oracle"]
SteeredRows = Literal["question", "question_and_answer"]

_STEERED: Final = ("cafe", "random_order")
_ENDLESS: Final = 2**62


@dataclass(frozen=True, slots=True)
class CafeSettings:
    """``coarse_heads`` and ``fine_heads``: best first, of which the first ``coarse_count`` (K1) and ``fine_count`` (K2)
    are used, without fine ones only the first stage can be; ``coarse_top`` (M1) and ``fine_top`` (M2): documents of
    each head; ``delta``: what is added to logits; ``rows``: the tokens that are steered, as printed those of the
    *question*, or all from there on; ``seed``: of the random order, with the question.

    Raises :class:`ConfigError` for values that nothing can be answered with.
    """

    coarse_heads: tuple[Head, ...]
    fine_heads: tuple[Head, ...]
    coarse_count: int = 4
    coarse_top: int = 4
    fine_count: int = 4
    fine_top: int = 2
    delta: float = math.log(10)
    bias_inside_scale: bool = False
    rows: SteeredRows = "question"
    max_new_tokens: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.coarse_heads:
            raise ConfigError("coarse_heads: expected at least one head, got none. Detect some first.")
        for name in ("coarse_count", "coarse_top", "fine_count", "fine_top", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1, got {getattr(self, name)}. Raise it.")
        if not math.isfinite(self.delta):
            raise ConfigError(f"delta: expected a finite number, got {self.delta}. Correct it.")
        if self.rows not in get_args(SteeredRows):
            raise ConfigError(f"rows: expected {' or '.join(get_args(SteeredRows))}, got {self.rows!r}. Choose one.")


@dataclass(frozen=True, slots=True)
class CafePrompt:
    """What is shown to the model: places of the given documents in the order of the prompt, those that are pushed, and
    the encoded prompt."""

    shown: tuple[int, ...]
    steered: tuple[int, ...]
    encoded: EncodedPrompt


def best_of_each(shares: Tensor, top: int) -> tuple[int, ...]:
    """Documents among the ``top`` of any head, worst first by the sum over heads; of equals the first stands last."""
    chosen = {int(place) for of_head in shares for place in _top(of_head, top)}
    total = shares.sum(dim=0)
    return tuple(sorted(chosen, key=lambda place: (float(total[place]), -place)))


def _top(shares: Tensor, top: int) -> list[int]:
    return torch.argsort(shares, descending=True, stable=True)[:top].tolist()


class Cafe:
    """Answers questions over documents with one prompt format; see
    :class:`qrcore.contracts.context_generator.ContextGenerator`."""

    def __init__(self, settings: CafeSettings, encoder: PromptEncoder, prompt: PromptFormat) -> None:
        self._settings = settings
        self._encoder = encoder
        self._prompt = prompt

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything beside model, questions and documents that answers depend on."""
        chosen = self._settings
        return {
            "mask_mode": "bias",
            "mask_scope": "all",
            "coarse_heads": [str(head) for head in chosen.coarse_heads[: chosen.coarse_count]],
            "fine_heads": [str(head) for head in chosen.fine_heads[: chosen.fine_count]],
            "coarse_top": chosen.coarse_top,
            "fine_top": chosen.fine_top,
            "delta": chosen.delta,
            "bias_inside_scale": chosen.bias_inside_scale,
            "rows": chosen.rows,
            "max_new_tokens": chosen.max_new_tokens,
            "seed": chosen.seed,
            "prompt_sha256": self._prompt.hash,
        }

    def shares(
        self, model: LanguageModel, question: str, documents: Sequence[Document], heads: Sequence[Head]
    ) -> Tensor:
        """``beta`` of ``heads`` over the documents in this order, ``[head, doc]``. Raises :class:`ScoreError`."""
        encoded = self._encoder.encode(self._prompt, question, documents)
        _check_length(len(encoded.ids), model)
        start = encoded.asking_span.start
        rows = Span(encoded.query_span.start - start, encoded.query_span.stop - start)
        with torch.inference_mode(), out_of_memory_as_error():
            (attention,) = read_attention(
                model.decoder.model, encoded.ids[:start], [Suffix(encoded.ids[start:], rows)], heads
            )
        if not bool(torch.isfinite(attention).all()):
            raise ScoreError(
                "non_finite",
                "attention: expected finite numbers, got NaN. Run again with dtype=float32.",
                stage="score",
            )
        return document_shares(attention, encoded.document_spans)

    def prompt(
        self,
        model: LanguageModel,
        question: str,
        documents: Sequence[Document],
        variant: Variant = "cafe",
        gold: Sequence[int] = (),
    ) -> CafePrompt:
        """What the variant shows and pushes. ``gold``: places of the right documents, for *oracle*. Raises
        :class:`ScoreError` for a question or documents that no prompt can be made of."""
        return self._prompt_of(variant, _Stages(self, model, question, documents), gold)

    def answers(
        self,
        model: LanguageModel,
        question: str,
        documents: Sequence[Document],
        variants: Sequence[str],
        gold: Sequence[int] = (),
    ) -> dict[str, ContextAnswer | ScoreError]:
        """The greedy answer of each variant, or why there is none; what several need is read once."""
        stages = _Stages(self, model, question, documents)
        answers: dict[str, ContextAnswer | ScoreError] = {}
        for variant in variants:
            try:
                answers[variant] = self._answer(model, self._prompt_of(variant, stages, gold))
            except ScoreError as error:
                error.__traceback__ = error.__context__ = None  # frames hold the attention of the whole context
                answers[variant] = error
        return answers

    def answer(
        self,
        model: LanguageModel,
        question: str,
        documents: Sequence[Document],
        variant: Variant = "cafe",
        gold: Sequence[int] = (),
    ) -> ContextAnswer:
        """The greedy answer of one variant. Raises :class:`ScoreError`."""
        return self._answer(model, self.prompt(model, question, documents, variant, gold))

    def _answer(self, model: LanguageModel, made: CafePrompt) -> ContextAnswer:
        ids, longest = made.encoded.ids, self._settings.max_new_tokens
        _check_length(len(ids) + longest, model)
        with out_of_memory_as_error():
            (found,) = decode_greedy(model.model, [ids], longest, model.end_ids, gates=[self.gates(model, made)])
        return ContextAnswer(found.ids, found.ended, len(ids), made.shown, made.steered)

    def gates(self, model: LanguageModel, made: CafePrompt) -> tuple[Gate, ...]:
        """What pushes the question's attention to the steered documents; none where there are none."""
        if not made.steered:
            return ()
        shape = model.decoder.source.shape
        keys = tuple(made.encoded.document_spans[made.shown.index(place)] for place in sorted(made.steered))
        delta = self._settings.delta
        if self._settings.bias_inside_scale and shape.head_dim:
            delta /= math.sqrt(shape.head_dim)
        span = made.encoded.query_span
        queries = span if self._settings.rows == "question" else Span(span.start, _ENDLESS)
        return (Gate("bias", all_heads(shape).head_list, keys=keys, delta=delta, queries=queries),)

    def _prompt_of(self, variant: str, stages: _Stages, gold: Sequence[int]) -> CafePrompt:
        _check_variant(variant, self._settings)
        _check_given(stages.question, stages.documents, variant, gold)
        shown = self._shown(variant, stages, gold)
        steered: tuple[int, ...] = ()
        if variant in _STEERED:
            fine = stages.fine_shares(shown)
            steered = tuple(shown[place] for place in best_of_each(fine, self._settings.fine_top))
        ordered = [stages.documents[place] for place in shown]
        return CafePrompt(shown, steered, self._encoder.encode(self._prompt, stages.question, ordered))

    def _shown(self, variant: str, stages: _Stages, gold: Sequence[int]) -> tuple[int, ...]:
        if variant == "full":
            return tuple(range(len(stages.documents)))
        if variant == "oracle":
            return tuple(gold)
        kept = best_of_each(stages.coarse_shares, self._settings.coarse_top)
        if variant == "random_order":
            # The same places of every list would be no random order.
            return tuple(random.Random(f"{self._settings.seed}/{stages.question}").sample(kept, len(kept)))
        return kept

    def coarse_shares(self, model: LanguageModel, question: str, documents: Sequence[Document]) -> Tensor:
        """``beta`` of the first stage's heads."""
        return self.shares(model, question, documents, self._settings.coarse_heads[: self._settings.coarse_count])

    def fine_shares(self, model: LanguageModel, question: str, documents: Sequence[Document]) -> Tensor:
        """``beta`` of the second stage's heads."""
        return self.shares(model, question, documents, self._settings.fine_heads[: self._settings.fine_count])


class _Stages:
    """What both stages read of one question's documents, each once. A length that does not fit is found each time."""

    def __init__(self, cafe: Cafe, model: LanguageModel, question: str, documents: Sequence[Document]) -> None:
        self._cafe, self._model, self.question, self.documents = cafe, model, question, documents
        self._fine: dict[tuple[int, ...], Tensor] = {}

    @cached_property
    def coarse_shares(self) -> Tensor:
        return self._cafe.coarse_shares(self._model, self.question, self.documents)

    def fine_shares(self, shown: tuple[int, ...]) -> Tensor:
        if shown not in self._fine:
            ordered = [self.documents[place] for place in shown]
            self._fine[shown] = self._cafe.fine_shares(self._model, self.question, ordered)
        return self._fine[shown]


def _check_variant(variant: str, settings: CafeSettings) -> None:
    if variant not in get_args(Variant):
        raise ConfigError(f"variant: expected one of {', '.join(get_args(Variant))}; got {variant!r}. Choose one.")
    if variant in _STEERED and not settings.fine_heads:
        raise ConfigError(
            f"fine_heads: expected at least one head for {variant}, got none. Detect some, or choose filter."
        )


def _check_given(question: str, documents: Sequence[Document], variant: str, gold: Sequence[int]) -> None:
    if not question.strip():
        raise ScoreError(
            "empty_query", "question: expected text, got none. Leave the row out or fill it in.", stage="tokenise"
        )
    if not documents:
        raise ScoreError("no_candidates", "documents: expected at least one, got none. Add some.", stage="tokenise")
    if variant == "oracle" and not gold:
        raise ScoreError(
            "nothing_relevant",
            "oracle: expected the places of the right documents, got none. Give labels for the row.",
            stage="tokenise",
        )


def _check_length(tokens: int, model: LanguageModel) -> None:
    limit = model.decoder.source.max_tokens
    if tokens > limit:
        raise ScoreError(
            "context_too_long",
            f"prompt: expected at most {limit} tokens with its answer for this model, got {tokens}. "
            "Give fewer or shorter documents.",
            stage="tokenise",
        )


def build(
    encoder: PromptEncoder,
    prompt: PromptFormat,
    coarse_heads: Sequence[Head],
    fine_heads: Sequence[Head] = (),
    **settings: Any,
) -> Cafe:
    """The method of these heads; ``settings``: the other fields of :class:`CafeSettings`."""
    return Cafe(CafeSettings(tuple(coarse_heads), tuple(fine_heads), **settings), encoder, prompt)


METHOD = Method(
    name="cafe",
    kind="context_generator",
    source="CAFE, arXiv 2505.10063",
    needs=Needs(depth="full"),
    build=build,
)
