"""The best pieces, a few of each document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from qrcore.selection import Piece, Wanted, by_rank


def want(pieces: Sequence[Piece], settings: Mapping[str, Any]) -> Wanted:
    """``top``: pieces in all; ``per_source``: of one document. A piece without a document is one of its own."""
    taken: Counter[str] = Counter()
    wanted: list[int] = []
    for piece in by_rank(pieces):
        source = piece.source if piece.source is not None else f"\0{piece.position}"
        if len(wanted) < settings["top"] and taken[source] < settings["per_source"]:
            taken[source] += 1
            wanted.append(piece.position)
    return Wanted(tuple(wanted))
