"""The verb *gate*: heads that are held back in a forward pass, to see what is lost without them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from qrcore.attention.call import AttentionInputs, LayerGate
from qrcore.heads import Head


def uniform(heads: Iterable[Head]) -> dict[int, LayerGate]:
    """Gates under which ``heads`` attend alike to every key that they may see: they no longer choose.

    The query is scaled by 0, so that all logits are equal; the mean of the values still goes on, which is less of a
    shock to the layers above than nothing would be.
    """
    layers: dict[int, set[int]] = defaultdict(set)
    for head in heads:
        layers[head.layer].add(head.head)
    return {layer: UniformGate(tuple(sorted(chosen))) for layer, chosen in layers.items()}


@dataclass(frozen=True, slots=True)
class UniformGate:
    """Scales the queries of these heads of a layer by 0, at every token; see
    :class:`~qrcore.attention.call.LayerGate`."""

    heads: tuple[int, ...]

    def __call__(self, layer: int, inputs: AttentionInputs) -> Tensor:
        query = inputs.query.clone()
        query[list(self.heads)] = 0.0
        return query
