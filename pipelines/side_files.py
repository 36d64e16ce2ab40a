"""Files that a commit puts beside the data: the rows that failed and the report."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pipelines.commit import StoredUnit
from pipelines.inputs import read_rows
from pipelines.labels import Qrels
from pipelines.plan import Plan
from pipelines.report.build import ReportBuilder, RunFacts
from pipelines.report.html import render_report
from pipelines.storage import Storage, StorageOptions, join


@dataclass(frozen=True, slots=True)
class SideFileSettings:
    """Where judgements come from, if there are any, and how to reach the store."""

    qrels_uri: str | None
    qrels: Qrels | None
    storage: StorageOptions
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))


class SideFiles:
    """Collects what the side files say while units stream by; see :meth:`watch` and :meth:`write`."""

    def __init__(self, plan: Plan, settings: SideFileSettings) -> None:
        self._plan = plan
        self._settings = settings
        self._report = ReportBuilder(plan, settings.qrels)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as this object

    def watch(self, units: Iterable[StoredUnit]) -> Iterator[StoredUnit]:
        """The same units, taken note of."""
        for stored in units:
            self._report.add(stored)
            if stored.entry.failed:
                self._add_errors(stored)
            yield stored

    def _add_errors(self, stored: StoredUnit) -> None:
        for row in stored.answers.select(["query_id", "source", "error"]).to_pylist():
            if row["error"] is not None:
                self._errors.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")

    def write(
        self, storage: Storage, run_uri: str, driver: str, resumed: bool, write_s: Mapping[str, float]
    ) -> list[str]:
        """Put errors.jsonl, report.json and report.html; their paths within the run."""
        facts = RunFacts(
            driver=driver,
            output=run_uri,
            started_at=self._settings.started_at,
            finished_at=datetime.now(UTC),
            resumed=resumed,
            write_seconds=write_s,
            qrels_uri=self._settings.qrels_uri,
        )
        report = self._report.finish(facts, self._query_texts)
        self._errors.seek(0)
        folder = f"commit/{driver}"
        storage.create_from_file(join(run_uri, folder, "errors.jsonl"), self._errors)
        self._errors.close()
        contents = {
            "report.json": report.model_dump_json(indent=1).encode(),
            "report.html": render_report(report).encode(),
        }
        for name, data in contents.items():
            storage.create(join(run_uri, folder, name), data)
        return [f"{folder}/{name}" for name in ("errors.jsonl", *contents)]

    def _query_texts(self, rows: Mapping[str, tuple[str, int]]) -> dict[str, str]:
        files = {file.uri: file.info for file in self._plan.files}
        return {
            query_id: read_rows(files[uri], row, row + 1, ["query"], self._settings.storage)["query"][0].as_py()
            for query_id, (uri, row) in rows.items()
        }
