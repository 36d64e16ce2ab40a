"""Settings of the scorer actors, and what probing one tells; light enough for every task to import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import pyarrow as pa

from pipelines.encoding import UnitEncoder
from pipelines.inputs import FileSurvey
from pipelines.work import PoolSettings, UnitWorker
from qrcore.records import ScorerIdentity
from qrcore.windows import ContextSettings

#: Settings that enter the identity as what they came to (hashes, resolved names), not as they were spelled.
_RESOLVED_BY_PROBE: Final = frozenset(
    {"model.id", "model.revision", "model.heads", "model.dtype", "model.device", "scoring.prompt", "compare"}
)


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """The fields of :class:`qrcore.engine.EngineSettings`, for processes without torch."""

    pack_tokens: int = 4096
    chunk_tokens: int = 2048
    memory_bytes: int | None = None
    attention_kernel: str = "auto"
    compile: bool = False


@dataclass(frozen=True, slots=True)
class ScorerSettings:
    """What builds a scorer in an actor: the arguments of :func:`qrcore.load_scorer` and torch's threads."""

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
    on_mismatch: str = "refuse"
    depth: str = "heads"
    threads: int = 1
    order_seed: int = 0
    engine: EngineOptions = field(default_factory=EngineOptions)


def on_requested_device(settings: ScorerSettings, pool: PoolSettings) -> ScorerSettings:
    """The same settings with ``auto`` decided by what is asked of Ray."""
    # Not by what a worker happens to see: Ray does not hide GPUs from actors without one.
    if settings.device != "auto":
        return settings
    return replace(settings, device="cuda" if pool.gpus_per_actor else "cpu")


def probe(settings: ScorerSettings) -> ScorerIdentity:
    """Load the scorer as an actor would and report; refuses what cannot work before any work is planned."""
    from pipelines.actors import open_scorer  # torch, which the driver does not need

    return open_scorer(settings).identity


def ranking_worker(
    settings: ScorerSettings, contexts: ContextSettings, schema: pa.Schema, detection_queries: frozenset[str]
) -> UnitWorker:
    """The worker of a re-ranking run, in this process; it marks rankings of ``detection_queries``."""
    from pipelines.actors import UnitScorer  # torch, which reading and writing do not need

    return UnitScorer(settings, contexts, schema, detection_queries)


def request_encoder(settings: ScorerSettings, contexts: ContextSettings) -> UnitEncoder:
    """What tokenises for the scorer of these settings, in this process, where ``contexts`` are ``plain``."""
    from pipelines.actors import RequestUnitEncoder  # torch, which reading and writing do not need

    return RequestUnitEncoder(settings, contexts)


def planned_order(wanted: str, surveys: Sequence[FileSurvey]) -> str:
    """How documents stand in the prompt; ``auto``: best last where the input has first-stage scores or ranks."""
    if wanted != "auto":
        return wanted
    return "reversed" if any(survey.has_first_stage for survey in surveys) else "as_given"


def planned_contexts(contexts: ContextSettings, facts: ScorerIdentity) -> ContextSettings:
    """The settings of contexts with the numbers that hold for this scorer on every actor."""
    return contexts.within(facts.max_tokens, facts.sight, facts.largest_pass)


def as_probed(settings: ScorerSettings, facts: ScorerIdentity, order: str) -> ScorerSettings:
    """What the actors load: what was probed, and documents in the planned order."""
    # Probing has compared the weights; hashing them again in every actor would read them all once more.
    return replace(settings, order=order, revision=facts.revision, dtype=facts.dtype, on_mismatch="ignore")


def scorer_identity(affecting_output: dict[str, Any], facts: ScorerIdentity) -> dict[str, Any]:
    """What decides a scorer's output: the settings that do, and what their names came to."""
    return {
        "config": {key: value for key, value in affecting_output.items() if key not in _RESOLVED_BY_PROBE},
        "head_set": facts.head_set_id,
        "prompt": facts.prompt_sha256,
        "weights": facts.weights_sha256,
        "setup": facts.setup_sha256,
        "dtype": facts.dtype,
        "device": facts.device.split(":")[0],
    }


def scorer_record(settings: ScorerSettings, facts: ScorerIdentity) -> dict[str, Any]:
    """What a manifest says of a scorer."""
    return {
        "model": {
            "id": settings.model,
            "revision": facts.revision,
            "weights_sha256": facts.weights_sha256,
            "setup_sha256": facts.setup_sha256,
            "layers": facts.layers,
            "kept_layers": facts.kept_layers,
        },
        "head_set": {"id": facts.head_set_id, "heads": list(facts.heads)},
        "prompt": {"name": facts.prompt["name"], "sha256": facts.prompt_sha256, "format": facts.prompt},
        "max_tokens": facts.max_tokens,
        "settings": {
            "null_query": settings.null_query,
            "calibration_weight": settings.calibration_weight,
            "query_span": settings.query_span,
            "order": settings.order,
            "order_seed": settings.order_seed,
            "document_special_tokens": settings.document_special_tokens,
            "allow_sliding_window": settings.allow_sliding_window,
        },
        "dtype": facts.dtype,
        "device": facts.device,
        "warnings": list(facts.warnings),
        "detection_tokens": facts.detection_tokens,
    }
