"""The lesson of the retrieval heads: a loss on where a few heads look.

Next-token prediction alone lets retrieval heads appear somewhere, usually in every head of the layer in which copying
began. Teaching decides which heads they are (as MuDAF, Liu et al. 2025, does with a contrastive loss on queries and
keys) and needs far fewer tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn.functional import one_hot

from qrcore.training.samples import NO_DOCUMENT, NO_SOURCE, NOTHING, Batch

#: Document tokens a sample from which heads are taught: enough to learn from, few enough to cost little.
_SHOWN_ROWS = 64
#: Only keeps logarithms finite: where heads look elsewhere, the loss must still say in which direction to turn.
_SMALLEST = 1e-30


@dataclass(frozen=True, slots=True)
class TaughtHeads:
    """The first ``heads`` query heads of ``layer`` are to look at the document that a query asks for.

    Others help them, and the answer, ``marking_heads`` for each of these:

    - of the layer below, the last ones look from a document's tokens at its mark ``[i]``, so that who finds a word
      finds its document's number; the first ones, in answers and where these are copied from, at the token before, at
      the one before that, and so on;
    - of ``layer``, the last ones look from a document's tokens at the first token of their sentence;
    - of the layer above, the first ones look from a query's tokens, and from the mark that begins its answer, at the
      sentence that answers;
    - of the layer above that, the first ones look from the tokens of an answer at the document's token to copy next.

    Layers that a model lacks are left out. ``weight`` is that of one query's loss beside a token's weight of 1. The
    others are shares of it: for each query, ``looking_weight`` of looking at documents at all, ``marking_weight`` of
    finding marks and ``sentence_weight`` of each of the three that find sentences; for each copied token,
    ``copying_weight`` of finding it and of finding the tokens before.
    """

    layer: int
    heads: int
    weight: float = 5.0
    looking_weight: float = 0.1
    marking_heads: int = 2
    marking_weight: float = 0.2
    sentence_weight: float = 0.2
    copying_weight: float = 0.1


class HeadLesson:
    """Collects the loss of the taught heads during one forward pass over `batch`.

    For each query the attention of its tokens is averaged and summed over each document's tokens, as QRHead scores
    documents (arXiv 2506.09944, Eq. 2); the loss is the cross-entropy of the asked document among all documents, for
    each head by itself and for the heads together, in equal parts. Under the null query, which scores are calibrated
    by, no taught head is to look at a document. ``hits`` tells of each query whether the taught heads together look
    most at the document asked for.
    """

    def __init__(self, taught: TaughtHeads, batch: Batch) -> None:
        self._taught = taught
        readings = ((sample, _Reading.of(taught, batch, sample)) for sample in range(len(batch.asked)))
        self._readings = [(sample, reading) for sample, reading in readings if reading]
        self.losses: list[torch.Tensor] = []
        self.hits: list[torch.Tensor] = []

    def read(self, layer: int, query: torch.Tensor, key: torch.Tensor, bias: torch.Tensor, scaling: float) -> None:
        """Take in a layer's queries and keys, ``[sample, query head, token, size]``."""
        taught = self._taught
        if not any(reading.sees(layer, taught) for _, reading in self._readings):
            return
        # Taken apart once: each later look at one sample then has a gradient of its size, not of the whole batch.
        queries, keys = query.unbind(0), key.unbind(0)
        for sample, reading in self._readings:
            attend = _Attention(queries[sample], keys[sample], bias[sample], scaling)
            if layer == taught.layer:
                self._teach(reading.mass(attend(slice(taught.heads), reading.rows)), reading.wanted)
            for finding in reading.findings:
                if finding.layer == layer:
                    found = (attend(finding.heads, finding.rows) * finding.target).sum(dim=-1)
                    self.losses.append(finding.weight * -torch.log(found + _SMALLEST).mean())

    def total(self) -> torch.Tensor:
        """The weighted sum over all queries."""
        return self._taught.weight * torch.stack(self.losses).sum() if self.losses else torch.zeros(())

    def _teach(self, mass: torch.Tensor, wanted: torch.Tensor) -> None:
        """``mass`` ``[head, query, 1 + document]``: mean over a query's tokens, sum over a document's; first the mass
        outside documents."""
        asks = wanted != NOTHING
        each_and_all = torch.cat((mass, mass.mean(dim=0, keepdim=True)))
        elsewhere, found = each_and_all[..., 0], each_and_all[..., 1:]
        choosing = self._choosing(found[:, asks], wanted[asks])
        looking_away = -torch.log(elsewhere[:, ~asks] + _SMALLEST)
        losses = torch.cat((choosing, looking_away), dim=1).sum(dim=1)
        self.losses.append((losses[:-1].mean() + losses[-1]) / 2)
        self.hits.append(found[-1, asks].detach().argmax(dim=-1) == wanted[asks])

    def _choosing(self, mass: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Cross-entropy ``[head, query]`` of the wanted document, and that of looking at any."""
        logs = torch.log(mass + _SMALLEST)
        looking = torch.logsumexp(logs, dim=-1)
        chosen = logs.gather(-1, wanted.expand(len(mass), -1).unsqueeze(-1)).squeeze(-1)
        return looking - chosen - self._taught.looking_weight * looking


@dataclass(frozen=True, slots=True, eq=False)
class _Attention:
    """Softmax attention ``[head, row, token]`` in float32 of chosen heads and rows of one sample and layer."""

    query: torch.Tensor
    key: torch.Tensor
    bias: torch.Tensor
    scaling: float

    def __call__(self, heads: slice, rows: torch.Tensor) -> torch.Tensor:
        asking = self.query[heads].index_select(1, rows) * self.scaling
        scores = asking @ self.key[heads].transpose(-1, -2)
        return torch.softmax(scores.float() + self.bias[:, rows].float(), dim=-1)


@dataclass(frozen=True, slots=True, eq=False)
class _Finding:
    """What some heads are to find: ``target`` ``[row, token]`` is 1 where a token of ``rows`` is to look."""

    layer: int
    heads: slice
    rows: torch.Tensor
    target: torch.Tensor
    weight: float


@dataclass(frozen=True, slots=True, eq=False)
class _Reading:
    """The queries and documents of one sample.

    ``rows``: places of the queries' tokens; ``mean_of_tokens`` ``[query, row]`` averages over a query's tokens;
    ``belongs`` ``[token, 1 + document]`` is 1 where a token is the document's, the first column where it is none's;
    ``wanted`` ``[query]``: the document asked for.
    """

    rows: torch.Tensor
    mean_of_tokens: torch.Tensor
    belongs: torch.Tensor
    wanted: torch.Tensor
    findings: tuple[_Finding, ...]

    @classmethod
    def of(cls, taught: TaughtHeads, batch: Batch, sample: int) -> _Reading | None:
        documents, blocks, asked = batch.documents[sample], batch.blocks[sample], batch.asked[sample]
        rows = _places(asked != NO_DOCUMENT)
        if not len(rows):
            return None
        queries, query_of_row = torch.unique(torch.stack((blocks[rows], asked[rows])), dim=1, return_inverse=True)
        member = one_hot(query_of_row, queries.shape[1]).float()
        findings = (
            *_marks_and_sentences(taught, batch, sample, queries.shape[1]),
            *_copying(taught, batch, sample),
        )
        return cls(
            rows=rows,
            mean_of_tokens=(member / member.sum(dim=0)).T,
            belongs=one_hot(documents - NO_DOCUMENT, int(documents.max()) + 2).float(),
            wanted=queries[1],
            findings=tuple(one for one in findings if one.weight and len(one.rows)) if taught.marking_heads else (),
        )

    def sees(self, layer: int, taught: TaughtHeads) -> bool:
        """Whether a loss is taken of heads of this layer."""
        return layer == taught.layer or any(finding.layer == layer for finding in self.findings)

    def mass(self, attention: torch.Tensor) -> torch.Tensor:
        """``[head, query, 1 + document]`` from the attention ``[head, row, token]`` of ``rows``."""
        found: torch.Tensor = self.mean_of_tokens @ (attention @ self.belongs)
        return found


def _marks_and_sentences(taught: TaughtHeads, batch: Batch, sample: int, queries: int) -> Iterator[_Finding]:
    """What tokens of documents and queries, and marks that begin answers, are to find."""
    first, last = slice(taught.marking_heads), slice(-taught.marking_heads, None)
    sentences, sought, asked = batch.sentences[sample], batch.asked_sentences[sample], batch.asked[sample]
    shown = _places(sentences != NO_DOCUMENT)
    shown = shown[:: max(1, len(shown) // _SHOWN_ROWS)]
    starts = torch.where(sentences != sentences.roll(1), sentences, NO_DOCUMENT)
    weight = taught.marking_weight * queries
    own_mark = _equal(batch.documents[sample][shown], batch.marks[sample])
    yield _Finding(taught.layer - 1, last, shown, own_mark, weight)
    weight = taught.sentence_weight * queries
    yield _Finding(taught.layer, last, shown, _equal(sentences[shown], starts), weight)
    for asks in (asked != NO_DOCUMENT, asked == NO_DOCUMENT):
        rows = _places(asks & (sought != NO_DOCUMENT))
        yield _Finding(taught.layer + 1, first, rows, _equal(sought[rows], sentences), weight)


def _copying(taught: TaughtHeads, batch: Batch, sample: int) -> Iterator[_Finding]:
    """What tokens before copied ones are to find, and what it takes to tell which comes next: the tokens before."""
    copied, blocks = batch.sources[sample].roll(-1), batch.blocks[sample]
    rows = _places(copied != NO_SOURCE)
    weight = taught.copying_weight * len(rows)
    places = torch.arange(len(copied), device=copied.device)
    yield _Finding(taught.layer + 2, slice(taught.marking_heads), rows, _equal(copied[rows], places), weight)
    both = torch.cat((rows, copied[rows].unique()))
    for head in range(taught.marking_heads):
        within = both[(both > head) & (blocks[both - 1 - head] == blocks[both])]
        target = _equal(within - 1 - head, places)
        yield _Finding(taught.layer - 1, slice(head, head + 1), within, target, weight)


def _places(chosen: torch.Tensor) -> torch.Tensor:
    return chosen.nonzero().squeeze(1)


def _equal(sought: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
    """``[row, token]``: 1 where a token holds what a row seeks."""
    return (held == sought.unsqueeze(1)).float()
