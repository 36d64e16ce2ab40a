"""``qrbatch rerank``: from a configuration to a committed run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.config import RerankConfig
from jobs.settings import flatten

if TYPE_CHECKING:
    from pipelines.rerank import Observer, RerankSettings, RunResult


def rerank(config: RerankConfig, observer: Observer) -> RunResult:
    """Run the pipeline; raises errors of :mod:`qrcore.errors`."""
    from pipelines.rerank import run  # slow to import, and not needed to show help or a mistake in the configuration

    return run(pipeline_settings(config), observer)


def pipeline_settings(config: RerankConfig) -> RerankSettings:
    """The pipeline's settings for this configuration."""
    from pipelines.cluster import ClusterSettings
    from pipelines.rerank import RerankSettings
    from pipelines.scorers import PoolSettings, ScorerSettings
    from pipelines.storage import StorageOptions

    scoring = config.scoring.model_dump(exclude={"order"})
    model = config.model
    return RerankSettings(
        inputs=config.input.uris,
        output=config.output.uri,
        name=config.name,
        scorer=ScorerSettings(
            model=model.id,
            revision=model.revision,
            heads=model.heads,
            dtype=model.dtype,
            device=model.device,
            threads=config.actors.threads,
            **scoring,
        ),
        order=config.scoring.order,
        carry=config.input.carry,
        skip_bad_files=config.input.on_bad_file == "skip",
        unit_bytes=config.units.max_bytes,
        unit_rows=config.units.max_rows,
        qrels=config.qrels,
        pool=PoolSettings(config.actors.count, config.actors.cpus, config.actors.gpus),
        cluster=ClusterSettings(config.cluster.address),
        storage=StorageOptions(**config.storage.model_dump()),
        config=flatten(config),
        affecting_output=flatten(config, only_affecting_output=True),
    )
