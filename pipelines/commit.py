"""Commit: prove that every planned row came out, then name the objects in a manifest, create-only.

The manifest's existence is the commit. Readers open what it names and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from pipelines.fan_out import fan_out
from pipelines.plan import Plan, SkippedFile, Unit
from pipelines.schemas import SCHEMA_VERSION
from pipelines.storage import Storage, StorageOptions, join
from pipelines.units import parquet_table, unit_uri
from pipelines.work import UNIT_KEY
from qrcore.errors import IncompleteRunError, RunError

MANIFEST_FILE = "_manifest.json"
_BLOCK_BYTES: Final = 2**20


class CommittedObject(BaseModel):
    """One unit object as stored: path within the run, size in bytes, SHA-256, and its row counts."""

    model_config = ConfigDict(frozen=True)

    path: str
    unit_id: str
    size: int
    sha256: str
    rows: int
    scored: int
    failed: int


class SideObject(BaseModel):
    """A side file as stored: path within the run, size in bytes, SHA-256."""

    model_config = ConfigDict(frozen=True)

    path: str
    size: int
    sha256: str


class Manifest(BaseModel):
    """What a committed run consists of. ``driver`` is the uuid of the process that committed it; ``warnings``: what
    was noticed only when everything was done (those before it stand in ``provenance``); ``parent``: the run whose
    failed rows this one scored again."""

    model_config = ConfigDict(frozen=True)

    schema_version: str = SCHEMA_VERSION
    run_id: str
    job: str
    name: str
    driver: str
    committed_at: str
    config_hash: str
    input_hash: str
    rows: int
    scored: int
    failed: int
    skipped_files: tuple[SkippedFile, ...]
    objects: tuple[CommittedObject, ...]
    side_files: tuple[str, ...]
    side_objects: tuple[SideObject, ...] = ()
    provenance: dict[str, Any]
    warnings: tuple[str, ...] = ()
    parent: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class StoredUnit:
    """A unit object read back from the store: what it is, and its rows without the columns carried from the input."""

    unit: Unit
    entry: CommittedObject
    footer: dict[str, Any]
    answers: pa.Table


def find_done(storage: Storage, run_uri: str) -> set[str]:
    """Ids of the units whose objects exist."""
    files = storage.list_files(join(run_uri, "data"), suffix=".parquet")
    return {file.uri.rsplit("/", 1)[1].removesuffix(".parquet") for file in files}


def read_back(plan: Plan, run_uri: str, options: StorageOptions) -> Iterator[StoredUnit]:
    """Every unit object of the plan, in plan order, checked against it. Raises :class:`RunError` for a wrong one."""
    columns = [name for name in plan.output_schema.names if name not in plan.carried]
    yield from fan_out(_read_object, plan.units, lambda unit: unit.bytes, run_uri, columns, options)


def _read_object(unit: Unit, run_uri: str, columns: Sequence[str], options: StorageOptions) -> StoredUnit:
    uri = unit_uri(run_uri, unit.unit_id)
    data = Storage(run_uri, options).read(uri)
    try:
        parquet = pq.ParquetFile(pa.BufferReader(data))
        footer = json.loads((parquet.schema_arrow.metadata or {})[UNIT_KEY])
    except (pa.ArrowException, OSError, KeyError) as error:
        raise RunError(
            f"{uri}: expected an object of this run, found a file without its footer ({type(error).__name__}). "
            "Something else wrote here: remove the file and run the same command again."
        ) from error
    if footer["unit_id"] != unit.unit_id or parquet.metadata.num_rows != unit.rows:
        raise RunError(
            f"{uri}: expected unit {unit.unit_id} with {unit.rows} rows, found {footer['unit_id']} with "
            f"{parquet.metadata.num_rows}. Something else wrote here; use another output."
        )
    entry = CommittedObject(
        path=f"data/{unit.unit_id}.parquet",
        unit_id=unit.unit_id,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        rows=footer["rows"],
        scored=footer["scored"],
        failed=footer["failed"],
    )
    answers = parquet.read(columns=list(columns), use_threads=False)
    return StoredUnit(unit, entry, footer, answers)


def check_complete(plan: Plan, done: set[str]) -> None:
    """Raise :class:`IncompleteRunError` unless the unit objects are exactly the planned ones."""
    planned = {unit.unit_id for unit in plan.units}
    missing, unknown = planned - done, done - planned
    if missing:
        raise IncompleteRunError(
            f"run {plan.run_id}: expected {len(planned)} unit objects, {len(missing)} are missing. "
            "Run the same command again."
        )
    if unknown:
        raise RunError(
            f"run {plan.run_id}: found {len(unknown)} objects under data/ that the plan does not know, such as "
            f"{sorted(unknown)[0]}. Move them away and run the same command again."
        )


def check_balanced(plan: Plan, objects: Sequence[CommittedObject]) -> None:
    """Raise :class:`RunError` unless planned rows = scored + failed."""
    scored, failed = sum(o.scored for o in objects), sum(o.failed for o in objects)
    if plan.rows != scored + failed:
        raise RunError(
            f"run {plan.run_id}: expected {plan.rows} rows out, counted {scored} scored + {failed} failed. "
            "This is a defect; please report it with the run's _plan.json."
        )


def side_object(storage: Storage, run_uri: str, path: str) -> SideObject:
    """A side file as it stands in the store."""
    size, digest = 0, hashlib.sha256()
    with storage.open(join(run_uri, path)) as stream:
        while block := stream.read(_BLOCK_BYTES):
            size += len(block)
            digest.update(block)
    return SideObject(path=path, size=size, sha256=digest.hexdigest())


def make_manifest(
    plan: Plan,
    objects: Sequence[CommittedObject],
    driver: str,
    side_files: Sequence[SideObject],
    warnings: Sequence[str] = (),
) -> Manifest:
    """The manifest of a complete run."""
    return Manifest(
        run_id=plan.run_id,
        job=plan.job,
        name=plan.name,
        driver=driver,
        committed_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        config_hash=plan.config_hash,
        input_hash=plan.input_hash,
        rows=plan.rows,
        scored=sum(o.scored for o in objects),
        failed=sum(o.failed for o in objects),
        skipped_files=plan.skipped_files,
        objects=tuple(objects),
        side_files=tuple(entry.path for entry in side_files),
        side_objects=tuple(side_files),
        provenance=plan.provenance,
        warnings=tuple(warnings),
        parent=plan.parent,
    )


def commit(storage: Storage, output: str, run_uri: str, manifest: Manifest) -> Manifest:
    """Put the manifest create-only and point ``<name>.latest.json`` at the run; returns the manifest that counts.

    If another driver committed first, its manifest counts. A driver whose reply was lost finds its own uuid there.
    """
    storage.create(join(run_uri, MANIFEST_FILE), manifest.model_dump_json(indent=1).encode())
    stored = load_manifest(storage, run_uri)
    if stored is None:
        raise IncompleteRunError(f"{run_uri}: the manifest was put and cannot be found. Run the same command again.")
    point_latest(storage, output, stored)
    return stored


def point_latest(storage: Storage, output: str, manifest: Manifest) -> None:
    """Point ``<name>.latest.json`` at a committed run, unless it points at one that was committed later.

    A driver that died between its commit and this step leaves the pointer missing or old; every later command that
    finds the run committed puts it right. Runs that were rolled back stay so. ``previous`` is the run that it pointed
    at before.
    """
    stored = latest(storage, output, manifest.name)
    if stored is None or _time(stored.get("passed_over") or stored["committed_at"]) < _time(manifest.committed_at):
        _set_latest(storage, output, manifest, previous=stored["run_id"] if stored else None)


def roll_back(storage: Storage, output: str, manifest: Manifest) -> str | None:
    """Point ``<name>.latest.json`` at an earlier run; only runs that commit later than the newest move it again.

    Returns the id of the run that it pointed at.
    """
    stored = latest(storage, output, manifest.name)
    stamps = [stored.get("passed_over"), stored["committed_at"]] if stored else []
    newest = max((stamp for stamp in stamps if stamp), key=_time, default=manifest.committed_at)
    _set_latest(storage, output, manifest, passed_over=max(newest, manifest.committed_at, key=_time))
    return stored["run_id"] if stored else None


def latest(storage: Storage, output: str, name: str) -> dict[str, Any] | None:
    """What the pointer of a name says, None if there is none."""
    uri = join(output, f"{name}.latest.json")
    found: dict[str, Any] | None = json.loads(storage.read(uri)) if storage.exists(uri) else None
    return found


def _set_latest(storage: Storage, output: str, manifest: Manifest, **more: str | None) -> None:
    pointer = {
        "run_id": manifest.run_id,
        "manifest": f"{manifest.run_id}/{MANIFEST_FILE}",
        "committed_at": manifest.committed_at,
    }
    pointer |= {name: value for name, value in more.items() if value}
    storage.replace(join(output, f"{manifest.name}.latest.json"), json.dumps(pointer, indent=1).encode())


def _time(stamp: str) -> datetime:
    return datetime.fromisoformat(stamp)


def load_manifest(storage: Storage, run_uri: str) -> Manifest | None:
    """The manifest of a committed run, None if there is none."""
    uri = join(run_uri, MANIFEST_FILE)
    return Manifest.model_validate_json(storage.read(uri)) if storage.exists(uri) else None


def manifest_rows(
    run_uri: str, columns: Sequence[str] | None = None, options: StorageOptions | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of a committed run in input order, from the objects that its manifest names, one object at a time.

    Raises :class:`RunError` if the run is not committed or an object is not the one that was committed.
    """
    storage = Storage(run_uri, options)
    manifest = load_manifest(storage, run_uri)
    if manifest is None:
        raise RunError(f"{run_uri}: expected a committed run, found no {MANIFEST_FILE}. Finish the run first.")
    for entry in manifest.objects:
        data = storage.read(join(run_uri, entry.path))
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise RunError(f"{run_uri}/{entry.path}: its content is not what was committed. Restore it, or run again.")
        yield from parquet_table(data, columns).to_pylist()
