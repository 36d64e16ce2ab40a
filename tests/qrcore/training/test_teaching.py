"""The lesson of the taught heads: against loops over whole attention matrices, and what it teaches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from qrcore.training.attention import training_attention
from qrcore.training.loss import run_batch
from qrcore.training.queries import QueryMix
from qrcore.training.retrieval import RetrievalShape, RetrievalTask
from qrcore.training.samples import NO_DOCUMENT, NO_SOURCE, NOTHING, Batch, collate, visibility
from qrcore.training.teaching import HeadLesson, TaughtHeads
from tests.qrcore.training.tiny import Layer, tiny_model

_SCALING = 0.4
_LAYERS = 4
_HEADS = 4
_NONE = NO_DOCUMENT

Matrix = list[list[float]]
#: Of each token, the tokens that it is to find.
_Targets = dict[int, set[int]]
#: Weight, layer, heads, and what they are to find.
_Sought = tuple[float, int, range, _Targets]


class _Token(NamedTuple):
    """What a batch tells of one token."""

    block: int = 0
    mark: int = _NONE
    document: int = _NONE
    sentence: int = _NONE
    asked: int = _NONE
    asked_sentence: int = _NONE
    source: int = NO_SOURCE


Tokens = tuple[_Token, ...]


def _shown(document: int, *sentences: int) -> Tokens:
    """A document: its mark, and a token for each number of a sentence; ``_NONE`` is its title."""
    return _Token(mark=document), *(_Token(document=document, sentence=sentence) for sentence in sentences)


def _asking(block: int, *asked: tuple[int, int], finds: int = _NONE, copied: tuple[int, ...] = ()) -> Tokens:
    """A question block: for each of its tokens the document and the sentence asked for; the mark that begins its
    answer, with the sentence that it is to find; then a token for each place that is copied."""
    queries = [_Token(block, asked=one, asked_sentence=other) for one, other in asked]
    return *queries, _Token(block, asked_sentence=finds), *(_Token(block, source=place) for place in copied)


#: Three documents; queries for the second one, for the third and the first, for nothing, and for a sentence that was
#: taken away.
_RICH: Tokens = (
    _Token(), _Token(), *_shown(0, _NONE, 10, 10, 10, 11, 11), _Token(), *_shown(1, 20, 20), *_shown(2, 30, 31, 31),
    _Token(), *_asking(1, (1, 20), (1, 20), (1, 20), finds=20, copied=(10, 11)),
    *_asking(2, (2, 31), (0, 11), (0, 11), finds=11),
    *_asking(3, (NOTHING, _NONE), (NOTHING, _NONE)), *_asking(4, (0, _NONE)),
)  # fmt: skip
#: Shorter, so that it is padded: two documents, and the null query first.
_SHORT: Tokens = (
    *_shown(0, 5), *_shown(1, 6, 6), *_asking(1, (NOTHING, _NONE)), *_asking(2, (1, 6), (1, 6), copied=(4,)),
)  # fmt: skip
#: Three documents, and one token a query: of several tokens the one that looks least elsewhere counts most.
_TERSE: Tokens = (
    _Token(), *_shown(0, 10, 10), *_shown(1, 20), *_shown(2, 30),
    *_asking(1, (1, 20), finds=20, copied=(5,)), *_asking(2, (2, 30)),
)  # fmt: skip
#: Random tokens to be copied: nothing is asked.
_SILENT: Tokens = (_Token(),) * 7


def _batch(*samples: Tokens) -> Batch:
    longest = max(map(len, samples))
    padding = _Token(block=-1)
    whole = torch.tensor([[*tokens, *[padding] * (longest - len(tokens))] for tokens in samples])
    blocks, marks, documents, sentences, asked, asked_sentences, sources = whole.unbind(dim=-1)
    zeros = torch.zeros_like(blocks)
    return Batch(
        ids=zeros, positions=zeros, visible=visibility(blocks), weights=zeros.float(), roles=zeros, blocks=blocks,
        documents=documents, marks=marks, sentences=sentences, asked=asked, asked_sentences=asked_sentences,
        sources=sources,
        tokens=sum(map(len, samples)),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Attending:
    """Queries ``[sample, head, token, size]`` and keys of fewer heads, of some layers."""

    queries: tuple[torch.Tensor, ...]
    keys: tuple[torch.Tensor, ...]
    bias: torch.Tensor

    @classmethod
    def over(cls, batch: Batch, kv_heads: int = 2, seed: int = 0) -> _Attending:
        torch.manual_seed(seed)
        samples, length = batch.ids.shape
        bias = torch.zeros(batch.visible.shape).masked_fill(~batch.visible, float("-inf"))
        return cls(
            tuple(torch.randn(samples, _HEADS, length, 6, requires_grad=True) for _ in range(_LAYERS)),
            tuple(torch.randn(samples, kv_heads, length, 6, requires_grad=True) for _ in range(_LAYERS)),
            bias,
        )

    def lesson(self, taught: TaughtHeads, batch: Batch) -> HeadLesson:
        """The lesson that all layers were shown to, as transformers calls the attention function."""
        lesson = HeadLesson(taught, batch)
        for layer, (query, key) in enumerate(zip(self.queries, self.keys, strict=True)):
            training_attention(Layer(layer), query, key, key, self.bias, _SCALING, lesson=lesson)
        return lesson

    @torch.no_grad()
    def matrix(self, layer: int, sample: int, head: int) -> Matrix:
        """A head's attention from the definition, in float64."""
        query, key = self.queries[layer].double(), self.keys[layer].double()
        group = query.shape[1] // key.shape[1]
        scores = query[sample, head] @ key[sample, head // group].T * _SCALING + self.bias[sample, 0]
        matrix: Matrix = torch.softmax(scores, dim=-1).tolist()
        return matrix


# The lesson once more, slowly: whole matrices, one token at a time.


def _slow_loss(attending: _Attending, taught: TaughtHeads, samples: Sequence[Tokens]) -> float:
    total = 0.0
    for number, tokens in enumerate(samples):
        queries = _queries(tokens)
        total += sum(_slow_query(attending, taught, number, tokens, *query) for query in queries)
        if queries and taught.marking_heads:
            total += _slow_finding(attending, taught, number, tokens)
    return taught.weight * total


def _queries(tokens: Tokens) -> list[tuple[int, int]]:
    return sorted({(token.block, token.asked) for token in tokens if token.asked != _NONE})


def _slow_query(
    attending: _Attending, taught: TaughtHeads, number: int, tokens: Tokens, block: int, asked: int
) -> float:
    masses = [
        _slow_mass(attending.matrix(taught.layer, number, head), tokens, block, asked) for head in range(taught.heads)
    ]
    alone = sum(_slow_choice(mass, asked, taught.looking_weight) for mass in masses) / len(masses)
    return (alone + _slow_choice(_mean(masses), asked, taught.looking_weight)) / 2


def _slow_mass(matrix: Matrix, tokens: Tokens, block: int, asked: int) -> list[float]:
    """For each document, how much the query's tokens look at it, on average."""
    asking = [place for place, token in enumerate(tokens) if (token.block, token.asked) == (block, asked)]
    mass = [0.0] * (1 + max(token.document for token in tokens))
    for place in asking:
        for key, token in enumerate(tokens):
            if token.document != _NONE:
                mass[token.document] += matrix[place][key] / len(asking)
    return mass


def _mean(rows: Sequence[Sequence[float]]) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def _slow_choice(mass: Sequence[float], asked: int, looking_weight: float) -> float:
    if asked == NOTHING:
        return -math.log(1 - sum(mass))
    return -math.log(mass[asked] / sum(mass)) - looking_weight * math.log(sum(mass))


def _slow_finding(attending: _Attending, taught: TaughtHeads, number: int, tokens: Tokens) -> float:
    """Weighted mean of what each head loses on each token that is to find some tokens."""
    total = 0.0
    for weight, layer, heads, targets in (*_sought_by_queries(taught, tokens), *_sought_by_copies(taught, tokens)):
        if layer == _LAYERS:
            continue
        matrices = [attending.matrix(layer, number, head) for head in heads]
        shares = [sum(matrix[row][key] for key in keys) for matrix in matrices for row, keys in targets.items()]
        total += weight * sum(-math.log(share) for share in shares) / max(1, len(shares))
    return total


def _sought_by_queries(taught: TaughtHeads, tokens: Tokens) -> list[_Sought]:
    """Marks of documents in the layer below, beginnings of sentences in its own, answers in the layer above."""
    count, sentences = taught.marking_heads, [token.sentence for token in tokens]
    first, last = range(count), range(_HEADS - count, _HEADS)
    marks, starts, asked, begun = _Targets(), _Targets(), _Targets(), _Targets()
    for place, token in enumerate(tokens):
        if token.sentence != _NONE:
            marks[place] = {key for key, other in enumerate(tokens) if other.mark == token.document}
            starts[place] = {sentences.index(token.sentence)}
        if token.asked_sentence != _NONE:
            found = {key for key, sentence in enumerate(sentences) if sentence == token.asked_sentence}
            (begun if token.asked == _NONE else asked)[place] = found
    of_sentences = taught.sentence_weight * len(_queries(tokens))
    return [
        (taught.marking_weight * len(_queries(tokens)), taught.layer - 1, last, marks),
        (of_sentences, taught.layer, last, starts),
        (of_sentences, taught.layer + 1, first, asked),
        (of_sentences, taught.layer + 1, first, begun),
    ]


def _sought_by_copies(taught: TaughtHeads, tokens: Tokens) -> list[_Sought]:
    """What is to be copied next, two layers above; one head for each token before, in the layer below."""
    copied = {place - 1: {token.source} for place, token in enumerate(tokens) if token.source != NO_SOURCE}
    heads = range(taught.marking_heads)
    weight = taught.copying_weight * len(copied)
    before = [(weight, taught.layer - 1, range(head, head + 1), _before(tokens, copied, 1 + head)) for head in heads]
    return [(weight, taught.layer + 2, heads, copied), *before]


def _before(tokens: Tokens, copied: _Targets, distance: int) -> _Targets:
    """Tokens that are copied, and those before their copies, are to find the one that far before, if it is theirs."""
    places = {*copied, *(source for sources in copied.values() for source in sources)}
    earlier = {place: place - distance for place in places if place >= distance}
    return {place: {other} for place, other in earlier.items() if tokens[other].block == tokens[place].block}


_TAUGHT = TaughtHeads(
    layer=1,
    heads=3,
    weight=2.0,
    marking_heads=2,
    marking_weight=0.3,
    sentence_weight=0.7,
    copying_weight=0.4,
    looking_weight=0.25,
)
_VARIANTS = {
    "usual": _TAUGHT,
    "one head": replace(_TAUGHT, heads=1),
    "a later layer": replace(_TAUGHT, layer=2, marking_heads=1),
    "no marking": replace(_TAUGHT, marking_heads=0),
    "no sentences": replace(_TAUGHT, sentence_weight=0.0),
    "no copying": replace(_TAUGHT, copying_weight=0.0),
    "no looking": replace(_TAUGHT, looking_weight=0.0, weight=1.0),
    "all heads": replace(_TAUGHT, heads=4, marking_weight=0.0),
}


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("samples", [(_RICH,), (_SHORT, _RICH), (_SILENT, _RICH, _SHORT)], ids=["one", "two", "three"])
@pytest.mark.parametrize("taught", _VARIANTS.values(), ids=_VARIANTS.keys())
def test_the_lesson_equals_loops_over_heads_queries_and_documents(
    taught: TaughtHeads, samples: tuple[Tokens, ...], kv_heads: int
) -> None:
    batch = _batch(*samples)
    attending = _Attending.over(batch, kv_heads)
    loss = float(attending.lesson(taught, batch).total().detach())
    assert loss == pytest.approx(_slow_loss(attending, taught, samples), rel=1e-4)


def test_hits_tell_whether_the_heads_together_look_most_at_the_asked_document() -> None:
    batch = _batch(_RICH, _SHORT)
    found = set()
    for seed in range(8):
        attending = _Attending.over(batch, seed=seed)
        expected = []
        for number, tokens in enumerate((_RICH, _SHORT)):
            for block, asked in _queries(tokens):
                masses = [_slow_mass(attending.matrix(1, number, head), tokens, block, asked) for head in range(3)]
                together = _mean(masses)
                if asked != NOTHING:
                    expected.append(together.index(max(together)) == asked)
        assert torch.cat(attending.lesson(_TAUGHT, batch).hits).tolist() == expected
        found |= set(expected)
    assert found == {True, False}


def test_without_a_query_there_is_no_loss_and_no_hit() -> None:
    batch = _batch(_SILENT, _SILENT)
    lesson = _Attending.over(batch).lesson(_TAUGHT, batch)
    assert float(lesson.total()) == 0.0
    assert lesson.hits == []


@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize(("heads", "marking"), [(1, 0), (1, 1), (2, 1), (1, 2)])
def test_only_the_heads_that_are_named_learn(layer: int, heads: int, marking: int) -> None:
    """(layer, head): all others get no gradient at all."""
    taught = replace(_TAUGHT, layer=layer, heads=heads, marking_heads=marking)
    batch = _batch(_RICH, _SHORT)
    attending = _Attending.over(batch, kv_heads=_HEADS)
    attending.lesson(taught, batch).total().backward()
    last = range(_HEADS - marking, _HEADS)
    named = {(layer, head) for head in (*range(heads), *last)}
    named |= {(layer - 1, head) for head in (*range(marking), *last)} | {
        (above, head) for above in (layer + 1, layer + 2) for head in range(marking) if above < _LAYERS
    }
    for tensors in (attending.queries, attending.keys):
        gradients = [tensor.grad if tensor.grad is not None else torch.zeros_like(tensor) for tensor in tensors]
        assert {(i, h) for i, grad in enumerate(gradients) for h in range(_HEADS) if bool(grad[:, h].any())} == named


# Where heads look elsewhere the loss must still say in which direction to turn.


def _drawn_to(places: Sequence[int], logit: float, *samples: Tokens) -> tuple[Batch, _Attending]:
    """All tokens look at the tokens in these places, by so much more than by themselves."""
    batch = _batch(*samples)
    attending = _Attending.over(batch)
    bias = attending.bias.clone()
    bias[..., places] += logit
    return batch, replace(attending, bias=bias.requires_grad_())


def test_the_choice_among_documents_does_not_depend_on_how_much_heads_look_elsewhere() -> None:
    taught = replace(_TAUGHT, heads=1, marking_heads=0, looking_weight=0.0)
    losses, gradients = [], []
    for logit in (0.0, 30.0):
        batch, attending = _drawn_to([0], logit, _TERSE)
        loss = attending.lesson(taught, batch).total()
        losses.append(float(loss.detach()))
        gradients.append(torch.autograd.grad(loss, attending.queries[1])[0])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-2, atol=1e-4)
    assert float(gradients[1].norm()) > 0.1


