"""Settings of the scorer actors and what probing one tells; light enough for every task to import."""

from __future__ import annotations

from dataclasses import dataclass

from qrcore.records import ScorerIdentity


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
class PoolSettings:
    """The scorer actors: how many, and what each takes of the cluster."""

    actors: int = 2
    cpus_per_actor: float = 1.0
    gpus_per_actor: float = 0.0


def probe(settings: ScorerSettings) -> ScorerIdentity:
    """Load the scorer as an actor would and report; refuses what cannot work before any work is planned."""
    from pipelines.actors import open_scorer  # torch, which the driver does not need

    return open_scorer(settings).identity
