"""In which order a list of candidates stands in the prompt."""

from __future__ import annotations

import hashlib
import random

from qrcore.records import Order, RankRequest


def prompt_order(request: RankRequest, order: Order, seed: int = 0) -> list[int]:
    """Positions of ``request.documents`` in prompt order.

    ``reversed`` puts the first stage's best document last, next to the query. ``shuffled`` depends on the request
    and ``seed`` alone, so that a row gets the same prompt on every worker and in every attempt.
    """
    positions = list(range(len(request.documents)))
    if order == "reversed":
        positions.reverse()
    elif order == "shuffled":
        random.Random(_seed_of(request, seed)).shuffle(positions)
    return positions


def _seed_of(request: RankRequest, seed: int) -> int:
    digest = hashlib.sha256(request.query.encode("utf-8", "surrogatepass"))
    for document in request.documents:
        digest.update(b"\0" + document.doc_id.encode("utf-8", "surrogatepass"))
    if seed:
        digest.update(b"\0\0" + str(seed).encode())
    return int.from_bytes(digest.digest()[:8], "big")
