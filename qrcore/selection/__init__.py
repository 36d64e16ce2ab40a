"""Which pieces of a context to keep: one policy a file, pure functions over scored pieces.

A policy says which pieces it wants, the most wanted first; :func:`fill` then keeps what fits a token budget. Scores are
comparable within one prompt only and are often negative, so no policy knows an absolute threshold, and those that look
at scores use the pieces of the final prompt alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.resources import files
from typing import Any, Literal, NamedTuple

from qrcore.errors import ConfigError

#: Flags of a selection.
NO_POSITIVE_SCORE = "no_positive_score"
BUDGET_BELOW_EVERY_PIECE = "budget_below_every_piece"
NO_TEXT = "no_text"
BLANK_PIECES = "blank_pieces_left_out"


@dataclass(frozen=True, slots=True)
class Piece:
    """One scored piece of a context.

    ``position``: its place in the context from 0; ``rank`` from 1; ``tokens`` as the target model counts them;
    ``final``: whether it was in the last prompt; ``source``: the document it was cut from.
    """

    doc_id: str
    position: int
    rank: int
    score: float
    tokens: int
    final: bool = True
    source: str | None = None


class Wanted(NamedTuple):
    """Positions of wanted pieces, the most wanted first, each once; and what has to be said of the choice."""

    positions: tuple[int, ...]
    flags: tuple[str, ...] = ()


Policy = Callable[[Sequence[Piece], Mapping[str, Any]], Wanted]


def names() -> list[str]:
    """All policies."""
    folder = files(__package__ or __name__)
    return sorted(
        entry.name[:-3] for entry in folder.iterdir() if entry.name.endswith(".py") and not entry.name.startswith("_")
    )


def policy(name: str) -> Policy:
    """The policy of this name. Raises :class:`ConfigError`."""
    if name not in names():
        raise ConfigError(f"policy: expected one of {', '.join(names())}; got {name!r}. Choose one of these.")
    found: Policy = import_module(f"{__name__}.{name}").want
    return found


def by_rank(pieces: Sequence[Piece]) -> list[Piece]:
    """Best first."""
    return sorted(pieces, key=lambda piece: piece.rank)


def fill(
    pieces: Sequence[Piece],
    wanted: Sequence[int],
    budget_tokens: int | None,
    overhead_tokens: int = 0,
    overflow: Literal["skip", "stop"] = "skip",
) -> list[int]:
    """The wanted positions that fit, in the order wanted; whole pieces only.

    ``overhead_tokens``: what a piece costs beside its own. ``overflow``: a piece that no longer fits is skipped and
    smaller ones may follow, or it ends the choice; only then a larger budget keeps all that a smaller one keeps.
    """
    if budget_tokens is None:
        return list(wanted)
    tokens = {piece.position: piece.tokens + overhead_tokens for piece in pieces}
    kept, used = [], 0
    for position in wanted:
        if used + tokens[position] <= budget_tokens:
            kept.append(position)
            used += tokens[position]
        elif overflow == "stop":
            break
    return kept


def ordered(
    pieces: Sequence[Piece], positions: Sequence[int], order: Literal["original", "best_first", "best_last"]
) -> list[int]:
    """Positions as they stand in the context: as in the original, or by rank."""
    if order == "original":
        return sorted(positions)
    rank = {piece.position: piece.rank for piece in pieces}
    return sorted(positions, key=lambda position: rank[position], reverse=order == "best_last")
