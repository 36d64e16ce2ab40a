"""A stored unit made by hand, which took 36 seconds to score."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from pipelines.commit import CommittedObject, StoredUnit
from pipelines.plan import Plan

#: When the driver began, four seconds before the unit was scored.
STARTED = datetime(2026, 11, 25, 22, 0, tzinfo=UTC)


def footer_of(rows: int, failed: int) -> dict[str, Any]:
    """What a unit of so many rows says of itself."""
    return {
        "unit_id": "u", "rows": rows, "scored": rows - failed, "failed": failed, "prompt_tokens": 7_200,
        "read_s": 0.5, "wait_s": 0.25, "score_s": 36.0, "errors": {"no_candidates": failed} if failed else {},
        "memory_bytes": 3 << 30, "gpu_memory_bytes": 0,
        "started_at": "2026-11-25T22:00:04+00:00", "finished_at": "2026-11-25T22:00:40+00:00",
        "actor_pid": 7, "node": "n",
    }  # fmt: skip


def stored(plan: Plan, table: pa.Table) -> StoredUnit:
    """The plan's only unit with these rows, of which one failed."""
    rows = len(table)
    entry = CommittedObject(
        path="data/u.parquet", unit_id="u", size=1, sha256="s", rows=rows, scored=rows - 1, failed=1
    )
    return StoredUnit(plan.units[0], entry, footer_of(rows, 1), table)
