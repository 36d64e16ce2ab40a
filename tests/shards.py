"""Small input shards with everything in them, written as users would."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.schemas import INPUT_SCHEMA
from tests.small_model import HEADS as HEADS
from tests.small_model import MODEL as MODEL

_WORDS = ("river", "town", "bee", "flower", "market", "bridge", "salt", "stone", "lamp", "wool", "cheese", "map")


def candidates(number: int, seed: int = 0) -> list[dict[str, Any]]:
    """``number`` first-stage candidates, best first."""
    draw = random.Random(seed)
    return [
        {
            "doc_id": f"d{place}",
            "title": None if place % 2 else f"Title {place}",
            "text": " ".join(draw.choices(_WORDS, k=12)),
            "score": float(number - place),
            "rank": place + 1,
        }
        for place in range(number)
    ]


def row(query_id: str | None, **changes: Any) -> dict[str, Any]:
    """A good row, or one with the given columns changed."""
    seed = sum(map(ord, query_id or "x"))
    good = {
        "query_id": query_id,
        "query": " ".join(random.Random(seed).choices(_WORDS, k=4)),
        "candidates": candidates(4, seed),
    }
    return {**good, **changes}


def write_shard(path: Path, rows: list[dict[str, Any]], schema: pa.Schema = INPUT_SCHEMA) -> Path:
    """One Parquet file with these rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return path
