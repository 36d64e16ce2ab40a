"""What one forward pass carries to the registered attention function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from qrcore.records import Span


@dataclass(frozen=True, slots=True)
class PackedLayout:
    """One sequence ``[documents | suffix | suffix | …]`` of tokens.

    Every suffix continues the documents on its own: its positions start at ``prefix_length`` and it attends to the
    documents and itself, never to another suffix.
    """

    prefix_length: int
    suffix_lengths: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens of the whole packed sequence."""
        return self.prefix_length + sum(self.suffix_lengths)

    @property
    def suffixes(self) -> tuple[Span, ...]:
        """Where each suffix lies in the packed sequence."""
        spans = []
        start = self.prefix_length
        for length in self.suffix_lengths:
            spans.append(Span(start, start + length))
            start += length
        return tuple(spans)

    def position_ids(self, device: torch.device) -> Tensor:
        """Positions of all tokens, ``[1, token]``."""
        parts = [torch.arange(self.prefix_length)]
        parts += [torch.arange(self.prefix_length, self.prefix_length + length) for length in self.suffix_lengths]
        return torch.cat(parts).to(device)[None]


class LayerRead(Protocol):
    """Sees the queries and keys of one layer before its attention output is computed."""

    def __call__(self, layer: int, inputs: AttentionInputs) -> None: ...


class LayerGate(Protocol):
    """Changes what heads of one layer ask for: the queries ``[head, token, dim]`` to use instead of those of
    ``inputs``, which stay as they are."""

    def __call__(self, layer: int, inputs: AttentionInputs) -> Tensor: ...


@dataclass(frozen=True, slots=True, eq=False)
class AttentionInputs:
    """Queries ``[head, token, dim]``, keys and values ``[kv_head, token, dim]`` of one layer after rotation and
    normalisation, with the layer's own scale, window (keys a query may look back, itself included) and softcap.

    ``own_weights`` gives the family's own attention matrices of these very inputs, ``[head, token, token]`` float32,
    every token seeing the tokens before it: for comparison only, its memory grows with the square of the length.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    scaling: float
    window: int | None
    softcap: float | None
    own_weights: Callable[[], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class AttentionCall:
    """The layout of a forward pass and what each verb wants of it.

    ``reads``: one reader per layer; ``gates``: one gate per layer, which works before the reader looks, so that gated
    attention can be read; ``last_layer``: the forward ends inside the attention of this layer, before its output is
    computed (None: it runs to the end).
    """

    layout: PackedLayout
    reads: Mapping[int, LayerRead] = field(default_factory=dict)
    gates: Mapping[int, LayerGate] = field(default_factory=dict)
    last_layer: int | None = None
