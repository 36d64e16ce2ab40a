"""What builds a worker that answers with contrast, and what probing one tells; light enough for every task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pipelines.answers.settings import AnswererSettings
from qrcore.contracts.answerer import AnswererIdentity
from qrcore.contracts.contrast import ContrastIdentity

#: What stands as the faithful answer beside a masked one; auto: the gold answer where there is one, else the plain one.
Faithful = Literal["auto", "gold", "plain"]


@dataclass(frozen=True, slots=True)
class ContrastModel:
    """The model and how it answers; its ``heads`` by name, list or file (None: the model's own); ``method``, and what
    is generated besides: see :class:`qrcore.contrasting.ContrastParts`."""

    answerer: AnswererSettings
    heads: str | None = None
    on_mismatch: Literal["refuse", "warn", "ignore"] = "refuse"
    method: tuple[tuple[str, Any], ...] = ()
    controls: int = 0
    seed: int = 0
    plain: bool = True
    masked: bool = False


@dataclass(frozen=True, slots=True)
class ContrastFacts:
    """Hashes and names that decide what comes out."""

    answerer: AnswererIdentity
    contrast: ContrastIdentity


@dataclass(frozen=True, slots=True)
class TuningSettings:
    """Which masked answers become rows for tuning. ``max_support``: the largest share of a masked answer's tokens that
    its context may hold, None for any; the tokens stand in front of prompts."""

    faithful: Faithful = "auto"
    max_support: float | None = None
    faithful_token: str = "[POS]"
    masked_token: str = "[NEG]"
