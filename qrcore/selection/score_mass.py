"""The best pieces that together hold a share of the positive scores of the final prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from qrcore.selection import NO_POSITIVE_SCORE, Piece, Wanted, by_rank


def want(pieces: Sequence[Piece], settings: Mapping[str, Any]) -> Wanted:
    """``mass``: the share, above 0 and at most 1. Without a positive score the best piece alone, and a flag."""
    final = by_rank([piece for piece in pieces if piece.final])
    positive = [piece for piece in final if piece.score > 0]
    if not positive:
        return Wanted(tuple(piece.position for piece in final[:1]), (NO_POSITIVE_SCORE,) if final else ())
    goal = settings["mass"] * math.fsum(piece.score for piece in positive)
    chosen: list[Piece] = []
    for piece in positive:
        # Rounding of the last digits must not ask for one piece more than the whole.
        if math.fsum(one.score for one in chosen) >= goal * (1 - 1e-12):
            break
        chosen.append(piece)
    return Wanted(tuple(piece.position for piece in chosen))
