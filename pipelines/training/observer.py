"""Who is told how a training goes on; the pipeline prints nothing itself."""

from __future__ import annotations

from typing import Protocol

from qrcore.training.progress import Progress


class TrainingObserver(Protocol):
    """``phase``: what begins now; ``progress``: called after every step, ``share``: of the curriculum's tokens done."""

    def phase(self, message: str) -> None: ...

    def progress(self, seed: int, progress: Progress, share: float) -> None: ...
