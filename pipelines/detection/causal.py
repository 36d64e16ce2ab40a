"""Whether the chosen heads do the copying: accuracy with them held back, against as many other heads held back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa

from pipelines.detection.comparison import interval
from pipelines.measures import Difference, paired_bootstrap
from qrcore.causal import CopyAccuracy, copy_accuracy, draw_controls
from qrcore.contracts.copy_detector import CopyTrial
from qrcore.heads import Head, ModelShape, all_heads, parse_head
from qrcore.models import LanguageModel

INTACT: Final = "intact"
CHOSEN: Final = "chosen"
CONTROL: Final = "control"
#: Fewer control sets than this tell little of where the chosen one stands among them.
FEW_CONTROLS: Final = 20
_SEED: Final = 0

#: Heads that are held back, by the name of the set.
Masks = dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class MaskedSet:
    """Mean accuracy over trials with ``heads`` held back: of the needle's tokens (``copied``), and of naming the
    document before them (``answered``, None where that is not asked)."""

    heads: tuple[str, ...]
    copied: Difference
    answered: Difference | None


@dataclass(frozen=True, slots=True)
class Effect:
    """The chosen set among its controls.

    ``percentile``: share of control sets that leave a higher accuracy; ``drop``: what is lost with the chosen heads
    held back beyond what the controls lose on average, trial by trial, with its 95 % interval.
    """

    percentile: float
    drop: Difference


@dataclass(frozen=True, slots=True)
class CausalFindings:
    """The causal check of a head set; ``few_controls``: the model has too few other heads for a fair comparison."""

    trials: int
    intact: MaskedSet
    chosen: MaskedSet
    controls: tuple[MaskedSet, ...]
    copied: Effect
    answered: Effect | None
    few_controls: bool


@dataclass(slots=True)
class MaskedTrials:
    """Accuracies by masked set and trial."""

    copied: dict[str, dict[str, float]] = field(default_factory=dict)
    answered: dict[str, dict[str, float]] = field(default_factory=dict)

    def add(self, rows: pa.Table) -> None:
        """Take in the rows of one unit of a proof."""
        for row in rows.select(["query_id", "masked"]).to_pylist():
            for one in row["masked"] or ():
                self.note(one["masked"], row["query_id"], CopyAccuracy(one["copied"], one["answered"]))

    def note(self, masked: str, trial: str, accuracy: CopyAccuracy) -> None:
        """Keep one accuracy."""
        self.copied.setdefault(masked, {})[trial] = accuracy.copied
        if accuracy.answered is not None:
            self.answered.setdefault(masked, {})[trial] = float(accuracy.answered)


def mask_sets(chosen: Sequence[str], shape: ModelShape, controls: int, seed: int) -> Masks:
    """Nothing, the ``chosen`` heads, and up to ``controls`` sets of as many others of the same or later layers; nothing
    at all where there is no such set."""
    heads = tuple(dict.fromkeys(map(parse_head, chosen)))
    drawn = draw_controls(heads, all_heads(shape).head_list, controls, seed)
    if not drawn:
        return {}
    others = {f"{CONTROL}-{number}": tuple(map(str, one)) for number, one in enumerate(drawn)}
    return {INTACT: (), CHOSEN: tuple(map(str, heads)), **others}


def causal_findings(masks: Mapping[str, tuple[str, ...]], trials: MaskedTrials) -> CausalFindings | None:
    """What the accuracies say; None without trials or controls."""
    controls = [name for name in masks if name.startswith(f"{CONTROL}-")]
    if not trials.copied or not controls:
        return None
    sets = {name: _masked_set(name, masks, trials) for name in masks}
    return CausalFindings(
        trials=len(trials.copied[INTACT]),
        intact=sets[INTACT],
        chosen=sets[CHOSEN],
        controls=tuple(sets[name] for name in controls),
        copied=_effect(trials.copied, controls),
        answered=_effect(trials.answered, controls) if trials.answered else None,
        few_controls=len(controls) < FEW_CONTROLS,
    )


def causal_check(
    model: LanguageModel,
    trials: Mapping[str, CopyTrial],
    chosen: Sequence[Head],
    controls: int = FEW_CONTROLS,
    seed: int = 0,
) -> CausalFindings | None:
    """The check in this process: every trial with the ``chosen`` heads held back, and with each control set.

    None without trials, or where the model has too few other heads for one control set. Raises :class:`ScoreError` for
    a trial that the model cannot take.
    """
    masks = mask_sets([str(head) for head in chosen], model.decoder.source.shape, controls, seed)
    found = MaskedTrials()
    for name, trial in trials.items():
        for masked, heads in masks.items():
            found.note(masked, name, copy_accuracy(model, trial, map(parse_head, heads)))
    return causal_findings(masks, found)


def _masked_set(name: str, masks: Mapping[str, tuple[str, ...]], trials: MaskedTrials) -> MaskedSet:
    answered = trials.answered.get(name)
    return MaskedSet(masks[name], interval(trials.copied[name]), interval(answered) if answered else None)


def _effect(values: Mapping[str, Mapping[str, float]], controls: Sequence[str]) -> Effect:
    chosen = values[CHOSEN]
    mean = float(np.mean(list(chosen.values())))
    means = [float(np.mean(list(values[name].values()))) for name in controls]
    # What intact heads get right cancels: both losses are taken from the same number, trial by trial.
    others = {trial: float(np.mean([values[name][trial] for name in controls])) for trial in chosen}
    return Effect(float(np.mean([one > mean for one in means])), paired_bootstrap(others, chosen, _SEED))
