"""What is known of a trained model: measured now, or read from an earlier call with the same weights and lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from pipelines.identity import content_hash
from pipelines.training.facts import taught_names
from pipelines.training.findings import Findings
from pipelines.training.head_study import remove_head_set, write_head_set, write_taught_head_set
from pipelines.training.judged import JudgedSet
from pipelines.training.observer import TrainingObserver
from pipelines.training.seeds import SeedRun
from pipelines.training.settings import TrainEmbeddedSettings
from pipelines.training.study import EvaluationSettings, lists_hash, study
from qrcore.models import weights_sha256

_FINDINGS: Final = TypeAdapter(Findings)
#: Places say nothing of what is measured there; the lists' content does.
_PLACES: Final = ("lists", "log")


def examine(
    run: SeedRun, sets: Mapping[str, JudgedSet], settings: TrainEmbeddedSettings, observer: TrainingObserver
) -> Findings | None:
    """Measure a run's model, if anything is to be measured, and leave the head set that was found beside it: the
    taught heads where nothing is measured, none where none were taught.

    Test queries are read, and logged, only where these weights have not been measured on these lists before.
    """
    if settings.evaluation is None:
        _write_unmeasured(run.folder, settings)
        return None
    known = _place(run.folder, sets, settings.evaluation, settings.name)
    if known.exists():
        findings = _FINDINGS.validate_json(known.read_bytes())
        write_head_set(run.folder, findings.head_table, name=settings.name)
        return findings
    findings = study(
        run.folder, run.seed, sets, settings.evaluation, settings.name, settings.device,
        lambda phase: observer.phase(f"measuring seed {run.seed}: {phase}"),
    )  # fmt: skip
    unfinished = known.with_suffix(".part")
    unfinished.write_bytes(_FINDINGS.dump_json(findings, indent=1))
    unfinished.replace(known)
    return findings


def _place(folder: str, sets: Mapping[str, JudgedSet], evaluation: EvaluationSettings, name: str) -> Path:
    chosen: dict[str, Any] = {key: value for key, value in asdict(evaluation).items() if key not in _PLACES}
    # Findings of another form, from another version, are no findings.
    subject = content_hash([chosen, name, weights_sha256(folder), lists_hash(sets), _FINDINGS.json_schema()])
    return Path(folder).parent / f"findings-{evaluation.part}-{subject[:12]}.json"


def _write_unmeasured(folder: str, settings: TrainEmbeddedSettings) -> None:
    if heads := taught_names(settings.taught):
        write_taught_head_set(folder, heads, name=settings.name)
    else:
        remove_head_set(folder)
