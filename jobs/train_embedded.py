"""``qrbatch train-embedded``: train the small model that ships with the package, on one's own text."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from jobs.config import StorageConfig
from jobs.settings import Section, setting

if TYPE_CHECKING:
    from pipelines.train_embedded import TrainEmbeddedSettings
    from qrcore.training.progress import Progress


class TextConfig(Section):
    """What is learned from."""

    texts: tuple[str, ...] = setting(
        ...,
        "Parquet files or folders with a column text, and source if known.",
        affects_output=True,
        flag="--input",
        min_length=1,
    )
    questions: tuple[str, ...] = setting(
        (), "Parquet files or folders with group, paragraph, question, answer_sentence.", affects_output=True
    )
    characters_per_family: int = setting(
        12_000_000,
        "Most characters of one family of sources (a source up to its first slash).",
        affects_output=True,
        gt=0,
    )


class ShapeConfig(Section):
    """Sizes of the Llama decoder."""

    hidden: int = setting(192, "Width of the residual stream.", affects_output=True, gt=0)
    layers: int = setting(4, "Number of layers.", affects_output=True, gt=1)
    heads: int = setting(6, "Query heads a layer.", affects_output=True, gt=0)
    kv_heads: int = setting(6, "Key and value heads a layer; fewer than heads means groups.", affects_output=True, gt=0)
    head_size: int = setting(32, "Dimensions of a head.", affects_output=True, gt=0)
    feed_forward: int = setting(384, "Width of the feed-forward layers.", affects_output=True, gt=0)
    rope_theta: float = setting(5e5, "Base of the rotary position frequencies.", affects_output=True, gt=0)
    max_positions: int = setting(4096, "Longest prompt that the model is made for.", affects_output=True, gt=0)


class TrainEmbeddedConfig(Section):
    """Everything that `qrbatch train-embedded` needs."""

    input: TextConfig = setting(..., "What is learned from.", affects_output=True)
    output: str = setting(..., "The model folder, local or s3://.", affects_output=False, flag="--output")
    work: str = setting(
        "train-embedded.work", "Local folder of checkpoints; the same one resumes.", affects_output=False
    )
    curriculum: Literal["embedded", "miniature"] = setting("embedded", "Which stages.", affects_output=True)
    shape: ShapeConfig = setting(ShapeConfig(), "Sizes of the model.", affects_output=True)
    vocabulary: int = setting(4096, "Entries of the tokenizer.", affects_output=True, ge=512)
    seed: int = setting(0, "Seed of weights, text choice and samples.", affects_output=True)
    parts: int = setting(2, "Parts of a step that are worked on at the same time.", affects_output=True, gt=0)
    device: str = setting("cpu", "cpu, cuda or cuda:N.", affects_output=True)
    storage: StorageConfig = setting(StorageConfig(), "How to reach object stores.", affects_output=False)


def train_embedded(config: TrainEmbeddedConfig, on_progress: Callable[[Progress], None]) -> dict[str, Any]:
    """Train and write the model folder; returns what was measured. Raises errors of :mod:`qrcore.errors`."""
    from pipelines.train_embedded import train_embedded as run  # slow to import, not needed to show help

    return run(pipeline_settings(config), on_progress)


def pipeline_settings(config: TrainEmbeddedConfig) -> TrainEmbeddedSettings:
    """The pipeline's settings for this configuration."""
    from pipelines.storage import StorageOptions
    from pipelines.train_embedded import TrainEmbeddedSettings
    from qrcore.training.model import ModelShape

    return TrainEmbeddedSettings(
        texts=config.input.texts,
        questions=config.input.questions,
        characters_per_family=config.input.characters_per_family,
        output=config.output,
        work=config.work,
        curriculum=config.curriculum,
        shape=ModelShape(**config.shape.model_dump()),
        vocabulary=config.vocabulary,
        seed=config.seed,
        parts=config.parts,
        device=config.device,
        storage=StorageOptions(**config.storage.model_dump()),
    )
