"""What builds a worker that scores documents, and what probing one tells; light enough for every task to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class InfluenceModel:
    """The model, its heads by name, list or file (None: those that it ships, the copying ones if there are such), and
    the method's settings besides them."""

    model: str
    revision: str | None = None
    heads: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    on_mismatch: Literal["refuse", "warn", "ignore"] = "refuse"
    threads: int = 1
    method: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class InfluenceFacts:
    """Hashes and names that decide what comes out, and the heads of the set and of its control sets."""

    head_set_id: str
    heads: tuple[str, ...]
    revision: str | None
    weights_sha256: str
    setup_sha256: str
    dtype: str
    device: str
    max_tokens: int
    controls: tuple[tuple[str, ...], ...]
    settings: dict[str, Any]
    warnings: tuple[str, ...]
