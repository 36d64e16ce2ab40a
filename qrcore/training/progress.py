"""Where a training run stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from qrcore.training.loss import Accuracies

_SMOOTHING_STEPS: Final = 50


@dataclass(frozen=True, slots=True)
class StepResult:
    """One step: tokens trained, mean weighted loss, accuracies."""

    tokens: int
    loss: float
    accuracies: Accuracies


@dataclass(frozen=True, slots=True)
class Progress:
    """Totals so far; loss and accuracies are moving averages over about 50 steps of the present stage."""

    stage: str = ""
    stage_number: int = 0
    stage_steps: int = 0
    stage_tokens: int = 0
    tokens: int = 0
    steps: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    copy_accuracy: float = 0.0
    index_accuracy: float = 0.0
    verdict_accuracy: float = 0.0
    head_accuracy: float = 0.0

    def after(self, stage: str, result: StepResult, seconds: float) -> Progress:
        """The state after one more step of `stage`."""
        share = 1.0 / min(self.stage_steps + 1, _SMOOTHING_STEPS)

        def smooth(old: float, new: float | None) -> float:
            return old if new is None else old + share * (new - old)

        return Progress(
            stage=stage,
            stage_number=self.stage_number,
            stage_steps=self.stage_steps + 1,
            stage_tokens=self.stage_tokens + result.tokens,
            tokens=self.tokens + result.tokens,
            steps=self.steps + 1,
            seconds=self.seconds + seconds,
            loss=smooth(self.loss, result.loss),
            copy_accuracy=smooth(self.copy_accuracy, result.accuracies.copy),
            index_accuracy=smooth(self.index_accuracy, result.accuracies.index),
            verdict_accuracy=smooth(self.verdict_accuracy, result.accuracies.verdict),
            head_accuracy=smooth(self.head_accuracy, result.accuracies.heads),
        )

    def stage_share(self, tokens: int) -> float:
        """How much of a stage of `tokens` tokens is done, at most 1."""
        return min(1.0, self.stage_tokens / max(1, tokens))

    def next_stage(self) -> Progress:
        """The same totals at the beginning of the following stage."""
        return Progress(stage_number=self.stage_number + 1, tokens=self.tokens, steps=self.steps, seconds=self.seconds)
