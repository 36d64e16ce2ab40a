"""What contrast puts beside its answers: errors, the report, and rows for tuning where masked answers are samples."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.commit import StoredUnit
from pipelines.contrast.model import TuningSettings
from pipelines.contrast.page import contrast_page
from pipelines.contrast.report import ContrastCounts
from pipelines.contrast.rows import TUNING_SCHEMA, chat_line, tuning_rows
from pipelines.plan import Plan
from pipelines.report.parts import committed_run
from pipelines.rows import Row
from pipelines.side_files import ErrorLines
from pipelines.storage import Storage, join


class TuningRows:
    """Rows for tuning, as Parquet and as chat lines; on disk, because there may be twice as many as rows."""

    def __init__(self, settings: TuningSettings) -> None:
        self._settings = settings
        self._parquet = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as this object
        self._lines = tempfile.TemporaryFile()  # noqa: SIM115
        self._writer = pq.ParquetWriter(self._parquet, TUNING_SCHEMA, compression="zstd")

    def add(self, rows: Iterable[Row]) -> None:
        """Take in the output rows of a unit."""
        made = [one for row in rows if row["error"] is None for one in tuning_rows(row, self._settings)]
        if not made:
            return
        self._writer.write_table(pa.Table.from_pylist(made, schema=TUNING_SCHEMA))
        for one in made:
            self._lines.write(json.dumps(chat_line(one), ensure_ascii=False).encode() + b"\n")

    def write(self, storage: Storage, run_uri: str, folder: str) -> list[str]:
        """Put ``tuning.parquet`` and ``tuning.jsonl``; their paths within the run."""
        self._writer.close()
        files = {"tuning.parquet": self._parquet, "tuning.jsonl": self._lines}
        for name, content in files.items():
            content.seek(0)
            storage.create_from_file(join(run_uri, folder, name), content)
            content.close()
        return [f"{folder}/{name}" for name in files]


class ContrastFiles:
    """Collects what side files say while units stream by; see :class:`pipelines.job.SideFileWriter`."""

    def __init__(
        self,
        plan: Plan,
        started_at: datetime,
        warnings: Sequence[str],
        tuning: TuningSettings | None,
        examples: bool,
    ) -> None:
        self._plan, self._started_at, self._warnings = plan, started_at, tuple(warnings)
        self._errors = ErrorLines()
        self._counts = ContrastCounts(plan, examples)
        self._tuning = TuningRows(tuning) if tuning else None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is not known or not right of the head set and the model."""
        return self._warnings

    def watch(self, units: Iterable[StoredUnit]) -> Iterator[StoredUnit]:
        """The same units, taken note of."""
        for stored in units:
            self._errors.add(stored)
            self._counts.add(stored)
            if self._tuning:
                self._tuning.add(stored.answers.to_pylist())
            yield stored

    def write(
        self, storage: Storage, run_uri: str, driver: str, resumed: bool, write_s: Mapping[str, float]
    ) -> list[str]:
        """Put errors.jsonl, the report and the rows for tuning; their paths within the run."""
        folder = f"commit/{driver}"
        run = committed_run(self._plan, run_uri, driver, self._started_at, datetime.now(UTC), resumed=resumed)
        report = self._counts.finish(run)
        contents = {"report.json": report.model_dump_json(indent=1), "report.html": contrast_page(report)}
        for name, text in contents.items():
            storage.create(join(run_uri, folder, name), text.encode())
        tuning = self._tuning.write(storage, run_uri, folder) if self._tuning else []
        errors = self._errors.write(storage, run_uri, folder)
        return [errors, *(f"{folder}/{name}" for name in contents), *tuning]
