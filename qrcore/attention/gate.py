"""The verb *gate*: heads that are held back or pushed in a forward pass, to see what they do.

Three things that are all called masking give three different results, and so does the part of a pass that they are
done in; both are fields of a :class:`Gate` and stand with every result.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from torch import Tensor

from qrcore.attention.call import AttentionInputs, KeyBias, LayerGate, Part
from qrcore.errors import ConfigError
from qrcore.heads import Head
from qrcore.records import Span

GateMode = Literal["uniform", "zero", "bias"]
GateScope = Literal["all", "decode"]

_ENDLESS: Final = 2**62
_EVERY_TOKEN: Final = Span(0, _ENDLESS)


@dataclass(frozen=True, slots=True)
class Gate:
    """What is done to which heads.

    ``mode``: *uniform*: the query is scaled by 0, so that the head attends alike to every key it may see (Wu et al.,
    arXiv 2404.15574); *zero*: its output is 0 before the output projection (Atlas, arXiv 2505.15807); *bias*:
    ``delta`` is added to its scaled logits on the positions ``keys`` (PASTA, arXiv 2311.02262; CAFE, arXiv
    2505.10063). ``scope``: *all* tokens of a row, or *decode*: those that tell a new token, which are the last one of
    the prompt and all behind it, so that the prompt's keys and values stay what they were. ``queries``: positions
    that are gated, None for all in scope. Raises :class:`ConfigError` for what cannot be done.
    """

    mode: GateMode
    heads: tuple[Head, ...]
    scope: GateScope = "all"
    keys: tuple[Span, ...] = ()
    delta: float = 0.0
    queries: Span | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("uniform", "zero", "bias"):
            raise ConfigError(f"mask_mode: expected uniform, zero or bias, got {self.mode!r}. Choose one of these.")
        if self.scope not in ("all", "decode"):
            raise ConfigError(f"mask_scope: expected all or decode, got {self.scope!r}. Choose one of these.")
        if not math.isfinite(self.delta):
            raise ConfigError(f"delta: expected a finite number, got {self.delta}. Correct it.")
        if self.mode != "bias" and (self.keys or self.delta):
            raise ConfigError(f"{self.mode} gate: expected no keys and no delta, got some. Use mode bias for them.")

    @property
    def record(self) -> dict[str, Any]:
        """Mode, scope and heads as they stand with every result."""
        return {"mask_mode": self.mode, "mask_scope": self.scope, "heads": [str(head) for head in self.heads]}


@dataclass(frozen=True, slots=True)
class RowGate:
    """A gate on the positions ``queries`` of one ``row`` of the batch; None: of every row."""

    gate: Gate
    row: int | None = None
    queries: Span = _EVERY_TOKEN


def on_row(gate: Gate, row: int | None = None, prompt_tokens: int | None = None) -> RowGate:
    """``gate`` on a row whose prompt has so many tokens (needed for the scope *decode*).

    Raises :class:`ConfigError` where that is not told.
    """
    queries = gate.queries or _EVERY_TOKEN
    if gate.scope == "all":
        return RowGate(gate, row, queries)
    if prompt_tokens is None or prompt_tokens < 1:
        raise ConfigError("mask_scope decode: expected the length of the row's prompt, got none. Give it, or use all.")
    return RowGate(gate, row, Span(max(prompt_tokens - 1, queries.start), queries.stop))


def layer_gates(gated: Iterable[RowGate]) -> dict[int, LayerGate]:
    """What :class:`~qrcore.attention.call.AttentionCall` takes, for gates on rows; nothing for gates without heads."""
    layers: dict[int, list[_Act]] = defaultdict(list)
    for one in gated:
        for layer, heads in _by_layer(one.gate.heads).items():
            layers[layer].append(_Act(one, heads))
    return {layer: _LayerGate(tuple(acts)) for layer, acts in layers.items()}


def first_layer(gates: Iterable[Gate]) -> int | None:
    """The first layer that any of the gates changes: below it all rows are alike. None for no heads at all."""
    return min((head.layer for gate in gates for head in gate.heads), default=None)


def uniform(heads: Iterable[Head]) -> dict[int, LayerGate]:
    """Gates under which ``heads`` attend alike to every key that they may see, in all rows: they no longer choose.

    The mean of the values still goes on, which is less of a shock to the layers above than nothing would be.
    """
    return layer_gates([RowGate(Gate("uniform", tuple(heads)))])


def _by_layer(heads: Iterable[Head]) -> Mapping[int, tuple[int, ...]]:
    layers: dict[int, set[int]] = defaultdict(set)
    for head in heads:
        layers[head.layer].add(head.head)
    return {layer: tuple(sorted(chosen)) for layer, chosen in layers.items()}


@dataclass(frozen=True, slots=True)
class _Act:
    """One gate's heads of one layer."""

    gated: RowGate
    heads: tuple[int, ...]

    def tokens(self, part: Part) -> Span | None:
        """The packed tokens of ``part`` that are gated."""
        if self.gated.row not in (None, part.row):
            return None
        shift = part.rows.start - part.first
        start = max(self.gated.queries.start + shift, part.rows.start)
        stop = min(self.gated.queries.stop + shift, part.rows.stop)
        return Span(start, stop) if start < stop else None


@dataclass(frozen=True, slots=True)
class _LayerGate:
    """All gates of one layer; see :class:`~qrcore.attention.call.LayerGate`."""

    acts: tuple[_Act, ...]

    def before(self, layer: int, inputs: AttentionInputs) -> AttentionInputs:
        query = _zeroed(inputs.query, inputs, self._of("uniform"))
        return replace(inputs, query=query, biases=(*inputs.biases, *self._biases(inputs)))

    def after(self, layer: int, inputs: AttentionInputs, output: Tensor) -> Tensor:
        return _zeroed(output, inputs, self._of("zero"))

    def _of(self, mode: GateMode) -> list[_Act]:
        return [act for act in self.acts if act.gated.gate.mode == mode]

    def _biases(self, inputs: AttentionInputs) -> Iterable[KeyBias]:
        for act in self._of("bias"):
            gate = act.gated.gate
            for part in inputs.parts:
                tokens = act.tokens(part)
                if tokens is not None and gate.delta:
                    yield KeyBias(act.heads, tokens, _from_first_key(gate.keys, part), gate.delta)


def _zeroed(states: Tensor, inputs: AttentionInputs, acts: Sequence[_Act]) -> Tensor:
    """``[head, row, dim]`` with the gated heads' rows at 0."""
    if not acts:
        return states
    states = states.clone()
    start = inputs.rows.start
    for act in acts:
        for part in inputs.parts:
            tokens = act.tokens(part)
            if tokens is not None:
                states[list(act.heads), tokens.start - start : tokens.stop - start] = 0.0
    return states


def _from_first_key(keys: Sequence[Span], part: Part) -> tuple[Span, ...]:
    moved = (Span(max(0, span.start - part.first_key), span.stop - part.first_key) for span in keys)
    return tuple(span for span in moved if span.start < span.stop)
