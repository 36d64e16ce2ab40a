"""``qrbatch detect``: from a configuration to a head set and what proves it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from jobs.detect_config import DetectConfig
from jobs.heads import head_set_of
from jobs.rerank import absolute_model, run_settings, with_endpoint
from jobs.settings import flatten
from qrcore.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.detect import DetectSettings
    from pipelines.detection.copying import Copying, KeyValueTask
    from pipelines.job import Observer, RunResult
    from qrcore.heads import HeadSet


KEY_VALUE: Final = "key_value"
_TOP: Final = 16


@dataclass(frozen=True, slots=True)
class Detected:
    """A head set with the run that found it and the one that proved it."""

    head_set: HeadSet
    found: RunResult
    proved: RunResult
    findings: dict[str, Any]
    proof: dict[str, Any]


def detect(config: DetectConfig, observer: Observer) -> Detected:
    """Find heads, then rank the other queries with them. Raises errors of :mod:`qrcore.errors`."""
    from pipelines import detect as finding
    from pipelines import prove as proving
    from pipelines.side_files import read_side_file

    if config.methods.method == KEY_VALUE:
        config = with_key_value_trials(config, observer, os.environ)
    settings = pipeline_settings(config, os.environ)
    found = finding.run(settings, observer)
    head_set = finding.found_head_set(found, settings.run)
    proved = proving.run(finding.proof_settings(settings, found), observer)
    storage = settings.run.storage
    return Detected(
        head_set,
        found,
        proved,
        findings=read_side_file(found.run_uri, found.manifest.side_files, finding.REPORT_FILE, storage),
        proof=read_side_file(proved.run_uri, proved.manifest.side_files, proving.REPORT_FILE, storage),
    )


def with_key_value_trials(config: DetectConfig, observer: Observer, environment: Mapping[str, str]) -> DetectConfig:
    """The configuration with the trials that are made of its texts as input. Raises errors of :mod:`qrcore.errors`."""
    from pipelines.key_value_shards import KeyValueShardSettings, write_key_value_shards
    from pipelines.storage import StorageOptions

    own, methods = config.key_value, config.methods
    made = write_key_value_shards(
        KeyValueShardSettings(
            texts=config.input.uris,
            output=config.output.uri,
            model=absolute_model(config.model.id),
            revision=config.model.revision,
            building=_key_value_task(config).building,
            finding=own.count,
            proving=own.proof,
            storage=StorageOptions(**with_endpoint(config.storage, environment).model_dump()),
        ),
        observer.stage,
    )
    known = "dataset_id" in config.model_fields_set
    return config.model_copy(
        update={
            "input": config.input.model_copy(update={"uris": (made.trials_uri,)}),
            "qrels": made.qrels_uri,
            "methods": methods.model_copy(update={"top": made.top}),
            "dataset_id": config.dataset_id if known else f"{own.count} generated key-value trials",
        }
    )


def pipeline_settings(config: DetectConfig, environment: Mapping[str, str] = MappingProxyType({})) -> DetectSettings:
    """The pipeline's settings for this configuration in this environment."""
    from pipelines.detect import DetectSettings
    from pipelines.detection.choice import Choice
    from pipelines.scorers import ScorerSettings

    qrels = config.qrels
    if qrels is None:
        raise ConfigError("qrels: expected a value, got none. Give it with --qrels or in the file.")
    affecting_output = flatten(config, only_affecting_output=True)
    model = config.model.model_copy(update={"id": absolute_model(config.model.id)})
    storage = with_endpoint(config.storage, environment)
    config = config.model_copy(update={"model": model, "storage": storage})
    reading, methods = config.reading.model_dump(exclude={"order"}), config.methods
    weight = {"calibration_weight": config.reading.calibration_weight}
    reading_methods: dict[str, dict[str, Any]] = {
        "qrscore": weight,
        "ndcg": {"cutoff": methods.ndcg_cutoff, **weight},
        "core": {"temperature": methods.core_temperature},
        **({"share": {}} if methods.method == "share" else {}),
    }
    if methods.method == KEY_VALUE:  # a key says nothing of its value: there is nothing to rank
        reading_methods = {}
    copying = _copying(config)
    return DetectSettings(
        run=run_settings(config, affecting_output),
        scorer=ScorerSettings(
            model=model.id,
            revision=model.revision,
            heads="all",
            dtype=model.dtype,
            device=model.device,
            threads=config.actors.threads,
            **reading,
        ),
        method=copying.method() if copying else methods.method,
        methods={**(copying.methods if copying else {}), **reading_methods},
        choice=Choice(methods.top or _TOP, methods.max_layer, methods.seed),
        order=config.reading.order,
        part="dev" if config.part == "dev" else None,
        qrels=qrels,
        dataset_id=config.dataset_id,
        contamination=_contamination(config),
        copying=copying,
        controls=config.copying.controls,
        compare=tuple(map(head_set_of, config.compare)),
    )


def _copying(config: DetectConfig) -> Copying | None:
    from pipelines.detection.copying import CopySettings

    if config.methods.method == KEY_VALUE:
        return _key_value_task(config)
    if config.methods.method == "copy":
        return CopySettings(**config.copying.model_dump(exclude={"controls"}))
    return None


def _key_value_task(config: DetectConfig) -> KeyValueTask:
    from pipelines.detection.copying import KeyValueTask

    return KeyValueTask(**config.key_value.model_dump(exclude={"proof"}), top=config.methods.top)


def _contamination(config: DetectConfig) -> str | None:
    seen = "found on all queries of its data, the test part among them" if config.part == "all" else None
    return "; ".join(text for text in (config.contamination, seen) if text) or None
