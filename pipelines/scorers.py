"""Settings of the scorer actors and what probing one tells; light enough for every task to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ScorerSettings:
    """What builds a scorer in an actor: the arguments of :func:`qrcore.load_scorer`, and torch's threads."""

    model: str
    revision: str | None = None
    heads: str | None = None
    prompt: str = "auto"
    dtype: str = "auto"
    device: str = "auto"
    null_query: str = "N/A"
    calibration_weight: float = 1.0
    query_span: str = "official"
    order: str = "as_given"
    document_special_tokens: str = "text"
    allow_sliding_window: bool = False
    threads: int = 1


@dataclass(frozen=True, slots=True)
class ScorerFacts:
    """What loading the scorer once told: everything that ``auto`` came to, and what the weights are.

    ``prompt``: all fields of the prompt format; ``max_tokens``: the longest prompt the model is made for.
    """

    head_set_id: str
    heads: tuple[str, ...]
    prompt: dict[str, Any]
    prompt_sha256: str
    weights_sha256: str | None
    layers: int
    kept_layers: int
    dtype: str
    device: str
    max_tokens: int


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """The scorer actors: how many, and what each takes of the cluster."""

    actors: int = 2
    cpus_per_actor: float = 1.0
    gpus_per_actor: float = 0.0


def probe(settings: ScorerSettings) -> ScorerFacts:
    """Load the scorer as an actor would and report; refuses what cannot work before any work is planned."""
    from pipelines.actors import probe_scorer  # torch, which the driver does not need

    return probe_scorer(settings)
