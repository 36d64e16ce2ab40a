"""Pieces of the final prompt that score at least a share of the best one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qrcore.selection import NO_POSITIVE_SCORE, Piece, Wanted, by_rank


def want(pieces: Sequence[Piece], settings: Mapping[str, Any]) -> Wanted:
    """``relative``: the share, above 0 and at most 1. Without a positive score the best piece alone, and a flag."""
    final = by_rank([piece for piece in pieces if piece.final])
    best = max((piece.score for piece in final), default=0.0)
    if best <= 0:
        return Wanted(tuple(piece.position for piece in final[:1]), (NO_POSITIVE_SCORE,) if final else ())
    return Wanted(tuple(piece.position for piece in final if piece.score >= settings["relative"] * best))