@pytest.mark.parametrize("samples", [(_TERSE,), (_RICH, _SHORT)], ids=["one", "two"])
def test_heads_that_look_elsewhere_are_drawn_to_documents_all_the_same(samples: tuple[Tokens, ...]) -> None:
    taught = replace(_TAUGHT, marking_heads=0)
    batch, attending = _drawn_to([0], 30.0, *(((_Token(), *tokens)) for tokens in samples))
    (slope,) = torch.autograd.grad(attending.lesson(taught, batch).total(), attending.bias)
    queries = sum(asked != NOTHING for tokens in samples for _, asked in _queries(tokens))
    expected = taught.weight * taught.looking_weight * queries
    assert float(slope[..., 0].sum()) == pytest.approx(expected, rel=0.05)


def test_marking_heads_that_look_elsewhere_learn_all_the_same() -> None:
    taught = replace(_TAUGHT, heads=1, marking_heads=1, marking_weight=1.0, sentence_weight=1.0, copying_weight=1.0)
    for layer, head in ((0, 3), (1, 3), (2, 0), (3, 0)):
        slopes = []
        for logit in (0.0, 30.0):
            batch, attending = _drawn_to([0], logit, _TERSE)
            (slope,) = torch.autograd.grad(attending.lesson(taught, batch).total(), attending.queries[layer])
            slopes.append(float(slope[:, head].norm()))
        assert slopes[1] > 0.3 * slopes[0]


