"""The ``top`` best pieces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qrcore.selection import Piece, Wanted, by_rank


def want(pieces: Sequence[Piece], settings: Mapping[str, Any]) -> Wanted:
    """``top``: how many."""
    return Wanted(tuple(piece.position for piece in by_rank(pieces)[: settings["top"]]))
