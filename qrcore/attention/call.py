"""What one forward pass carries to the registered attention function."""

from __future__ import annotations

from bisect import bisect_right
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


class Part(NamedTuple):
    """Neighbouring packed tokens (``rows``) of one row of the batch: its number, the position of the first token in
    it, and the position of the first key that they are given (0 unless a cache has forgotten some)."""

    row: int
    rows: Span
    first: int
    first_key: int = 0


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

    def parts(self, rows: Span) -> tuple[Part, ...]:
        """The tokens of a chunk by segment, in order; a segment is a row of the batch."""
        return tuple(
            Part(self._segment_of(block.rows.start), block.rows, block.before.stop - block.before.start)
            for block in self.blocks(rows)
        )

    def _segment_of(self, token: int) -> int:
        return bisect_right(self.spans, token, key=lambda span: span.start) - 1

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
    """Changes what heads of one layer do, chunk by chunk; what it is given stays as it is."""

    def before(self, layer: int, inputs: AttentionInputs) -> AttentionInputs:
        """What to attend with instead of ``inputs``; readers see it, too."""
        ...

    def after(self, layer: int, inputs: AttentionInputs, output: Tensor) -> Tensor:
        """What heads say instead of ``output`` (``[head, row, dim]``), before the output projection."""
        ...


@dataclass(frozen=True, slots=True)
class KeyBias:
    """``delta`` is added to the scaled (and capped) logits of ``heads`` from the packed tokens ``rows`` to ``keys``,
    which are counted from the first key that those tokens are given."""

    heads: tuple[int, ...]
    rows: Span
    keys: tuple[Span, ...]
    delta: float


@dataclass(frozen=True, slots=True)
class Fork:
    """From ``layer`` on every row of the batch goes on in so many ``copies``: copy c of row r is row c * rows + r.

    What stands below is computed once for all of them.
    """

    layer: int
    copies: int


@dataclass(frozen=True, slots=True, eq=False)
class AttentionInputs:
    """Queries ``[head, row, dim]`` of the packed tokens ``rows``, and keys and values ``[kv_head, token, dim]`` of all
    tokens up to the last of them, of one layer after rotation and normalisation, with the layer's own scale, window
    (keys a query may look back, itself included) and softcap.

    ``own_weights`` gives the family's own attention matrices of these very inputs, ``[head, token, token]`` float32,
    every token seeing the tokens before it: for comparison only, of a pass in one chunk; its memory grows with the
    square of the length. ``parts``: which rows of the batch the tokens belong to, and where in them (only where the
    layer has a gate); ``biases``: what is added to logits.
    """

    rows: Span
    query: Tensor
    key: Tensor
    value: Tensor
    scaling: float
    window: int | None
    softcap: float | None
    own_weights: Callable[[], Tensor]
    parts: tuple[Part, ...] = ()
    biases: tuple[KeyBias, ...] = ()


@dataclass(frozen=True)
class CachedLayout:
    """A batch of rows, padded on the left, over a cache that holds their earlier tokens.

    ``padding``: places before each row's first token; ``length``: places of every row with those that run now, which
    are the last ``new`` ones.
    """

    padding: tuple[int, ...]
    length: int
    new: int


@dataclass(frozen=True, slots=True, eq=False)
class AttentionCall:
    """The layout of a forward pass and what each verb wants of it.

    ``reads``: one reader per layer; ``gates``: one gate per layer, which works before the reader looks, so that gated
    attention can be read; ``fork``: where rows begin to go on in several copies, which gates can tell apart;
    ``last_layer``: the forward ends inside the attention of this layer, before its output is computed (None: it runs
    to the end); ``chunk_tokens``: how many tokens of a packed sequence go through a layer at once.
    """

    layout: PackedLayout | CachedLayout
    reads: Mapping[int, LayerRead] = field(default_factory=dict)
    gates: Mapping[int, LayerGate] = field(default_factory=dict)
    fork: Fork | None = None
    last_layer: int | None = None
    chunk_tokens: int = CHUNK_TOKENS

    def copies_at(self, layer: int) -> int:
        """In how many copies every row runs through a layer."""
        return self.fork.copies if self.fork is not None and layer >= self.fork.layer else 1
