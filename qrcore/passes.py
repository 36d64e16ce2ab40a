"""The largest pass that ran, in predicted bytes, for whoever asks: without a listener nothing is reckoned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final


@dataclass(slots=True)
class LargestPass:
    """``predicted_bytes``: of the weights and the largest pass so far together; 0 where none ran."""

    predicted_bytes: int = 0


_HEARD: Final[ContextVar[LargestPass | None]] = ContextVar("largest_pass", default=None)


@contextmanager
def largest_pass() -> Iterator[LargestPass]:
    """Listen in this thread to the passes that run within the block."""
    heard = LargestPass()
    token = _HEARD.set(heard)
    try:
        yield heard
    finally:
        _HEARD.reset(token)


def tell_pass(predict_bytes: Callable[[], int]) -> None:
    """A pass begins; ``predict_bytes`` gives what it and the weights are predicted to take."""
    heard = _HEARD.get()
    if heard is not None:
        heard.predicted_bytes = max(heard.predicted_bytes, predict_bytes())
