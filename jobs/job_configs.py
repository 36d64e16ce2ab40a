"""Which configuration each job takes, by the job's name on the command line."""

from __future__ import annotations

import difflib
import importlib
from typing import Final

from jobs.settings import Section
from qrcore.errors import ConfigError

#: Job to the module and class of its configuration; loaded when asked for.
JOB_CONFIGS: Final = {
    "prepare": ("jobs.prepare", "PrepareConfig"),
    "rerank": ("jobs.config", "RerankConfig"),
    "select": ("jobs.select", "SelectConfig"),
    "answer": ("jobs.answer_config", "AnswerConfig"),
    "evaluate": ("jobs.evaluate", "EvaluateConfig"),
    "compare": ("jobs.evaluate", "CompareConfig"),
    "detect": ("jobs.detect_config", "DetectConfig"),
    "influence": ("jobs.influence", "InfluenceConfig"),
    "contrast": ("jobs.contrast", "ContrastConfig"),
    "flips": ("jobs.flips", "FlipsConfig"),
    "needles": ("jobs.needles", "NeedlesConfig"),
    "train-embedded": ("jobs.train_embedded", "TrainEmbeddedConfig"),
}


def config_of(job: str) -> type[Section]:
    """The configuration of a job. Raises :class:`ConfigError` for an unknown one."""
    if job not in JOB_CONFIGS:
        near = difflib.get_close_matches(job, JOB_CONFIGS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"Choose one of {', '.join(JOB_CONFIGS)}."
        raise ConfigError(f"job {job!r}: expected a job with a configuration; {hint}")
    module, name = JOB_CONFIGS[job]
    found: type[Section] = getattr(importlib.import_module(module), name)
    return found
