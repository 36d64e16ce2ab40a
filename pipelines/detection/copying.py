"""What finding copying heads is told; light enough for the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

COPY: Final = "copy"
#: The mean over trials in which the model did answer with the needle.
COPY_CONDITIONAL: Final = "copy-conditional"

CopyMean = Literal["unconditional", "conditional"]
_NAMES: Final[dict[CopyMean, str]] = {"unconditional": COPY, "conditional": COPY_CONDITIONAL}


@dataclass(frozen=True, slots=True)
class CopySettings:
    """How heads are seen to copy: see :class:`qrcore.methods.copy.CopyScore`; ``answer_prefix``: see
    :class:`pipelines.detection.needle_rows.TrialMaker`; ``mean``: which one chooses, both are told."""

    answering: Literal["decode", "teacher_forced"] = "teacher_forced"
    max_new_tokens: int = 50
    answer_prefix: str = "auto"
    mean: CopyMean = "unconditional"

    @property
    def method(self) -> str:
        """The name of the method that chooses."""
        return _NAMES[self.mean]

    @property
    def building(self) -> dict[str, Any]:
        """What the method is built with."""
        return {"answering": self.answering, "max_new_tokens": self.max_new_tokens}

    @property
    def methods(self) -> dict[str, Mapping[str, Any]]:
        """Both means as methods with their settings."""
        return {
            name: {**self.building, "answer_prefix": self.answer_prefix, "mean": mean} for mean, name in _NAMES.items()
        }
