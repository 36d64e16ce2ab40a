"""Tokenise units on CPUs ahead of the actors that score them."""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Callable
from typing import Any, Protocol

from pipelines.plan import Unit
from pipelines.units import Encoded, UnitRows, unit_rows


class UnitEncoder(Protocol):
    """Turns the rows of units into tokens; holds a tokenizer and no weights."""

    def encode(self, unit: UnitRows) -> Encoded:
        """What each row asks in tokens, or why it cannot be answered, in order."""
        ...


class EncodeUnit:
    """One actor of Ray Data: made once, called with one unit at a time."""

    def __init__(self, encoder: Callable[[], UnitEncoder]) -> None:
        self._encoder = encoder()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        started = time.perf_counter()
        unit = Unit.model_validate_json(row["unit"])
        encoded = pickle.dumps(self._encoder.encode(unit_rows(row, unit)))
        seconds = {**json.loads(row["seconds"]), "tokenise_s": time.perf_counter() - started}
        return {**row, "encoded": encoded, "seconds": json.dumps(seconds), "read_at": time.time()}
