"""``qrbatch influence --demo``: documents that copy from themselves beside plain ones, with the embedded model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rich.console import Console

from jobs.console import show_line
from jobs.influence import InfluenceConfig, influence
from jobs.settings import Values, merge, validate

if TYPE_CHECKING:
    from pipelines.influence.separation import Separation
    from pipelines.job import Observer, RunResult

PAIRS: Final = 12
#: Control sets below which the place of the set among them says little.
_CONTROLS: Final = 20


@dataclass(frozen=True, slots=True)
class InfluenceDemo:
    """The committed run, and how far it keeps the two kinds of documents apart."""

    run: RunResult
    found: Separation


def influence_demo(values: Values, observer: Observer) -> InfluenceDemo:
    """Make the documents below the output, score them and compare; ``values`` are settings of the job.

    Raises errors of :mod:`qrcore.errors`.
    """
    from pipelines.commit import manifest_rows
    from pipelines.influence.demo_documents import write_demo_documents
    from pipelines.influence.separation import separation

    usual: Values = {
        "name": "influence-demo",
        "output": {"uri": "demo-influence"},
        "mask": {"controls": _CONTROLS, "control_layers": "same_or_later"},
        "selection": {"fraction": 0.5},
    }
    values = merge(usual, values)
    observer.stage("collecting the documentation of this Python")
    values = merge(values, {"input": {"uris": [write_demo_documents(values["output"]["uri"], PAIRS)]}})
    result = influence(validate(InfluenceConfig, values), observer)
    return InfluenceDemo(result, separation(list(manifest_rows(result.run_uri))))


def show_separation(console: Console, found: Separation) -> None:
    """What the masked heads do for documents that copy from themselves."""
    gap, beyond = found.difference, found.beyond
    lines = [
        f"{found.pairs} pairs of documents, one plain, one that says its first half twice",
        f"influence, copied - plain: {gap.mean:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]",
        f"above that of {found.percentile:.0%} of {len(found.controls)} sets of other heads, by {beyond.mean:+.4f} "
        f"[{beyond.low:+.4f}, {beyond.high:+.4f}] on average",
        f"AUC of copied against plain {found.auc:.3f}, which many sets of heads reach",
    ]
    for line in lines:
        show_line(console, line)
    if found.noise is not None:
        show_line(console, f"a repeated pass without masks changes a loss by {found.noise:.1e} of it at most")
