"""``qrbatch detect``: from a configuration to a head set and what proves it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from jobs.detect_config import DetectConfig
from jobs.heads import head_set_of
from jobs.rerank import absolute_model, run_settings, with_endpoint
from jobs.settings import flatten

if TYPE_CHECKING:
    from pipelines.detect import DetectSettings
    from pipelines.job import Observer, RunResult
    from qrcore.heads import HeadSet


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


def pipeline_settings(config: DetectConfig, environment: Mapping[str, str] = MappingProxyType({})) -> DetectSettings:
    """The pipeline's settings for this configuration in this environment."""
    from pipelines.detect import DetectSettings
    from pipelines.detection.choice import Choice
    from pipelines.detection.copying import CopySettings
    from pipelines.scorers import ScorerSettings

    affecting_output = flatten(config, only_affecting_output=True)
    model = config.model.model_copy(update={"id": absolute_model(config.model.id)})
    storage = with_endpoint(config.storage, environment)
    config = config.model_copy(update={"model": model, "storage": storage})
    reading, methods = config.reading.model_dump(exclude={"order"}), config.methods
    weight = {"calibration_weight": config.reading.calibration_weight}
    copying = CopySettings(**config.copying.model_dump(exclude={"controls"})) if methods.method == "copy" else None
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
        method=copying.method if copying else methods.method,
        methods={
            **(copying.methods if copying else {}),
            "qrscore": weight,
            "ndcg": {"cutoff": methods.ndcg_cutoff, **weight},
            "core": {"temperature": methods.core_temperature},
        },
        choice=Choice(methods.top, methods.max_layer, methods.seed),
        order=config.reading.order,
        part="dev" if config.part == "dev" else None,
        qrels=config.qrels,
        dataset_id=config.dataset_id,
        contamination=_contamination(config),
        copying=copying,
        controls=config.copying.controls,
        compare=tuple(map(head_set_of, config.compare)),
    )


def _contamination(config: DetectConfig) -> str | None:
    seen = "found on all queries of its data, the test part among them" if config.part == "all" else None
    return "; ".join(text for text in (config.contamination, seen) if text) or None
