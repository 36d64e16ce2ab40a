"""The best pieces with what stands around them in the same document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qrcore.selection import Piece, Wanted, by_rank


def want(pieces: Sequence[Piece], settings: Mapping[str, Any]) -> Wanted:
    """``top``: hits; ``around``: pieces on each side. A hit comes before its neighbours, near ones before far ones."""
    at = {piece.position: piece for piece in pieces}
    wanted: dict[int, None] = {}
    for hit in by_rank(pieces)[: settings["top"]]:
        wanted[hit.position] = None
        for distance in range(1, settings["around"] + 1):
            for position in (hit.position - distance, hit.position + distance):
                if position in at and at[position].source == hit.source:
                    wanted[position] = None
    return Wanted(tuple(wanted))
