"""``qrbatch train-embedded``: train the small model that ships with the package, on one's own text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from jobs.config import StorageConfig
from jobs.settings import Section, setting

if TYPE_CHECKING:
    from pipelines.train_embedded import TrainedModel
    from pipelines.training.observer import TrainingObserver
    from pipelines.training.settings import TrainEmbeddedSettings


class TextConfig(Section):
    """What is learned from."""

    texts: tuple[str, ...] = setting(
        ...,
        "Parquet files or folders with a column text, and source and licence if known.",
        affects_output=True,
        flag="--input",
        uri=True,
        min_length=1,
    )
    questions: tuple[str, ...] = setting(
        (), "Parquet files or folders with group, paragraph, question, answer_sentence.", affects_output=True, uri=True
    )
    question_licence: str = setting("not stated", "Licence of the questions, for the model card.", affects_output=True)
    characters_per_family: int = setting(
        12_000_000,
        "Most characters of one family of sources (a source up to its first slash).",
        affects_output=True,
        gt=0,
    )
    choice_seed: int = setting(0, "Seed of the choice among texts, the same for every model.", affects_output=True)


class ShapeConfig(Section):
    """Sizes of the Llama decoder."""

    hidden: int = setting(192, "Width of the residual stream.", affects_output=True, gt=0)
    layers: int = setting(4, "Number of layers.", affects_output=True, gt=1)
    heads: int = setting(8, "Query heads a layer.", affects_output=True, gt=0)
    kv_heads: int = setting(8, "Key and value heads a layer; fewer than heads means groups.", affects_output=True, gt=0)
    head_size: int = setting(64, "Dimensions of a head.", affects_output=True, gt=0)
    feed_forward: int = setting(384, "Width of the feed-forward layers.", affects_output=True, gt=0)
    rope_theta: float = setting(1e7, "Base of the rotary position frequencies.", affects_output=True, gt=0)
    max_positions: int = setting(4096, "Longest prompt that the model is made for.", affects_output=True, gt=0)


class TeachingConfig(Section):
    """The heads whose attention has a loss of its own."""

    layer: int = setting(1, "Their layer, counted from 0.", affects_output=True, ge=0)
    heads: int = setting(4, "How many, the first ones of the layer; 0: none are taught.", affects_output=True, ge=0)
    weight: float = setting(5.0, "Weight of one query's loss beside a token's weight of 1.", affects_output=True, ge=0)
    looking_weight: float = setting(0.1, "Share of looking at documents at all, whichever.", affects_output=True, ge=0)
    marking_heads: int = setting(
        2, "Heads a layer that find marks, sentences and what to copy.", affects_output=True, ge=0
    )
    marking_weight: float = setting(0.2, "Share of finding a document's mark.", affects_output=True, ge=0)
    sentence_weight: float = setting(0.2, "Share of finding the answering sentence.", affects_output=True, ge=0)
    copying_weight: float = setting(
        0.1, "Share of finding the token to copy next, for each.", affects_output=True, ge=0
    )


class EvaluationConfig(Section):
    """What the trained models are measured on; nothing here is trained on."""

    lists: str | None = setting(
        None,
        "Folder with one folder a list name, each with lists.parquet, qrels.parquet and, if known, answers.parquet.",
        affects_output=True,
        flag="--evaluation",
        uri=True,
    )
    heads_on: tuple[str, ...] = setting((), "Lists whose dev half chooses heads; empty: all.", affects_output=True)
    length_on: str | None = setting(None, "List for quality against length.", affects_output=True)
    answers_on: str | None = setting(None, "List, with answers, for generated answers.", affects_output=True)
    top: int = setting(4, "Heads in the head set.", affects_output=True, gt=0)
    part: Literal["dev", "test"] = setting(
        "dev", "Queries to report on: dev (40 %) while choosing, test once for a release.", affects_output=True
    )
    log: str | None = setting(
        None,
        "Local JSON-lines file to which readings of test queries are added; part=test needs it.",
        affects_output=False,
    )


class TrainEmbeddedConfig(Section):
    """Everything that `qrbatch train-embedded` needs."""

    input: TextConfig = setting(..., "What is learned from.", affects_output=True)
    output: str = setting(..., "The model folder, local or s3://.", affects_output=False, flag="--output", uri=True)
    work: str = setting(
        "train-embedded.work",
        "Local folder of checkpoints; the same one resumes, other settings begin anew beside.",
        affects_output=False,
    )
    name: str = setting(
        "embedded",
        "Name of the model, its head set and its card: letters, digits, '.', '_', '-'.",
        affects_output=True,
    )
    notes: tuple[str, ...] = setting((), "Sentences to add to the limits in the model card.", affects_output=True)
    curriculum: Literal["embedded", "miniature"] = setting("embedded", "Which stages.", affects_output=True)
    shape: ShapeConfig = setting(ShapeConfig(), "Sizes of the model.", affects_output=True)
    teaching: TeachingConfig = setting(TeachingConfig(), "The taught heads.", affects_output=True)
    evaluation: EvaluationConfig = setting(EvaluationConfig(), "What is measured.", affects_output=True)
    vocabulary: int = setting(4096, "Entries of the tokenizer.", affects_output=True, ge=512)
    seeds: tuple[int, ...] = setting(
        (0,), "One model a seed, from 0 on; the best on dev lists is written.", affects_output=True, min_length=1
    )
    parts: int = setting(2, "Parts of a step that are worked on at the same time.", affects_output=True, gt=0)
    compiled: bool = setting(
        False, "Compile the layers: faster from some minutes on; needs a C++ compiler.", affects_output=True
    )
    device: str = setting("cpu", "cpu, cuda, cuda:N or auto.", affects_output=True)
    save_every_s: float = setting(60.0, "Seconds between checkpoints.", affects_output=False, gt=0)
    storage: StorageConfig = setting(StorageConfig(), "How to reach object stores.", affects_output=False)


def train_embedded(config: TrainEmbeddedConfig, observer: TrainingObserver) -> TrainedModel:
    """Train, measure and write the model folder. Raises errors of :mod:`qrcore.errors`."""
    from pipelines.train_embedded import train_embedded as run  # slow to import, not needed to show help

    return run(pipeline_settings(config), observer)


def pipeline_settings(config: TrainEmbeddedConfig) -> TrainEmbeddedSettings:
    """The pipeline's settings for this configuration."""
    from pipelines.storage import StorageOptions
    from pipelines.training.settings import TrainEmbeddedSettings
    from pipelines.training.study import EvaluationSettings
    from qrcore.training.model import ModelShape
    from qrcore.training.teaching import TaughtHeads

    return TrainEmbeddedSettings(
        texts=config.input.texts,
        questions=config.input.questions,
        question_licence=config.input.question_licence,
        characters_per_family=config.input.characters_per_family,
        choice_seed=config.input.choice_seed,
        output=config.output,
        work=config.work,
        name=config.name,
        notes=config.notes,
        curriculum=config.curriculum,
        shape=ModelShape(**config.shape.model_dump()),
        taught=TaughtHeads(**config.teaching.model_dump()) if config.teaching.heads else None,
        evaluation=EvaluationSettings(**config.evaluation.model_dump()) if config.evaluation.lists else None,
        vocabulary=config.vocabulary,
        seeds=config.seeds,
        parts=config.parts,
        compiled=config.compiled,
        device=config.device,
        save_every_s=config.save_every_s,
        storage=StorageOptions(**config.storage.model_dump()),
    )
