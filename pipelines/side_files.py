"""Files that a commit puts beside the data: the rows that failed and the report."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipelines.commit import StoredUnit
from pipelines.contracts import id_column_of
from pipelines.labels import Qrels
from pipelines.plan import Plan
from pipelines.ranges import read_rows
from pipelines.report.build import ReportBuilder, RunFacts
from pipelines.report.html import render_report
from pipelines.storage import Storage, StorageOptions, join


@dataclass(frozen=True, slots=True)
class SideFileSettings:
    """Where judgements come from, if there are any, and how to reach the store. ``examples``: whether the report shows
    queries with their texts; ``started_at``: when this driver began the run."""

    qrels_uri: str | None
    qrels: Qrels | None
    storage: StorageOptions
    started_at: datetime
    examples: bool = True


def read_side_file(run_uri: str, side_files: Sequence[str], name: str, options: StorageOptions) -> dict[str, Any]:
    """A JSON side file of a committed run, by its name."""
    path = next(path for path in side_files if path.endswith(f"/{name}"))
    content: dict[str, Any] = json.loads(Storage(run_uri, options).read(join(run_uri, path)))
    return content


class ErrorLines:
    """Rows that failed, as JSON lines; on disk, because there may be as many as rows."""

    def __init__(self) -> None:
        self._lines = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as this object

    def add(self, stored: StoredUnit) -> None:
        """Take in the failed rows of a unit."""
        if not stored.entry.failed:
            return
        id_column = id_column_of(stored.answers.schema.names)
        for row in stored.answers.select([id_column, "source", "error"]).to_pylist():
            if row["error"] is not None:
                self.add_row(row)

    def add_row(self, row: Mapping[str, Any]) -> None:
        """Take in one row that failed."""
        self._lines.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")

    def write(self, storage: Storage, run_uri: str, folder: str) -> str:
        """Put them as ``errors.jsonl`` into a folder of the run; the path within the run."""
        path = f"{folder}/errors.jsonl"
        self._lines.seek(0)
        storage.create_from_file(join(run_uri, path), self._lines)
        self._lines.close()
        return path


class SideFiles:
    """Collects what the side files say while units stream by; see :meth:`watch` and :meth:`write`."""

    def __init__(self, plan: Plan, settings: SideFileSettings) -> None:
        self._plan = plan
        self._settings = settings
        self._report = ReportBuilder(plan, settings.qrels)
        self._errors = ErrorLines()

    def watch(self, units: Iterable[StoredUnit]) -> Iterator[StoredUnit]:
        """The same units, taken note of."""
        for stored in units:
            self._report.add(stored)
            self._errors.add(stored)
            yield stored

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
        report = self._report.finish(facts, self._query_texts if self._settings.examples else None)
        folder = f"commit/{driver}"
        errors = self._errors.write(storage, run_uri, folder)
        contents = {
            "report.json": report.model_dump_json(indent=1).encode(),
            "report.html": render_report(report).encode(),
        }
        for name, data in contents.items():
            storage.create(join(run_uri, folder, name), data)
        return [errors, *(f"{folder}/{name}" for name in contents)]

    @property
    def warnings(self) -> tuple[str, ...]:
        """See :class:`pipelines.job.SideFileWriter`."""
        return self._report.warnings

    def _query_texts(self, rows: Mapping[str, tuple[str, int]]) -> dict[str, str]:
        files = {file.uri: file.info for file in self._plan.files}
        return {
            query_id: read_rows(files[uri], row, row + 1, ["query"], self._settings.storage)["query"][0].as_py()
            for query_id, (uri, row) in rows.items()
        }
