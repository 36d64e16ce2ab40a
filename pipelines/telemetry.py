"""Metrics of a run for Ray's exporter; Prometheus finds them with the prefix ``ray_`` at every node's metrics port.

All of them are counted by the driver as units come back, from the same records that the report is made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ray.util.metrics import Counter, Gauge, Histogram

from pipelines.metrics import tokenise_seconds

_TAGS: Final = ("job", "name")
_SECONDS: Final = [0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000]
#: Stages of a unit, by the field of its record.
STAGES: Final = {"read_s": "read", "wait_s": "wait", "score_s": "score", "write_s": "write", "prepare_s": "prepare"}


class RunMetrics:
    """Counts what comes back of one run; needs a connected Ray."""

    def __init__(self, job: str, name: str, planned_units: int) -> None:
        tags = {"job": job, "name": name}
        self._rows = Counter("qrbatch_rows", "Rows written, scored or failed.", _TAGS)
        self._errors = Counter("qrbatch_error_rows", "Rows with an error, by its code.", (*_TAGS, "code"))
        self._tokens = Counter("qrbatch_prompt_tokens", "Tokens run through the model.", _TAGS)
        self._units = Counter("qrbatch_units", "Units written.", _TAGS)
        self._planned = Gauge("qrbatch_planned_units", "Units that this driver has to do.", _TAGS)
        self._seconds = Histogram(
            "qrbatch_unit_seconds",
            "Seconds of a unit by stage; tokenise may be in score, too.",
            _SECONDS,
            (*_TAGS, "stage"),
        )
        self._memory = Gauge("qrbatch_actor_memory_bytes", "Largest resident memory of an actor.", (*_TAGS, "actor"))
        self._gpu_memory = Gauge(
            "qrbatch_gpu_memory_bytes", "Largest memory that torch took of an actor's GPU.", (*_TAGS, "actor")
        )
        for metric in vars(self).values():
            metric.set_default_tags(tags)
        self._planned.set(planned_units)

    def unit_done(self, footer: Mapping[str, Any]) -> None:
        """Count one written unit."""
        self._units.inc()
        for counter, key in ((self._rows, "rows"), (self._tokens, "prompt_tokens")):
            if footer[key]:
                counter.inc(footer[key])
        for code, count in footer["errors"].items():
            self._errors.inc(count, {"code": code})
        for key, stage in STAGES.items():
            if key in footer:
                self._seconds.observe(footer[key], {"stage": stage})
        if tokenise := tokenise_seconds(footer):
            self._seconds.observe(tokenise, {"stage": "tokenise"})
        if "actor_pid" not in footer:  # done by a task that holds no model
            return
        actor = {"actor": f"{footer['node']}/{footer['actor_pid']}"}
        self._memory.set(footer.get("memory_bytes", 0), actor)
        self._gpu_memory.set(footer.get("gpu_memory_bytes", 0), actor)
