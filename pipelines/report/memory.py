"""What was predicted of the memory of a run's actors, beside what they took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.report.model import ActorMemory


def memory_of(footers: Sequence[Mapping[str, Any]]) -> tuple[ActorMemory, ...]:
    """One record for each actor whose passes were predicted, by node and process; units that were written before this
    was counted have none."""
    by_actor: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for footer in footers:
        if footer.get("predicted_bytes"):
            by_actor.setdefault((footer["node"], footer["actor_pid"]), []).append(footer)
    return tuple(
        ActorMemory(
            node=node,
            actor_pid=pid,
            on_gpu=any(footer["on_gpu"] for footer in of_actor),
            predicted_bytes=max(footer["predicted_bytes"] for footer in of_actor),
            measured_bytes=max(footer["model_bytes"] for footer in of_actor),
        )
        for (node, pid), of_actor in sorted(by_actor.items())
    )
