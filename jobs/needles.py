"""``qrbatch needles``: trials for finding copying heads, from plain text."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from pydantic import Field

from jobs.config import StorageConfig
from jobs.rerank import absolute_model, with_endpoint
from jobs.settings import Section, setting

if TYPE_CHECKING:
    from pipelines.needle_shards import NeedleShards, NeedleShardSettings


class TextsConfig(Section):
    """What haystacks are made of."""

    uris: tuple[str, ...] = setting(
        ...,
        "Parquet files or folders with a column text; local paths or s3://.",
        affects_output=True,
        flag="--input",
        uri=True,
        min_length=1,
    )


class NeedlesOutputConfig(Section):
    """Where the trials go."""

    uri: str = setting(
        ..., "Folder for shards/needles.parquet and qrels.parquet.", affects_output=False, flag="--output", uri=True
    )


class NeedlesModelConfig(Section):
    """Whose tokens and prompt lengths are counted in."""

    id: str = setting("embedded", "A model folder, a hub id, 'embedded' or 'embedded-gqa'.", affects_output=True)
    revision: str | None = setting(None, "Revision of a hub model.", affects_output=True)
    prompt: str = setting("auto", "Prompt format: auto, chat, plain or a family's name.", affects_output=True)


class TrialsConfig(Section):
    """Which trials are built: every needle at every length and depth, in so many haystacks."""

    lengths: tuple[int, ...] = setting((1000, 2000), "Prompt tokens of a trial, at most.", affects_output=True)
    depths: tuple[float, ...] = setting(
        (0.1, 0.3, 0.5, 0.7, 0.9), "Shares of the haystack before the needle, 0 to 1.", affects_output=True
    )
    haystacks: int = setting(1, "Haystacks for each needle, length and depth.", affects_output=True, gt=0)
    document_words: int = setting(60, "Words of a document of the haystack, about.", affects_output=True, gt=0)
    seed: int = setting(0, "Seed of the choice of haystacks.", affects_output=True, ge=0)


class NeedlesConfig(Section):
    """Everything ``qrbatch needles`` can be told."""

    input: TextsConfig
    output: NeedlesOutputConfig
    model: NeedlesModelConfig = Field(default_factory=NeedlesModelConfig)
    trials: TrialsConfig = Field(default_factory=TrialsConfig)
    storage: StorageConfig = Field(default_factory=StorageConfig)


def needles(config: NeedlesConfig, stage: Callable[[str], None]) -> NeedleShards:
    """Build and write the trials. Raises errors of :mod:`qrcore.errors`."""
    from pipelines.needle_shards import write_needle_shards

    return write_needle_shards(pipeline_settings(config, os.environ), stage)


def pipeline_settings(
    config: NeedlesConfig, environment: Mapping[str, str] = MappingProxyType({})
) -> NeedleShardSettings:
    """The pipeline's settings for this configuration in this environment."""
    from pipelines.needle_shards import NeedleShardSettings
    from pipelines.storage import StorageOptions
    from qrcore.needles import NeedleSettings

    storage = with_endpoint(config.storage, environment)
    return NeedleShardSettings(
        texts=config.input.uris,
        output=config.output.uri,
        model=absolute_model(config.model.id),
        revision=config.model.revision,
        prompt=config.model.prompt,
        trials=NeedleSettings(**config.trials.model_dump()),
        storage=StorageOptions(**storage.model_dump()),
    )
