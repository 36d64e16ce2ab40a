"""What every method says of itself, as data: read when a run is planned, before any model is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from qrcore.records import Order

MethodKind = Literal[
    "scorer", "detector", "baseline", "copy_detector", "influence", "generator", "context_generator", "audit"
]


@dataclass(frozen=True, slots=True)
class Needs:
    """What a method cannot do without.

    ``labels``: relevant documents among the candidates; ``others``: documents that are not relevant, too; ``order``:
    how its authors let documents stand in the prompt, None: any; ``depth``: ``full`` where it generates, and so needs
    all layers and the language-model head.
    """

    labels: bool = False
    others: bool = False
    order: Order | None = None
    depth: Literal["heads", "full"] = "heads"


@dataclass(frozen=True, slots=True)
class Method:
    """A method: ``name`` is its file's, ``source`` where it was published, ``build`` makes it from its settings."""

    name: str
    kind: MethodKind
    source: str
    needs: Needs
    build: Callable[..., Any]