def test_heads_that_see_nothing_but_documents_learn_to_look_away_from_the_null_query() -> None:
    taught = replace(_TAUGHT, heads=1, marking_heads=0, weight=1.0)
    tokens = (*(token for token in _TERSE if token.block == 0), *_asking(1, (NOTHING, _NONE)))
    held = [place for place, token in enumerate(tokens) if token.document != _NONE]
    batch, attending = _drawn_to(held, 30.0, tokens)
    loss = attending.lesson(taught, batch).total()
    (slope,) = torch.autograd.grad(loss, attending.bias)
    assert float(loss.detach()) > 20
    assert float(slope[0, 0, -2, held].sum()) == pytest.approx(1.0, rel=0.01)


# In a batch


_SHAPE = RetrievalShape(160, 160, QueryMix(reasked=0.2), null_queries=0.5)


def _text_batch(task: RetrievalTask, count: int = 3) -> Batch:
    return collate([task.sample(np.random.default_rng(seed), _SHAPE) for seed in range(count)], pad_id=0)


def test_a_lesson_of_no_weight_leaves_the_plain_loss_to_the_bit(task: RetrievalTask) -> None:
    model = tiny_model(vocabulary=800)
    batch = _text_batch(task)
    plain = run_batch(model, batch)
    weightless = run_batch(model, batch, TaughtHeads(layer=1, heads=2, weight=0.0))
    weighty = run_batch(model, batch, TaughtHeads(layer=1, heads=2, weight=1.0))
    assert torch.equal(plain.loss, weightless.loss)
    assert torch.equal(plain.hits, weightless.hits)
    assert float(weighty.loss.detach()) > float(plain.loss.detach()) + 1
    assert len(plain.head_hits) == 0
    assert len(weightless.head_hits) == len(weighty.head_hits) > 3


def test_the_loss_of_a_batch_is_that_of_its_samples_together(task: RetrievalTask) -> None:
    model, taught = tiny_model(vocabulary=800), TaughtHeads(layer=1, heads=2)
    samples = [task.sample(np.random.default_rng(seed), _SHAPE) for seed in range(3)]
    apart = [run_batch(model, collate([sample], pad_id=0), taught) for sample in samples]
    together = run_batch(model, collate(samples, pad_id=0), taught)
    expected = sum(float(outcome.loss.detach()) for outcome in apart)
    assert float(together.loss.detach()) == pytest.approx(expected, rel=2e-3)
    assert len(together.head_hits) == sum(len(outcome.head_hits) for outcome in apart)
    assert together.roles.tolist() == [role for outcome in apart for role in outcome.roles.tolist()]
