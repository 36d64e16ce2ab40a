"""What a unit took, counted where it was done."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import ray

from qrcore.errors import ScoreError


@dataclass(frozen=True, slots=True)
class UnitMetrics:
    """What one unit took; kept in the unit object's footer.

    ``memory_bytes``: the process's largest resident memory so far; ``gpu_memory_bytes``: the most that torch took of
    its GPU.
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
        memory_bytes=_memory_bytes(),
        gpu_memory_bytes=_gpu_memory_bytes(),
    )


def _memory_bytes() -> int:
    """Largest resident memory of this process so far; Linux counts it in KiB, macOS in bytes."""
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def _gpu_memory_bytes() -> int:
    torch = sys.modules.get("torch")  # a process that has not loaded it took nothing of a GPU
    return torch.cuda.max_memory_allocated() if torch and torch.cuda.is_initialized() else 0


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
    )
