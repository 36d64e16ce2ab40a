"""What one forward pass carries to the registered attention function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Final, NamedTuple, Protocol

import torch
from torch import Tensor

from qrcore.records import Span

#: How many tokens go through a layer at once: enough for full speed, few enough to stay small (see memory.py).
CHUNK_TOKENS: Final = 2048


class Block(NamedTuple):
    """Neighbouring tokens of the packed sequence (``rows``) that all see the tokens ``before``, and one another
    causally. The position of the first row is the length of ``before``."""

    rows: Span
    before: Span


@dataclass(frozen=True, slots=True)
class Segment:
    """Lengths of one ``[documents | suffix | suffix | …]``, in tokens.

    Every suffix continues the documents on its own: its positions start at ``prefix_length`` and it attends to the
    documents and itself, never to another suffix.
    """

    prefix_length: int
    suffix_lengths: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """Tokens of the whole segment."""
        return self.prefix_length + sum(self.suffix_lengths)


@dataclass(frozen=True)
class PackedLayout:
    """One sequence of segments, one behind the other without padding; no segment sees another."""

    segments: tuple[Segment, ...]

    @classmethod
    def of_one(cls, prefix_length: int, suffix_lengths: tuple[int, ...] = ()) -> PackedLayout:
        """The layout of a single segment."""
        return cls((Segment(prefix_length, suffix_lengths),))

    @cached_property
    def length(self) -> int:
        """Tokens of the whole packed sequence."""
        return sum(segment.length for segment in self.segments)

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """Where each segment lies in the packed sequence."""
        return _one_behind_the_other(0, [segment.length for segment in self.segments])

    @cached_property
    def documents(self) -> tuple[Block, ...]:
        """The documents of each segment, which see nothing before them."""
        starts = [span.start for span in self.spans]
        lengths = [segment.prefix_length for segment in self.segments]
        return tuple(Block(Span(s, s + n), Span(s, s)) for s, n in zip(starts, lengths, strict=True))

    @cached_property
    def suffixes(self) -> tuple[Block, ...]:
        """Each suffix, segment by segment; ``before`` are the documents that it continues."""
        return tuple(
            Block(rows, documents.rows)
            for segment, documents in zip(self.segments, self.documents, strict=True)
            for rows in _one_behind_the_other(documents.rows.stop, segment.suffix_lengths)
        )

    def blocks(self, rows: Span) -> list[Block]:
        """The blocks of a chunk: documents that are cut see their own beginning as the tokens before them."""
        blocks = []
        for block in self._in_order:
            start, stop = max(block.rows.start, rows.start), min(block.rows.stop, rows.stop)
            if start < stop:
                before = block.before if start == block.rows.start else Span(block.rows.start, start)
                blocks.append(Block(Span(start, stop), before))
        return blocks

    def chunks(self, tokens: int) -> list[Span]:
        """The sequence in about equal chunks of at most ``tokens``, as far as whole suffixes allow."""
        count = -(-self.length // tokens)
        cuts = [self._cut_near(self.length * number // count) for number in range(1, count)]
        edges = sorted({0, *cuts, self.length})
        return [Span(start, stop) for start, stop in pairwise(edges)]

    def _cut_near(self, place: int) -> int:
        inside = (block.rows for block in self.suffixes if block.rows.start < place < block.rows.stop)
        return next((rows.start for rows in inside), place)

    def position_ids(self, device: torch.device) -> Tensor:
        """Positions of all tokens, ``[1, token]``."""
        starts = [before.start - before.stop + rows.start for rows, before in self._in_order]
        parts = [
            torch.arange(block.rows.start - start, block.rows.stop - start)
            for block, start in zip(self._in_order, starts, strict=True)
        ]
        return torch.cat(parts).to(device)[None]

    @cached_property
    def _in_order(self) -> tuple[Block, ...]:
        return tuple(sorted((*self.documents, *self.suffixes)))


def _one_behind_the_other(start: int, lengths: tuple[int, ...] | list[int]) -> tuple[Span, ...]:
    spans = []
    for length in lengths:
        spans.append(Span(start, start + length))
        start += length
    return tuple(spans)


class LayerRead(Protocol):
    """Sees the queries and keys of one chunk of a layer before its attention output is computed, chunk by chunk."""

    def __call__(self, layer: int, inputs: AttentionInputs) -> None: ...


class LayerGate(Protocol):
    """Changes what heads of one layer ask for: the queries ``[head, token, dim]`` to use instead of those of
    ``inputs``, which stay as they are."""

    def __call__(self, layer: int, inputs: AttentionInputs) -> Tensor: ...


@dataclass(frozen=True, slots=True, eq=False)
class AttentionInputs:
    """Queries ``[head, row, dim]`` of the packed tokens ``rows``, and keys and values ``[kv_head, token, dim]`` of all
    tokens up to the last of them, of one layer after rotation and normalisation, with the layer's own scale, window
    (keys a query may look back, itself included) and softcap.

    ``own_weights`` gives the family's own attention matrices of these very inputs, ``[head, token, token]`` float32,
    every token seeing the tokens before it: for comparison only, of a pass in one chunk; its memory grows with the
    square of the length.
    """

    rows: Span
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
    computed (None: it runs to the end); ``chunk_tokens``: how many tokens go through a layer at once.
    """

    layout: PackedLayout
    reads: Mapping[int, LayerRead] = field(default_factory=dict)
    gates: Mapping[int, LayerGate] = field(default_factory=dict)
    last_layer: int | None = None
    chunk_tokens: int = CHUNK_TOKENS
