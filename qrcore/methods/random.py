"""Heads drawn by chance: what a chosen set must beat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Final

from qrcore.contracts.method import Method, Needs
from qrcore.errors import ConfigError
from qrcore.heads import Head, HeadSet, ModelShape

_SOURCE: Final = "drawn by chance"


def build(shape: ModelShape, top: int, seed: int, like: Sequence[Head] | None = None) -> HeadSet:
    """``top`` different heads drawn with ``seed`` from all layers; with ``like``, as many from each layer as it has.

    Raises :class:`ConfigError` if there are not so many heads.
    """
    generator = Random(seed)
    chosen = _like(shape, like, generator) if like else _any(shape, top, generator)
    return HeadSet(
        name=f"random-{seed}-same-layers" if like else f"random-{seed}",
        heads=tuple(map(str, chosen)),
        method="random",
        method_settings={"seed": seed, "same_layers": bool(like)},
        source=_SOURCE,
    )


def _any(shape: ModelShape, top: int, generator: Random) -> list[Head]:
    heads = [Head(layer, head) for layer in range(shape.layers) for head in range(shape.query_heads)]
    _check(top, len(heads), "heads")
    return generator.sample(heads, top)


def _like(shape: ModelShape, like: Sequence[Head], generator: Random) -> list[Head]:
    chosen = []
    for layer, count in sorted(Counter(head.layer for head in set(like)).items()):
        _check(count, shape.query_heads, f"heads in layer {layer}")
        chosen += [Head(layer, head) for head in generator.sample(range(shape.query_heads), count)]
    return chosen


def _check(wanted: int, there: int, what: str) -> None:
    if not 1 <= wanted <= there:
        raise ConfigError(f"random heads: expected 1 to {there} {what}, got {wanted}. Choose another number.")


METHOD = Method(name="random", kind="baseline", source=_SOURCE, needs=Needs(), build=build)
