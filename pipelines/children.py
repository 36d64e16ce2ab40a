"""Rows of a committed run that failed, as the input of another run: its child."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.commit import load_manifest
from pipelines.inputs import unchanged_files
from pipelines.plan import load_plan
from pipelines.storage import FileInfo, Storage, StorageOptions, absolute, join
from qrcore.errors import InputError

_SUFFIX = "/errors"


@dataclass(frozen=True, slots=True)
class FailedRows:
    """Which rows of which files failed in run ``parent``."""

    parent: str
    files: tuple[FileInfo, ...]
    rows: Mapping[str, frozenset[int]]

    def content(self) -> list[object]:
        """What tells one such choice from another."""
        return [self.parent, sorted((uri, sorted(rows)) for uri, rows in self.rows.items())]


def failed_rows(uri: str, options: StorageOptions) -> FailedRows:
    """The failed rows of a committed run, named ``RUN`` or ``RUN/errors``.

    Raises :class:`InputError` if it is not committed, nothing failed, or its input has changed since.
    """
    run_uri = absolute(uri).removesuffix(_SUFFIX)
    storage = Storage(run_uri, options)
    manifest, plan = load_manifest(storage, run_uri), load_plan(storage, run_uri)
    if manifest is None or plan is None:
        raise InputError(
            f"rows-from {run_uri}: expected a committed run, found none. Give RUN/errors of one; the units of an "
            "uncommitted run are scored again with: qrbatch clean RUN --units-with-errors."
        )
    rows: dict[str, set[int]] = defaultdict(set)
    for path in manifest.side_files:
        if path.endswith("/errors.jsonl"):
            for line in storage.read(join(run_uri, path)).splitlines():
                source = json.loads(line)["source"]
                rows[source["uri"]].add(source["row"])
    if not rows:
        raise InputError(f"rows-from {run_uri}: expected rows that failed, all were scored. There is nothing to do.")
    files = unchanged_files([file.info for file in plan.files], options)
    return FailedRows(plan.run_id, files, {file: frozenset(numbers) for file, numbers in rows.items()})
