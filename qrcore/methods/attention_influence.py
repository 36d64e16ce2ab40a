"""AttentionInfluence (Hua et al., arXiv 2505.07293): how much worse a model predicts a document without its retrieval
heads.

The paper's score: (L_masked - L_base) / L_base, where L is the mean cross-entropy of the document's tokens
and the heads of the masked model attend alike to all tokens they see (appendix C, read causally: token i gives each of
the tokens up to itself 1 / (i + 1)), in the whole pass. The paper compares scores only inside one domain, and does not
say what happens to documents beyond the model's length: here they are scored in pieces of about equal length, each on
its own, and losses are weighted by tokens.

Any mask makes a model worse. So the same is told for control sets: as many heads drawn outside the set, from the same
layers, or from the same and later ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from qrcore.attention.gate import Gate, GateMode
from qrcore.attention.losses import token_losses
from qrcore.causal import draw_controls, draw_same_layer
from qrcore.contracts.influence import DocumentInfluence, repetition_rate
from qrcore.contracts.method import Method, Needs
from qrcore.errors import ConfigError, ScoreError
from qrcore.heads import Head, all_heads
from qrcore.models import LanguageModel, out_of_memory_as_error

ControlLayers = Literal["same", "same_or_later"]


@dataclass(frozen=True, slots=True)
class InfluenceSettings:
    """``heads``: the retrieval heads; ``mask_mode``: as in :class:`~qrcore.attention.gate.Gate`, the paper has
    *uniform*; ``controls``: control sets, drawn with ``seed`` from the ``control_layers``: as many heads of the *same*
    layers, or any of the same or later ones; ``chunk_tokens``: the longest piece of a document, None
    for as long as the model takes; ``max_tokens``: documents above it are refused, None for none; ``noise_floor``:
    repeat the pass without masks and tell how much the loss changes; ``pass_tokens``: tokens of all pieces that go
    through the model together, before they are copied; ``copies_at_once``: masked copies in one pass.

    Raises :class:`ConfigError` for values that nothing can be scored with.
    """

    heads: tuple[Head, ...]
    mask_mode: GateMode = "uniform"
    controls: int = 5
    control_layers: ControlLayers = "same"
    seed: int = 0
    chunk_tokens: int | None = None
    max_tokens: int | None = None
    noise_floor: bool = True
    pass_tokens: int = 8192
    copies_at_once: int = 6

    def __post_init__(self) -> None:
        if self.mask_mode not in ("uniform", "zero"):
            raise ConfigError(f"mask_mode: expected uniform or zero, got {self.mask_mode!r}. Choose one of these.")
        if self.control_layers not in ("same", "same_or_later"):
            raise ConfigError(
                f"control_layers: expected same or same_or_later, got {self.control_layers!r}. Choose one of these."
            )
        lowest = {"controls": 0, "chunk_tokens": 3, "max_tokens": 1, "pass_tokens": 1, "copies_at_once": 1}
        for name, least in lowest.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name}: expected at least {least}, got {value}. Raise it.")


class AttentionInfluence:
    """See :class:`qrcore.contracts.influence.InfluenceScorer`."""

    def __init__(self, settings: InfluenceSettings) -> None:
        self._settings = settings

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything beside model and documents that values depend on."""
        chosen = self._settings
        gate = Gate(chosen.mask_mode, chosen.heads)
        return {
            **gate.record,
            "controls": chosen.controls,
            "control_layers": chosen.control_layers,
            "seed": chosen.seed,
            "chunk_tokens": chosen.chunk_tokens,
            "max_tokens": chosen.max_tokens,
            "noise_floor": chosen.noise_floor,
        }

    def control_sets(self, model: LanguageModel) -> list[tuple[Head, ...]]:
        """The heads of every control set; fewer than asked for where the model has no more."""
        chosen = self._settings
        if not chosen.heads:
            return []
        shape = model.decoder.source.shape
        if chosen.control_layers == "same":
            return draw_same_layer(chosen.heads, shape, chosen.controls, chosen.seed)
        return draw_controls(chosen.heads, all_heads(shape).head_list, chosen.controls, chosen.seed)

    def score(self, model: LanguageModel, documents: Sequence[Sequence[int]]) -> list[DocumentInfluence | ScoreError]:
        """The influence on each document in order, or why there is none."""
        problems = [self._problem(model, ids) for ids in documents]
        pieces = [
            _Piece(number, tuple(ids))
            for number, document in enumerate(documents)
            if problems[number] is None
            for ids in self._pieces(model, document)
        ]
        sums = _Sums()
        for packed in _passes(pieces, self._settings.pass_tokens):
            with torch.inference_mode(), out_of_memory_as_error():
                self._add_losses(model, packed, sums)
        return [problem or self._outcome(model, number, documents, sums) for number, problem in enumerate(problems)]

    def _problem(self, model: LanguageModel, ids: Sequence[int]) -> ScoreError | None:
        limit = self._settings.max_tokens
        if limit is not None and len(ids) > limit:
            return ScoreError(
                "context_too_long",
                f"document: expected at most {limit} tokens, got {len(ids)}. Raise max_tokens or cut the document.",
                stage="tokenise",
            )
        if len(ids) + (_bos(model) is not None) < 2:
            return ScoreError(
                "empty_document",
                f"document: expected a token to predict and one before it, got {len(ids)} tokens. Leave the row out.",
                stage="tokenise",
            )
        return None

    def _pieces(self, model: LanguageModel, ids: Sequence[int]) -> Iterator[list[int]]:
        """The document in about equal pieces, each behind the model's own BOS token if it has one."""
        bos = _bos(model)
        before, least = ([], 2) if bos is None else ([bos], 1)
        longest = model.decoder.source.max_tokens
        room = min(self._settings.chunk_tokens or longest, longest) - len(before)
        # A piece needs a token to predict and one before it.
        count = max(1, min(-(-len(ids) // room), len(ids) // least))
        for number in range(count):
            yield [*before, *ids[len(ids) * number // count : len(ids) * (number + 1) // count]]

    def _add_losses(self, model: LanguageModel, packed: Sequence[_Piece], sums: _Sums) -> None:
        rows = [piece.ids for piece in packed]
        masks = [self._settings.heads, *self.control_sets(model)]
        found: list[list[Tensor]] = []
        at_once = self._settings.copies_at_once
        for start in range(0, len(masks), at_once):
            gates = [(Gate(self._settings.mask_mode, heads),) for heads in masks[start : start + at_once]]
            base, *masked = token_losses(model.model, rows, [(), *gates])
            found += [base] * (not found) + masked
        if self._settings.noise_floor:
            found += token_losses(model.model, rows)
        for place, piece in enumerate(packed):
            sums.add(piece, [losses[place].double().sum().item() for losses in found])

    def _outcome(
        self, model: LanguageModel, number: int, documents: Sequence[Sequence[int]], sums: _Sums
    ) -> DocumentInfluence | ScoreError:
        scored, chunks, totals = sums.scored[number], sums.chunks[number], sums.losses[number]
        means = [total / scored for total in totals]
        if not all(map(math.isfinite, means)) or means[0] <= 0:
            return ScoreError(
                "non_finite",
                f"loss: expected finite numbers above 0, got {means[0]} and {means[1]} in {model.model.dtype}. "
                "Run again with dtype=float32.",
                stage="score",
            )
        base, masked, *others = means
        noise = abs(others.pop() - base) / base if self._settings.noise_floor else None
        controls = tuple((other - base) / base for other in others)
        ids = documents[number]
        return DocumentInfluence(
            len(ids), scored, chunks, base, masked, (masked - base) / base, controls, repetition_rate(ids), noise
        )


@dataclass(frozen=True, slots=True)
class _Piece:
    document: int
    ids: tuple[int, ...]


class _Sums:
    """Sums of losses by document: base, masked, every control set, and the repeated pass."""

    def __init__(self) -> None:
        self.scored: dict[int, int] = {}
        self.chunks: dict[int, int] = {}
        self.losses: dict[int, list[float]] = {}

    def add(self, piece: _Piece, losses: Sequence[float]) -> None:
        number = piece.document
        before = self.losses.get(number, [0.0] * len(losses))
        self.losses[number] = [one + other for one, other in zip(before, losses, strict=True)]
        self.scored[number] = self.scored.get(number, 0) + len(piece.ids) - 1
        self.chunks[number] = self.chunks.get(number, 0) + 1


def _passes(pieces: Sequence[_Piece], tokens: int) -> Iterator[list[_Piece]]:
    """Pieces that go through the model together: neighbours, up to so many tokens; a longer one is alone."""
    packed: list[_Piece] = []
    room = tokens
    for piece in pieces:
        if packed and len(piece.ids) > room:
            yield packed
            packed, room = [], tokens
        packed.append(piece)
        room -= len(piece.ids)
    if packed:
        yield packed


def _bos(model: LanguageModel) -> int | None:
    """The token that the tokenizer puts in front of a text by itself, None for none."""
    tokenizer = model.decoder.tokenizer
    bos: int | None = tokenizer.bos_token_id
    return bos if bos is not None and tokenizer("")["input_ids"][:1] == [bos] else None


def build(heads: Sequence[Head], **settings: Any) -> AttentionInfluence:
    """The method for these heads; ``settings``: fields of :class:`InfluenceSettings`."""
    return AttentionInfluence(InfluenceSettings(tuple(heads), **settings))


METHOD = Method(
    name="attention_influence",
    kind="influence",
    source="AttentionInfluence, arXiv 2505.07293, score and appendix C",
    needs=Needs(depth="full"),
    build=build,
)
