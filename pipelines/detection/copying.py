"""What finding copying heads is told; light enough for the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

COPY: Final = "copy"
#: The mean over trials in which the model did answer with the needle.
COPY_CONDITIONAL: Final = "copy-conditional"
KEY_VALUE: Final = "key_value"
KEY_VALUE_CONDITIONAL: Final = "key_value-conditional"

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
    def loaded(self) -> str:
        """The method that is loaded; the two means are methods of their own in reports."""
        return COPY

    @property
    def conditional(self) -> str:
        """The name of the mean over successful trials."""
        return COPY_CONDITIONAL

    def method(self, succeeded: int = 0) -> str:
        """The name of the method that chooses, whatever the number of successful trials."""
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

    @property
    def record(self) -> dict[str, Any]:
        """These settings in a report."""
        return asdict(self)

    def said(self, succeeded: int, trials: int) -> str | None:
        """What is to be known of the choice: nothing, because the user has chosen the mean."""
        return None


@dataclass(frozen=True, slots=True)
class KeyValueTask:
    """How heads are seen to copy values by their keys: see :class:`qrcore.methods.key_value.KeyValueSettings`.

    ``fewest``: successful trials below which the mean over all of them chooses, teacher-forced.
    """

    count: int = 800
    length: int | None = None
    top: int | None = None
    seed: int = 0
    fewest: int = 20

    @property
    def loaded(self) -> str:
        """The method that is loaded."""
        return KEY_VALUE

    @property
    def conditional(self) -> str:
        """The name of the mean over successful trials."""
        return KEY_VALUE_CONDITIONAL

    def method(self, succeeded: int = 0) -> str:
        """The name of the method that chooses."""
        return KEY_VALUE_CONDITIONAL if succeeded >= self.fewest else KEY_VALUE

    @property
    def building(self) -> dict[str, Any]:
        """What the method is built with."""
        return {"count": self.count, "length": self.length, "top": self.top, "seed": self.seed}

    @property
    def methods(self) -> dict[str, Mapping[str, Any]]:
        """Both means as methods with their settings."""
        own = {**self.building, "answering": "teacher_forced"}
        return {
            KEY_VALUE_CONDITIONAL: {**own, "mean": "conditional"},
            KEY_VALUE: {**own, "mean": "unconditional"},
        }

    @property
    def record(self) -> dict[str, Any]:
        """These settings in a report."""
        return asdict(self)

    def said(self, succeeded: int, trials: int) -> str | None:
        """What is to be known of the choice, None for nothing."""
        if succeeded >= self.fewest:
            return None
        return (
            f"{succeeded} of {trials} trials succeeded, fewer than {self.fewest}: heads are chosen by the "
            "teacher-forced mean over all trials, not by that over the successful ones"
        )


Copying = CopySettings | KeyValueTask
