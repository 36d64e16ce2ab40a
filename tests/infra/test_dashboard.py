"""The dashboard against the metrics: what it asks for is emitted with these labels, and what is emitted stands on it.

``tests/jobs/test_submit.py`` sees the same names come out of a real cluster.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from pipelines import telemetry
from pipelines.telemetry import STAGES, RunMetrics
from tests.infra.manifests import ROOT

#: What Ray's exporter adds to a name, by the kind of metric.
SUFFIXES = {"Counter": ("_total",), "Gauge": ("",), "Histogram": ("_bucket", "_sum", "_count")}
OF_HISTOGRAMS = {"le"}


class Recorded:
    """A metric that remembers which labels it was given."""

    def __init__(self, name: str, _about: str, *rest: Any) -> None:
        self.name, self.tags = name, tuple(rest[-1])
        self.values: list[tuple[float, dict[str, str]]] = []
        self.default: dict[str, str] = {}

    def set_default_tags(self, tags: dict[str, str]) -> None:
        self.default = tags

    def set(self, value: float, tags: Mapping[str, str] | None = None) -> None:
        given = {**self.default, **(tags or {})}
        assert set(given) == set(self.tags), (self.name, given)
        self.values.append((value, given))

    observe = set

    def inc(self, value: float = 1.0, tags: Mapping[str, str] | None = None) -> None:
        self.set(value, tags)


FOOTER = {
    "rows": 9, "prompt_tokens": 70, "errors": {"oom": 2, "no_candidates": 1}, "node": "n", "actor_pid": 3,
    "memory_bytes": 5, "gpu_memory_bytes": 6, "tokenise_s": 0.5, **dict.fromkeys(STAGES, 1.0),
}  # fmt: skip


@pytest.fixture
def emitted(monkeypatch: pytest.MonkeyPatch) -> dict[str, Recorded]:
    """Metrics of a unit in which everything happened, by the names that Prometheus sees."""
    found: dict[str, Recorded] = {}
    for kind, suffixes in SUFFIXES.items():

        def make(*arguments: Any, suffixes: Sequence[str] = suffixes) -> Recorded:
            metric = Recorded(*arguments)
            found.update({f"ray_{metric.name}{suffix}": metric for suffix in suffixes})
            return metric

        monkeypatch.setattr(telemetry, kind, make)
    RunMetrics("rerank", "nightly", 3).unit_done(FOOTER)
    return found


def expressions() -> list[str]:
    dashboard = json.loads((ROOT / "infra" / "grafana" / "qrbatch.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]


def test_every_metric_of_the_dashboard_is_emitted_and_the_other_way_round(emitted: dict[str, Recorded]) -> None:
    named = set(re.findall(r"ray_qrbatch_\w+", "\n".join(expressions())))
    assert named <= set(emitted), named - set(emitted)
    assert {emitted[name] for name in named} == set(emitted.values())
    assert all(metric.values for metric in emitted.values())


def test_the_dashboard_sorts_by_labels_that_metrics_have(emitted: dict[str, Recorded]) -> None:
    for expression in expressions():
        for name, selector in re.findall(r"(ray_qrbatch_\w+)\{([^}]*)\}", expression):
            allowed = set(emitted[name].tags) | (OF_HISTOGRAMS if name.endswith("_bucket") else set())
            asked = set(re.findall(r"(\w+)=~?\"", selector))
            asked |= {
                label for group in re.findall(r"by \(([^)]*)\)", expression) for label in re.split(r",\s*", group)
            }
            assert asked <= allowed, (expression, asked - allowed)
            for stage in re.findall(r'stage=~"([^"]*)"', selector):
                assert set(stage.split("|")) <= {*STAGES.values(), "tokenise"}


def test_counts_are_those_of_the_unit(emitted: dict[str, Recorded]) -> None:
    def told(name: str) -> list[tuple[float, dict[str, str]]]:
        return [
            (value, {k: v for k, v in tags.items() if k not in ("job", "name")}) for value, tags in emitted[name].values
        ]

    assert told("ray_qrbatch_rows_total") == [(9, {})]
    assert told("ray_qrbatch_prompt_tokens_total") == [(70, {})]
    assert told("ray_qrbatch_error_rows_total") == [(2, {"code": "oom"}), (1, {"code": "no_candidates"})]
    assert told("ray_qrbatch_planned_units") == [(3, {})]
    assert told("ray_qrbatch_gpu_memory_bytes") == [(6, {"actor": "n/3"})]
    assert {tags["stage"] for _, tags in told("ray_qrbatch_unit_seconds_sum")} == {*STAGES.values(), "tokenise"}
