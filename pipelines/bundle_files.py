"""What select puts beside its bundles: chat lines, errors and the report."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pipelines.commit import StoredUnit
from pipelines.gold import missing_gold
from pipelines.labels import Qrels
from pipelines.plan import Plan
from pipelines.report.bundle_page import render_bundles
from pipelines.report.bundles import BundleCounts
from pipelines.report.parts import committed_run, pace_of
from pipelines.rows import Row
from pipelines.side_files import ErrorLines
from pipelines.storage import Storage, StorageOptions, join


@dataclass(frozen=True, slots=True)
class BundleFileSettings:
    """Judgements, if there are any, and where they come from; how to reach the inputs; when this driver began."""

    started_at: datetime
    qrels_uri: str | None = None
    qrels: Qrels | None = None
    storage: StorageOptions = field(default_factory=StorageOptions)


class BundleFiles:
    """Chat lines, errors and counts, collected while units stream by; see :class:`pipelines.job.SideFileWriter`."""

    def __init__(self, plan: Plan, settings: BundleFileSettings) -> None:
        self._plan, self._settings = plan, settings
        self._errors = ErrorLines()
        self._chat = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as this object
        self._footers: list[Mapping[str, Any]] = []
        self._counts = BundleCounts(plan, settings.qrels_uri, settings.qrels)

    @property
    def warnings(self) -> tuple[str, ...]:
        """None: what there is to say of a bundle stands in its flags."""
        return ()

    def watch(self, units: Iterable[StoredUnit]) -> Iterator[StoredUnit]:
        """The same units, taken note of."""
        for stored in units:
            self._errors.add(stored)
            self._counts.add(stored)
            self._footers.append(stored.footer)
            for row in stored.answers.to_pylist():
                if row["error"] is None:
                    self._add_chat(row)
            yield stored

    def _add_chat(self, row: Row) -> None:
        ranked = self._plan.provenance["ranked"]
        line = {
            "id": row["query_id"],
            "messages": row["messages"],
            "compression_ratio": row["compression_ratio"],
            "context_tokens": row["context_tokens"],
            "source_tokens": row["source_tokens"],
            "provenance": {
                "run_id": self._plan.run_id,
                "ranked": ranked["run_id"] if ranked else None,
                "source": row["source"],
                "doc_ids": [name for segment in row["segments"] for name in segment["doc_ids"]],
                "flags": row["flags"],
            },
        }
        self._chat.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")

    def write(
        self, storage: Storage, run_uri: str, driver: str, resumed: bool, write_s: Mapping[str, float]
    ) -> list[str]:
        """Put chat.jsonl, errors.jsonl, report.json and report.html; their paths within the run."""
        folder = f"commit/{driver}"
        self._chat.seek(0)
        storage.create_from_file(join(run_uri, folder, "chat.jsonl"), self._chat)
        self._chat.close()
        errors = self._errors.write(storage, run_uri, folder)
        run = committed_run(self._plan, run_uri, driver, self._settings.started_at, datetime.now(UTC), resumed=resumed)
        pace = pace_of(self._plan.config, self._footers, write_s, run)
        report = self._counts.finish(run, self._missing_gold(), pace)
        contents = {"report.json": report.model_dump_json(indent=1), "report.html": render_bundles(report)}
        for name, text in contents.items():
            storage.create(join(run_uri, folder, name), text.encode())
        return [f"{folder}/chat.jsonl", errors, *(f"{folder}/{name}" for name in contents)]

    def _missing_gold(self) -> dict[str, int] | None:
        qrels, options = self._settings.qrels, self._settings.storage
        return None if qrels is None else missing_gold([file.info for file in self._plan.files], qrels, options)
