"""Head sets that nobody chose."""

from __future__ import annotations

from collections import Counter

import pytest

from qrcore.errors import ConfigError
from qrcore.heads import Head, ModelShape
from qrcore.methods import load

SHAPE = ModelShape(layers=3, query_heads=4, kv_heads=2)


def test_all_is_every_head_once() -> None:
    heads = load("all").build(SHAPE).head_list
    assert heads == tuple(Head(layer, head) for layer in range(3) for head in range(4))


def test_random_heads_are_different_ones_of_the_model_and_the_seeds_own() -> None:
    build = load("random").build
    drawn = build(SHAPE, 5, 7)
    drawn.check_fits(SHAPE)
    assert len(set(drawn.head_list)) == 5
    assert drawn == build(SHAPE, 5, 7)
    assert len({build(SHAPE, 5, seed).heads for seed in range(10)}) > 5
    every = Counter(head for seed in range(60) for head in build(SHAPE, 4, seed).head_list)
    assert len(every) == 12 and max(every.values()) < 40


def test_random_heads_of_the_same_layers() -> None:
    like = (Head(1, 0), Head(1, 3), Head(2, 1))
    for seed in range(10):
        drawn = load("random").build(SHAPE, 3, seed, like)
        assert Counter(head.layer for head in drawn.head_list) == {1: 2, 2: 1}
        assert drawn.name == f"random-{seed}-same-layers"


@pytest.mark.parametrize("top", [0, 13])
def test_more_heads_than_there_are(top: int) -> None:
    with pytest.raises(ConfigError, match="expected 1 to 12 heads"):
        load("random").build(SHAPE, top, 0)
