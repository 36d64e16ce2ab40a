"""What a run did: `report.json` (the records) and `report.html` (one page that needs no network)."""

from __future__ import annotations

from pipelines.report.html import render_report
from pipelines.report.model import RunReport

__all__ = ["RunReport", "render_report"]
