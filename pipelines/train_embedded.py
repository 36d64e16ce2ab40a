"""Train the embedded model: Parquet text in; a model folder, its head set, what was measured and a card out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from pipelines.training.checks import check_sets, check_settings, usable_device
from pipelines.training.examination import examine
from pipelines.training.findings import Findings
from pipelines.training.judged import JudgedSet
from pipelines.training.material import read_material
from pipelines.training.observer import TrainingObserver
from pipelines.training.output import card_facts, write_model_folder
from pipelines.training.seeds import train_seed
from pipelines.training.settings import TrainEmbeddedSettings
from pipelines.training.study import read_judged_sets


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """What came out: the shipped seed's totals, and what was measured of it, if anything was."""

    output: str
    parameters: int
    seed: int
    tokens: int
    seconds: float
    findings: Findings | None


def train_embedded(settings: TrainEmbeddedSettings, observer: TrainingObserver) -> TrainedModel:
    """Train a model for each seed, measure them, write the one that ranks dev lists best, and say what it is.

    Before anything is trained, raises ConfigError for settings that cannot be used, InputError for files without the
    needed columns and for lists that cannot tell what is asked of them, StorageError for an output that cannot be
    written; then TrainingError if a seed's model does not learn, ModelError if its weights are not finite in float16.
    """
    check_settings(settings)
    settings = replace(settings, device=usable_device(settings.device))
    sets = _judged_sets(settings, observer)
    torch.set_num_threads(1)
    material = read_material(settings, observer)
    runs = [train_seed(settings, material, seed, observer) for seed in settings.seeds]
    found = [examine(run, sets, settings, observer) for run in runs]
    observer.phase("writing the model folder")
    facts = card_facts(settings, material, runs, found)
    write_model_folder(settings, material, runs, facts)
    last = facts.shipped_run
    return TrainedModel(settings.output, facts.parameters, last.seed, last.tokens, last.seconds, last.findings)


def _judged_sets(settings: TrainEmbeddedSettings, observer: TrainingObserver) -> dict[str, JudgedSet]:
    if settings.evaluation is None:
        return {}
    observer.phase("reading judged lists")
    sets = read_judged_sets(settings.evaluation, settings.storage)
    check_sets(sets, settings.evaluation)
    return sets
