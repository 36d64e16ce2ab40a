"""Which queries choices are made on, and which they are proved on: split by a hash of their id, the same everywhere."""

from __future__ import annotations

import hashlib
from typing import Final, Literal

#: Choices (heads, models, when to stop) are made on ``dev``; ``test`` is for reporting.
Part = Literal["dev", "test"]

DEV_SHARE: Final = 0.4


def part_of(query_id: str) -> Part:
    """``dev`` for 40 % of all ids, ``test`` for the others."""
    digest = hashlib.sha256(query_id.encode("utf-8", "surrogatepass")).digest()
    return "dev" if int.from_bytes(digest[:8], "big") / 2**64 < DEV_SHARE else "test"
