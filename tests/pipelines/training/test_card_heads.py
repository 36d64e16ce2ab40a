"""What the card says of heads: which were taught, and what each was taught."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch

from pipelines.training import claims
from pipelines.training.claims import LayerHeads, purity, taught_and_chosen
from pipelines.training.facts import helping_heads, taught_names
from qrcore.training.model import ModelShape
from qrcore.training.retrieval import LossWeights
from qrcore.training.samples import NO_DOCUMENT, NO_SOURCE, Batch, visibility
from qrcore.training.teaching import HeadLesson, TaughtHeads
from tests.pipelines.training.card_samples import (
    HEADS,
    card_facts,
    findings,
    replaced,
)
from tests.pipelines.training.card_text import named, section, text_of

SHAPE = ModelShape(layers=4, heads=6, kv_heads=3)


def moved_by_a_lesson(taught: TaughtHeads, shape: ModelShape) -> set[str]:
    """The heads whose queries have a gradient after a sample that holds every kind of token."""
    # A document of two sentences, a query for the second one, the mark that begins its answer, and two copied tokens.
    rows = {
        "blocks": [0, 0, 0, 0, 0, 1, 1, 1, 1],
        "marks": [-1, 0, -1, -1, -1, -1, -1, -1, -1],
        "documents": [-1, -1, 0, 0, 0, -1, -1, -1, -1],
        "sentences": [-1, -1, 5, 5, 6, -1, -1, -1, -1],
        "asked": [-1, -1, -1, -1, -1, 0, -1, -1, -1],
        "asked_sentences": [-1, -1, -1, -1, -1, 6, 6, -1, -1],
        "sources": [-1, -1, -1, -1, -1, -1, -1, 3, 4],
    }
    assert NO_DOCUMENT == NO_SOURCE == -1
    given = {name: torch.tensor([row]) for name, row in rows.items()}
    zeros = torch.zeros_like(given["blocks"])
    visible = visibility(given["blocks"])
    batch = Batch(ids=zeros, positions=zeros, visible=visible, weights=zeros.float(), roles=zeros, tokens=9, **given)
    lesson = HeadLesson(taught, batch)
    bias = torch.zeros(visible.shape).masked_fill(~visible, float("-inf"))
    draw = torch.from_numpy(np.random.default_rng(0).normal(size=(2, shape.layers, 1, shape.heads, 9, 4)))
    queries, keys = draw.requires_grad_()
    for layer in range(shape.layers):
        lesson.read(layer, queries[layer], keys[layer], bias, 0.5)
    lesson.total().backward()
    assert draw.grad is not None
    moved = draw.grad[0].abs().sum(dim=(1, 3, 4)) > 0
    return {f"{layer}-{head}" for layer, head in moved.nonzero().tolist()}


@pytest.mark.parametrize(
    "taught",
    [
        *(TaughtHeads(layer, heads=2) for layer in range(4)),
        TaughtHeads(1, heads=5, marking_heads=3),
        TaughtHeads(1, heads=2, marking_heads=0),
        TaughtHeads(1, heads=2, marking_weight=0.0),
        TaughtHeads(1, heads=2, sentence_weight=0.0),
        TaughtHeads(1, heads=2, copying_weight=0.0),
        TaughtHeads(1, heads=2, weight=0.0),
    ],
)
def test_taught_heads_are_those_that_the_lesson_moves(taught: TaughtHeads) -> None:
    told = {head for heads in helping_heads(taught, SHAPE).values() for head in heads}
    assert told | set(taught_names(taught)) == moved_by_a_lesson(taught, SHAPE)


def test_helping_heads_are_told_by_what_they_look_at() -> None:
    every = dataclasses.replace(card_facts(), taught=TaughtHeads(layer=1, heads=4, marking_heads=1))
    found = named(section(text_of(every), "How it was trained"), "heads")
    assert {heads: cells["taught to look"] for heads, cells in found.items()} == {
        "0-7": "from tokens of a document at its mark `[i]`",
        "0-0": "from tokens of an answer, and of what it copies, at the token before, at the one before that, and so "
        "on",
        "1-7": "from tokens of a document at the first token of their sentence",
        "2-0": "from a query, and from the mark that begins its answer, at the sentence that answers",
        "3-0": "from tokens of an answer at the document's token to copy next",
    }
    weightless = TaughtHeads(layer=1, heads=4, marking_weight=0.0, sentence_weight=0.0, copying_weight=0.0)
    for alone in (weightless, TaughtHeads(layer=1, heads=4, marking_heads=0)):
        assert "Other heads were taught" not in text_of(dataclasses.replace(card_facts(), taught=alone))


def test_a_chosen_head_with_another_lesson_is_not_said_to_be_untaught() -> None:
    chosen = ("2-0", "2-6", "2-5")
    said = "Of the chosen heads, 2-0 was taught to retrieve; 2-6 was taught something else; 2-5 was not taught."
    assert taught_and_chosen(chosen, ("2-0", "2-1"), {"2-6", "2-7"}) == said
    heads = dataclasses.replace(HEADS, chosen=chosen)
    part = section(text_of(replaced(findings(), head_table=heads)), "Heads")
    assert said in part
    assert named(part, "head")["2-6"][""] == "chosen, taught something else"
    assert taught_and_chosen(chosen, (), ()) == ""


def test_heads_of_the_layer_without_another_lesson_are_not_said_to_have_had_one() -> None:
    layer = LayerHeads(2, ("2-0",), alike=("2-1",), rest=("2-3", "2-4"))
    assert "and 2 others: the layer holds" in purity(layer, ())
    assert "and 2 others (1 of which had another lesson: 2-4): the layer holds" in purity(layer, {"2-1", "2-4", "1-3"})


def test_weights_of_tokens_are_those_of_training() -> None:
    weights = LossWeights(index=9.0, beginning=8.0, answer=7.0, query=0.25, document=0.75, verdict=6.0)
    said = claims.token_weights(weights)
    assert re.findall(r"[\d.]+(?= )", said) == ["9", "8", "7", "6", "0.25", "0.75"]
    assert claims.token_weights(LossWeights()) in text_of(card_facts())
