"""What builds a worker that asks again, and what probing one tells; light enough for every task to import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.answers.settings import AnswererSettings
from pipelines.splits import Part
from qrcore.contracts.answerer import AnswererIdentity
from qrcore.heads import ModelShape

#: Masks by name: the model as it is, and its own head set.
NONE = "none"
OWN_HEADS = "own"


@dataclass(frozen=True, slots=True)
class FlipModel:
    """The model and how it answers; ``follow_ups``, ``yes_word``, ``no_word``: see
    :class:`qrcore.asking.AskingSettings`; ``injected``: ask again after a wrong answer in place of the model's own, too; ``misleading``: put a passage that
    does not answer before the question that asks again; ``correct_recall``: share of the needle's words that makes an
    answer right; ``mask_mode``, ``looked_at``: see :class:`qrcore.methods.flip_audit.FlipSettings`; ``masks_at_once``:
    masked copies in one pass."""

    answerer: AnswererSettings
    follow_ups: tuple[str, ...]
    yes_word: str = "yes"
    no_word: str = "no"
    injected: bool = True
    misleading: bool = False
    correct_recall: float = 0.5
    mask_mode: Literal["uniform", "zero"] = "uniform"
    looked_at: int = 5
    masks_at_once: int = 6


@dataclass(frozen=True, slots=True)
class FlipFacts:
    """Hashes, names and numbers that decide what comes out; ``own``: id and heads of the model's own set, if any."""

    answerer: AnswererIdentity
    shape: ModelShape
    own: tuple[str, tuple[str, ...]] | None
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Phase:
    """What is done with rows of ``part``: on a fit split heads are read (``fit``), on a held-out one they are masked.
    ``masks``: heads by name, beside :data:`NONE`."""

    part: Part
    fit: bool
    masks: Mapping[str, tuple[str, ...]]
