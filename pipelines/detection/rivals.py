"""What a choice of heads is compared with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from pipelines.detection.choice import Choice
from pipelines.detection.found import Found
from qrcore.detection import HeadScore, choose_heads
from qrcore.heads import HeadSet, ModelShape
from qrcore.loading import load_method

CHOSEN: Final = "chosen"
ALL: Final = "all"
RANDOM: Final = "random"
SAME_LAYERS: Final = "random-same-layers"
#: The best heads of all layers, beside a choice that is limited to some.
ANY_DEPTH: Final = "any-depth"

_SEEDS: Final = 5
_MOST_DEPTHS: Final = 6

Sets = dict[str, tuple[str, ...]]


def rivals(
    chosen: Found, others: Sequence[Found], shape: ModelShape, choice: Choice, compared: Sequence[HeadSet] = ()
) -> Sets:
    """Heads by name: the choice itself, what other methods choose, the sets to be ``compared`` (by their ids), all
    heads, random ones (of all layers, and of the chosen ones' layers, five seeds each), fewer and more heads, and
    choices within a smaller depth or, where depth was limited, without the limit."""
    top = choice.top
    found = {CHOSEN: _names(chosen.chosen)}
    found |= {other.method: _names(other.chosen) for other in others}
    found |= {one.id: one.heads for one in compared}
    found[ALL] = load_method("all").build(shape).heads
    like = [one.head for one in chosen.chosen]
    draw = load_method("random").build
    for seed in range(_SEEDS):
        found[f"{RANDOM}-{seed}"] = draw(shape, top, seed).heads
        found[f"{SAME_LAYERS}-{seed}"] = draw(shape, top, seed, like).heads
    if choice.max_layer is not None:
        found[ANY_DEPTH] = _names(choose_heads(chosen.scores, top))
    return found | _other_numbers(chosen, top) | _smaller_depths(chosen, top)


def _other_numbers(chosen: Found, top: int) -> Sets:
    deepest = max(one.head.layer for one in chosen.chosen)
    allowed = sum(one.head.layer <= deepest for one in chosen.scores)
    wanted = sorted({1, top // 4, top // 2, 2 * top, 4 * top} - {0, top})
    return {
        f"top-{number}": _names(choose_heads(chosen.scores, number, deepest)) for number in wanted if number <= allowed
    }


def _smaller_depths(chosen: Found, top: int) -> Sets:
    """The best heads below each layer that the choice reaches, the deepest first."""
    layers = sorted({one.head.layer for one in chosen.chosen}, reverse=True)
    found = {}
    for layer in layers[:_MOST_DEPTHS]:
        if sum(one.head.layer < layer for one in chosen.scores) >= top:
            best = choose_heads(chosen.scores, top, layer - 1)
            found[f"up-to-layer-{layer - 1}"] = _names(best)
    return found


def _names(scores: Iterable[HeadScore]) -> tuple[str, ...]:
    return tuple(str(one.head) for one in scores)
