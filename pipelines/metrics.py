"""What a unit took, counted where it was done."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import ray

from pipelines.process_memory import model_bytes, peak_bytes
from qrcore.errors import ScoreError


@dataclass(frozen=True, slots=True)
class UnitMetrics:
    """What one unit took; kept in the unit object's footer.

    ``score_s``: seconds in the actor, of which ``tokenise_in_score_s`` turned text into tokens (0 where nobody measured
    it); ``memory_bytes``: the process's largest resident memory so far; ``gpu_memory_bytes``: the most that torch took
    of its GPU; ``on_gpu``: whether torch uses one at all. ``predicted_bytes``: what weights and the unit's largest pass
    were predicted to take; ``model_bytes``: what they took so far, on a GPU the most that torch allocated, else how
    much the process has grown since it began to load its model.
    """

    rows: int
    scored: int
    failed: int
    uninformative: int
    prompt_tokens: int
    errors: dict[str, int]
    score_s: float
    started_at: str
    finished_at: str
    actor_pid: int
    node: str
    memory_bytes: int = 0
    gpu_memory_bytes: int = 0
    tokenise_in_score_s: float = 0.0
    on_gpu: bool = False
    predicted_bytes: int = 0
    model_bytes: int = 0


def unit_metrics(
    rows: int, errors: Sequence[ScoreError], prompt_tokens: int, started: float, uninformative: int = 0
) -> UnitMetrics:
    """What a unit that ends now has taken in this process since ``started`` (seconds of the epoch)."""
    now = time.time()
    return UnitMetrics(
        rows=rows,
        scored=rows - len(errors),
        failed=len(errors),
        uninformative=uninformative,
        prompt_tokens=prompt_tokens,
        errors=dict(Counter(error.code for error in errors)),
        score_s=now - started,
        started_at=_stamp(started),
        finished_at=_stamp(now),
        actor_pid=os.getpid(),
        node=ray.util.get_node_ip_address(),
        memory_bytes=peak_bytes(),
        gpu_memory_bytes=_gpu_memory_bytes(),
        on_gpu=_on_gpu(),
        model_bytes=_gpu_memory_bytes() if _on_gpu() else model_bytes(),
    )


def _gpu_memory_bytes() -> int:
    return sys.modules["torch"].cuda.max_memory_allocated() if _on_gpu() else 0


def _on_gpu() -> bool:
    torch = sys.modules.get("torch")  # a process that has not loaded it uses no GPU
    return bool(torch and torch.cuda.is_initialized())


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def added(parts: Sequence[UnitMetrics]) -> UnitMetrics:
    """The metrics of a unit that was done in parts by one process, one after the other."""
    errors: Counter[str] = Counter()
    for part in parts:
        errors.update(part.errors)
    return UnitMetrics(
        rows=sum(part.rows for part in parts),
        scored=sum(part.scored for part in parts),
        failed=sum(part.failed for part in parts),
        uninformative=sum(part.uninformative for part in parts),
        prompt_tokens=sum(part.prompt_tokens for part in parts),
        errors=dict(errors),
        score_s=sum(part.score_s for part in parts),
        started_at=parts[0].started_at,
        finished_at=parts[-1].finished_at,
        actor_pid=parts[-1].actor_pid,
        node=parts[-1].node,
        memory_bytes=max(part.memory_bytes for part in parts),
        gpu_memory_bytes=max(part.gpu_memory_bytes for part in parts),
        tokenise_in_score_s=sum(part.tokenise_in_score_s for part in parts),
        on_gpu=parts[-1].on_gpu,
        predicted_bytes=max(part.predicted_bytes for part in parts),
        model_bytes=max(part.model_bytes for part in parts),
    )


def tokenise_seconds(footer: Mapping[str, Any]) -> float:
    """Seconds of turning a unit's text into tokens, ahead of its actor and in it."""
    return float(footer.get("tokenise_s", 0.0) + footer.get("tokenise_in_score_s", 0.0))


def busy_seconds(footers: Sequence[Mapping[str, Any]], bridged_gap_s: float) -> float:
    """Clock seconds in which units were being scored; a pause between them that is longer than this is downtime."""
    spans = sorted(
        tuple(datetime.fromisoformat(footer[key]) for key in ("started_at", "finished_at")) for footer in footers
    )
    seconds, busy_until = 0.0, None
    for start, end in spans:
        if busy_until is None or (start - busy_until).total_seconds() > bridged_gap_s:
            busy_until = start
        seconds += max(0.0, (end - busy_until).total_seconds())
        busy_until = max(busy_until, end)
    return seconds
