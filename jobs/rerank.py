"""``qrbatch rerank``: from a configuration to a committed run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from jobs.config import ActorsConfig, ContextsConfig, RerankConfig, StorageConfig, holds_credentials
from jobs.settings import flatten
from qrcore.errors import ConfigError
from qrcore.shipped import EMBEDDED_MODELS

if TYPE_CHECKING:
    from jobs.answer_config import AnswerConfig
    from jobs.contrast import ContrastConfig
    from jobs.detect_config import DetectConfig
    from jobs.flips import FlipsConfig
    from jobs.influence import InfluenceConfig
    from jobs.select import SelectConfig
    from pipelines.job import Observer, RunResult, RunSettings
    from pipelines.rerank import RerankSettings
    from pipelines.scorers import ScorerSettings
    from qrcore.windows import ContextSettings

#: Where the AWS tools look for an endpoint, the most special name first.
_ENDPOINT_NAMES: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")


def rerank(config: RerankConfig, observer: Observer) -> RunResult:
    """Run the pipeline; raises errors of :mod:`qrcore.errors`."""
    from pipelines.rerank import run  # slow to import, and not needed to show help or a mistake in the configuration

    return run(pipeline_settings(config, os.environ), observer)


def for_every_node(config: RerankConfig, environment: Mapping[str, str]) -> RerankConfig:
    """The same configuration for processes that have another working directory and another environment."""
    model = config.model.model_copy(
        update={"id": absolute_model(config.model.id), "heads": absolute_file(config.model.heads)}
    )
    storage = with_endpoint(config.storage, environment)
    return config.model_copy(update={"model": model, "storage": storage})


def with_endpoint(storage: StorageConfig, environment: Mapping[str, str]) -> StorageConfig:
    """The same settings with the endpoint that the environment names, if they name none."""
    named = next((environment[name] for name in _ENDPOINT_NAMES if environment.get(name)), None)
    if named and holds_credentials(named):
        raise ConfigError("AWS_ENDPOINT_URL: expected an address without user and password, got one with them.")
    return storage.model_copy(update={"endpoint_url": storage.endpoint_url or named})


def absolute_model(model: str) -> str:
    """A model's folder from the root on; names and hub ids as they are."""
    return str(Path(model).absolute()) if model not in EMBEDDED_MODELS and Path(model).is_dir() else model


def absolute_file(heads: str | None) -> str | None:
    """A head set's file from the root on; names and lists as they are."""
    from qrcore.heads import published_names

    if heads is None or heads in published_names() or not Path(heads).is_file():
        return heads
    return str(Path(heads).absolute())


def pipeline_settings(config: RerankConfig, environment: Mapping[str, str] = MappingProxyType({})) -> RerankSettings:
    """The pipeline's settings for this configuration in this environment.

    The run's identity is that of the configuration as it was given: a folder that is named from elsewhere is no other
    model.
    """
    from pipelines.rerank import RerankSettings

    affecting_output = flatten(config, only_affecting_output=True)
    config = for_every_node(config, environment)
    return RerankSettings(
        run=replace(run_settings(config, affecting_output), join_others=config.join, rows_from=config.input.rows_from),
        scorer=scorer_settings(config),
        order=config.scoring.order,
        carry=config.input.carry,
        qrels=config.qrels,
        examples=config.report.examples,
        contexts=context_settings(config.contexts),
    )


def scorer_settings(config: RerankConfig | SelectConfig) -> ScorerSettings:
    """What builds the scorer of a configuration, on any node."""
    from pipelines.scorers import EngineOptions, ScorerSettings

    model = config.model
    return ScorerSettings(
        model=absolute_model(model.id),
        revision=model.revision,
        heads=absolute_file(model.heads),
        dtype=model.dtype,
        device=model.device,
        on_mismatch=model.on_mismatch,
        threads=config.actors.threads,
        engine=EngineOptions(**config.engine.model_dump()),
        **config.scoring.model_dump(exclude={"order"}),
    )


def context_settings(contexts: ContextsConfig) -> ContextSettings:
    """What is done about contexts that do not fit one prompt. Raises :class:`ConfigError`."""
    from qrcore.windows import ContextSettings

    return ContextSettings(**contexts.model_dump())


def _encoders(actors: ActorsConfig) -> int:
    """On a machine without GPUs tokenising takes the CPUs that would score."""
    if actors.tokenisers is not None:
        return actors.tokenisers
    return actors.count if actors.gpus else 0


def run_settings(
    config: RerankConfig | DetectConfig | SelectConfig | AnswerConfig | InfluenceConfig | ContrastConfig | FlipsConfig,
    affecting_output: dict[str, Any],
) -> RunSettings:
    """What every run is told, from sections that all jobs have; what select and answer read is found as they run."""
    from pipelines.cluster import ClusterSettings
    from pipelines.job import RunSettings
    from pipelines.lineage import LineageSettings
    from pipelines.storage import StorageOptions
    from pipelines.work import PoolSettings

    return RunSettings(
        inputs=getattr(config.input, "uris", ()),
        output=config.output.uri,
        name=config.name,
        skip_bad_files=getattr(config.input, "on_bad_file", "fail") == "skip",
        unit_bytes=config.units.max_bytes,
        unit_rows=config.units.max_rows,
        pool=PoolSettings(config.actors.count, config.actors.cpus, config.actors.gpus, _encoders(config.actors)),
        cluster=ClusterSettings(config.cluster.address),
        storage=StorageOptions(**config.storage.model_dump()),
        config=flatten(config),
        affecting_output=affecting_output,
        row_bytes=config.units.max_row_bytes,
        max_error_rate=config.units.max_error_rate,
        max_killer_rows=config.units.max_killer_rows,
        start_timeout_s=config.actors.start_timeout_s,
        lineage=LineageSettings(**config.lineage.model_dump()),
        carry=getattr(config.input, "carry", "none"),
    )
