"""What a process takes of its machine's memory, in all and since it began to load a model."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

_STATUS: Final = Path("/proc/self/status")
_PEAK: Final = "VmHWM:"
_CLEAR: Final = Path("/proc/self/clear_refs")
_RESET_PEAK: Final = "5"  # proc(5): the peak becomes what is resident now
_before_model: int | None = None


def peak_bytes() -> int:
    """Largest resident memory of this process so far, in bytes."""
    if _STATUS.is_file():
        # Not ru_maxrss, which still holds the size of the process that started this one.
        lines = _STATUS.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(_PEAK))
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def model_begins() -> None:
    """A model is about to be loaded: what the process takes now is Python's and its libraries'."""
    # Ray may have given this process the task that probed the model; its peak is none of this one's. Where the system
    # cannot count anew, what is told afterwards is too little rather than too much.
    global _before_model
    with suppress(OSError):
        _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
    _before_model = peak_bytes()


def model_bytes() -> int:
    """How much the largest resident memory has grown since a model was about to be loaded; 0 if none was."""
    return 0 if _before_model is None else peak_bytes() - _before_model
