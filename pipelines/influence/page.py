"""The page of scored documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from pipelines.report.charts import histogram
from pipelines.report.html import page_environment
from pipelines.report.pace_charts import charts_of
from pipelines.report.parts import CommonReport


def influence_page(report: Mapping[str, Any], common: CommonReport | None = None) -> str:
    """One self-contained page: domains with their cuts, controls, length and repetition, noise; ``common``: how the run
    went."""
    cuts = [_histogram(domain) for domain in report["domains"]]
    template = page_environment().get_template("influence.html.j2")
    return template.render(report=report, cuts=cuts, common=common, charts=charts_of(common))


def _histogram(domain: Mapping[str, Any]) -> Markup:
    return histogram(
        f"Influence in {name_of(domain)}",
        domain["edges"],
        domain["counts"],
        {"cut": domain["cut"]},
        "influence",
        "documents",
    )


def name_of(domain: Mapping[str, Any]) -> str:
    """A domain's name for people."""
    return "no domain" if domain["domain"] is None else str(domain["domain"])
