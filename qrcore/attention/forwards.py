"""Put another function in the place of a module's ``forward`` for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn


@contextmanager
def wrapped_forward(module: nn.Module, wrapper: Callable[..., Any]) -> Iterator[None]:
    """Calls of ``module`` go to ``wrapper(forward, *args, **settings)`` inside the context."""
    own = vars(module).get("forward")  # someone else's wrapper, which comes back afterwards
    module.forward = partial(wrapper, module.forward)
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own
