"""Seconds by named part of a computation, for whoever asks: without a listener nothing is measured."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

TOKENISE: Final = "tokenise"

_HEARD: Final[ContextVar[dict[str, float] | None]] = ContextVar("seconds_by_part", default=None)


@contextmanager
def seconds_by_part() -> Iterator[dict[str, float]]:
    """Listen in this thread: seconds of each part that ends within the block, added up by its name."""
    heard: dict[str, float] = {}
    token = _HEARD.set(heard)
    try:
        yield heard
    finally:
        _HEARD.reset(token)


@contextmanager
def part(name: str) -> Iterator[None]:
    """A part of a computation; also a decorator of a function that is one. Parts of one name must not be nested."""
    heard = _HEARD.get()
    if heard is None:
        yield
        return
    started = time.perf_counter()
    try:
        yield
    finally:
        heard[name] = heard.get(name, 0.0) + time.perf_counter() - started
