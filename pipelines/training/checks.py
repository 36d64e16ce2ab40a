"""Everything that can be wrong with a training and be known before its hours have passed."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import ValidationError

from pipelines.storage import Storage, StorageOptions, absolute, join, protocol_of
from pipelines.training.answer_study import answering_sentence
from pipelines.training.judged import JudgedSet
from pipelines.training.readings import check_log
from pipelines.training.settings import TrainEmbeddedSettings
from pipelines.training.study import EvaluationSettings, chosen_from
from qrcore.errors import ConfigError, InputError, StorageError
from qrcore.heads import HeadSet
from qrcore.models import resolve_device
from qrcore.training.model import ModelShape
from qrcore.training.trainer import check_taught


def check_settings(settings: TrainEmbeddedSettings) -> None:
    """What settings say by themselves. Raises ConfigError, ModelError for a device that there is not, StorageError for
    an output that cannot be written."""
    _check_name(settings.name)
    _check_seeds(settings.seeds)
    _check_shape(settings.shape)
    if settings.taught:
        check_taught(settings.taught, settings.shape.layers, settings.shape.heads)
    if settings.evaluation:
        _check_evaluation(settings.evaluation, settings.shape)
    usable_device(settings.device)
    _check_work(settings.work)
    _check_output(settings.output, settings.storage)


def check_sets(sets: Mapping[str, JudgedSet], evaluation: EvaluationSettings) -> None:
    """Whether these lists can tell what is asked of them. Raises InputError."""
    if not any(judged.part("dev") for judged in chosen_from(sets, evaluation)):
        raise InputError("evaluation: expected lists with dev queries to choose heads on, got none. Give more queries.")
    for name in {*evaluation.heads_on, evaluation.length_on} - {None}:
        if not sets[str(name)].part("dev"):
            raise InputError(f"lists {name}: expected dev queries, all of its queries are test. Give more queries.")
    answered = evaluation.answers_on
    if answered and not any(map(answering_sentence, sets[answered].part("dev"))):
        raise InputError(
            f"lists {answered}: expected dev queries with an answer that stands in a relevant document, got none. "
            "Add answers.parquet with such answers, or choose another list for answers_on."
        )


def usable_device(device: str) -> str:
    """The device's full name, ``auto`` decided. Raises ModelError or ConfigError if there is no such device."""
    target = resolve_device(device)
    if target.type not in ("cpu", "cuda"):
        raise ConfigError(f"device: expected cpu, cuda, cuda:N or auto, got {device!r}. Choose one of these.")
    if target.type == "cuda" and (target.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {device!r}: expected one of {torch.cuda.device_count()} GPUs. Choose a lower number."
        )
    return str(target)


def _check_name(name: str) -> None:
    try:
        HeadSet(name=name, heads=("0-0",))
    except ValidationError as error:
        raise ConfigError(
            "name: expected 1 to 128 letters (A-Z, a-z), digits, '.', '_' and '-', the first a letter or digit, got "
            f"{name!r}. Choose another name."
        ) from error


def _check_seeds(seeds: tuple[int, ...]) -> None:
    doubled = [seed for seed, count in Counter(seeds).items() if count > 1]
    if not seeds or doubled or min(seeds) < 0:
        raise ConfigError(f"seeds: expected different numbers from 0 on, got {list(seeds)}. Correct the list.")


def _check_shape(shape: ModelShape) -> None:
    if shape.heads % shape.kv_heads:
        raise ConfigError(
            f"shape.kv_heads: expected a divisor of heads ({shape.heads}), got {shape.kv_heads}. Choose another number."
        )
    if shape.hidden % shape.heads:
        raise ConfigError(
            f"shape.hidden: expected a multiple of heads ({shape.heads}), got {shape.hidden}. Choose another width."
        )
    if shape.head_size % 2:
        raise ConfigError(
            f"shape.head_size: expected an even number (positions turn pairs of dimensions), got {shape.head_size}. "
            "Choose another size."
        )


def _check_evaluation(evaluation: EvaluationSettings, shape: ModelShape) -> None:
    if not 1 <= evaluation.top <= shape.heads:
        raise ConfigError(
            f"evaluation.top: expected 1 to {shape.heads} heads, as many as a layer has, got {evaluation.top}. "
            "Lower it, or give the shape more heads."
        )
    if evaluation.part == "test":
        check_log(evaluation.log)


def _check_work(work: str) -> None:
    if "://" in work:
        raise ConfigError(f"work: expected a local folder for checkpoints, got {work!r}. Give a path without ://.")
    try:
        _try_to_write(Path(work))
    except OSError as error:
        raise ConfigError(f"work {work}: expected a folder to write to; {error.strerror}. Choose another.") from error


def _check_output(output: str, options: StorageOptions) -> None:
    if protocol_of(output) == "file":
        try:
            _try_to_write(Path(absolute(output)))
        except OSError as error:
            raise StorageError(
                f"output {output}: expected a folder to write to; {error.strerror}. Choose another, or its permissions."
            ) from error
    else:
        # Whether it may be written is told only by writing, and what is written there stays for readers to find.
        Storage(output, options).exists(join(output, "config.json"))


def _try_to_write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
