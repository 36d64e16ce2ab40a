"""Which heads the held-out split is asked without: the best of the ranking, the model's own set, and control sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from qrcore.causal import draw_same_layer
from qrcore.heads import Head, ModelShape, parse_head, unique_heads

#: Between a mask's name and the number of its control set.
CONTROL: Final = "/control-"


def audit_masks(
    ranking: Sequence[Head],
    shape: ModelShape,
    sizes: Sequence[int],
    compared: Mapping[str, tuple[str, ...]],
    controls: int,
    seed: int,
) -> dict[str, tuple[str, ...]]:
    """Heads by the mask's name: the best of each size (as many as the model has), ``compared`` ones, and for each up to
    ``controls`` sets of as many other heads of the same layers."""
    named = {f"top-{size}": tuple(ranking[:size]) for size in sorted({min(size, len(ranking)) for size in sizes})}
    named |= {name: unique_heads(map(parse_head, heads)) for name, heads in compared.items()}
    masks: dict[str, tuple[str, ...]] = {}
    for name, heads in named.items():
        masks[name] = tuple(map(str, heads))
        for number, other in enumerate(draw_same_layer(heads, shape, controls, seed), start=1):
            masks[f"{name}{CONTROL}{number}"] = tuple(map(str, other))
    return masks
