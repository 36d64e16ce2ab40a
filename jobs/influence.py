"""``qrbatch influence``: its configuration, and from there to a committed run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from jobs.config import (
    ActorsConfig,
    ClusterConfig,
    CostConfig,
    LineageConfig,
    ModelConfig,
    OutputConfig,
    StorageConfig,
    UnitsConfig,
)
from jobs.detect_config import ExamplesConfig
from jobs.rerank import absolute_file, absolute_model, run_settings, with_endpoint
from jobs.settings import Section, flatten, run_name, setting

if TYPE_CHECKING:
    from pipelines.influence.run import InfluenceJobSettings
    from pipelines.job import Observer, RunResult


class MaskConfig(Section):
    """What is done to the heads, and what it is compared with."""

    mode: Literal["uniform", "zero"] = setting(
        "uniform", "Masked heads attend alike to all tokens (the paper), or give nothing.", affects_output=True
    )
    controls: int = setting(
        5, "Sets of as many other heads that are masked, too.", affects_output=True, ge=0, flag="--controls"
    )
    control_layers: Literal["same", "same_or_later"] = setting(
        "same",
        "Where they are drawn: as many from each layer as the set has there, or any layer from its first on.",
        affects_output=True,
    )
    seed: int = setting(0, "Seed of the control sets.", affects_output=True, ge=0)
    noise_floor: bool = setting(True, "Repeat the pass without masks and tell the difference.", affects_output=True)


class DocumentsConfig(Section):
    """How documents go through the model."""

    chunk_tokens: int | None = setting(
        None, "Longest piece of a document, in tokens; empty: as long as the model takes.", affects_output=True, ge=3
    )
    max_tokens: int | None = setting(
        None, "Documents with more tokens become error rows; empty: no limit.", affects_output=True, gt=0
    )
    pass_tokens: int = setting(
        8192, "Tokens of pieces that share a pass, before they are copied.", affects_output=True, gt=0
    )
    copies_at_once: int = setting(6, "Masked copies in one pass.", affects_output=True, gt=0)


class SelectionConfig(Section):
    """Which documents are selected."""

    fraction: float = setting(
        0.2, "Share of each domain that is selected.", affects_output=True, gt=0, le=1, flag="--top"
    )


class InfluenceConfig(Section):
    """Everything ``qrbatch influence`` can be told."""

    name: str = run_name("influence")
    input: ExamplesConfig
    output: OutputConfig
    model: ModelConfig = Field(default_factory=ModelConfig)
    mask: MaskConfig = Field(default_factory=MaskConfig)
    documents: DocumentsConfig = Field(default_factory=DocumentsConfig)
    selection: SelectionConfig = Field(default_factory=SelectionConfig)
    units: UnitsConfig = Field(default_factory=UnitsConfig)
    actors: ActorsConfig = Field(default_factory=ActorsConfig)
    cluster: ClusterConfig = Field(default_factory=ClusterConfig)
    storage: StorageConfig = Field(default_factory=StorageConfig)
    cost: CostConfig = Field(default_factory=CostConfig)
    lineage: LineageConfig = Field(default_factory=LineageConfig)


def influence(config: InfluenceConfig, observer: Observer) -> RunResult:
    """Run the pipeline; raises errors of :mod:`qrcore.errors`."""
    from pipelines.influence.run import run

    return run(pipeline_settings(config, os.environ), observer)


def pipeline_settings(
    config: InfluenceConfig, environment: Mapping[str, str] = MappingProxyType({})
) -> InfluenceJobSettings:
    """The pipeline's settings for this configuration in this environment."""
    from pipelines.influence.model import InfluenceModel
    from pipelines.influence.run import InfluenceJobSettings

    affecting_output = flatten(config, only_affecting_output=True)
    config = config.model_copy(update={"storage": with_endpoint(config.storage, environment)})
    model, mask = config.model, config.mask
    method = {**mask.model_dump(exclude={"mode"}), "mask_mode": mask.mode, **config.documents.model_dump()}
    return InfluenceJobSettings(
        run=run_settings(config, affecting_output),
        model=InfluenceModel(
            model=absolute_model(model.id),
            revision=model.revision,
            heads=absolute_file(model.heads),
            dtype=model.dtype,
            device=model.device,
            on_mismatch=model.on_mismatch,
            threads=config.actors.threads,
            method=tuple(sorted(method.items())),
        ),
        fraction=config.selection.fraction,
    )
