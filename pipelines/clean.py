"""What may be removed from a run's folder, listed before anything is; nothing that a manifest names ever is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pipelines.attempts import ATTEMPTS
from pipelines.commit import MANIFEST_FILE, Manifest, find_done, load_manifest
from pipelines.lease import LEASES, leases
from pipelines.plan import PLAN_FILE, Plan, load_plan
from pipelines.status import unit_footers
from pipelines.storage import Storage, StorageOptions, absolute, join
from pipelines.units import unit_uri
from qrcore.errors import ConfigError, InputError, RunHeldError

_KEPT: Final = (PLAN_FILE, MANIFEST_FILE)


@dataclass(frozen=True, slots=True)
class Removal:
    """One thing to remove and why; ``upload``: the id of an upload in parts that was never ended."""

    uri: str
    why: str
    upload: str = ""


@dataclass(frozen=True, slots=True)
class Cleaning:
    """What cleaning a run would remove."""

    uri: str
    removals: tuple[Removal, ...]


def what_to_clean(uri: str, options: StorageOptions, errors_of: str | None = None) -> Cleaning:
    """Leftovers of a run; with ``errors_of``, also units with failed rows of this code (empty: of any).

    Raises :class:`RunHeldError` while a driver works on it, :class:`InputError` if none is there, and
    :class:`ConfigError` for units of a committed run.
    """
    run_uri = absolute(uri)
    storage = Storage(run_uri, options)
    plan, manifest = load_plan(storage, run_uri), load_manifest(storage, run_uri)
    if plan is None:
        raise InputError(f"{run_uri}: expected a run, found no {PLAN_FILE}. Give the folder OUTPUT/<run_id>.")
    if at_work := [lease for lease in leases(storage, run_uri) if lease.fresh]:
        raise RunHeldError(f"{run_uri}: expected no driver at work, found {at_work[0]}. Stop it first.")
    if errors_of is not None and manifest is not None:
        raise ConfigError(
            f"{run_uri}: expected an uncommitted run, this one is committed and stays as it is. Score its failed rows "
            f"in a run of their own: --rows-from {run_uri}/errors."
        )
    units = _units_with_errors(storage, run_uri, plan, errors_of) if errors_of is not None else []
    removals = [*units, *_leftovers(storage, run_uri, plan, manifest)]
    uploads = [
        Removal(found, "upload that was never ended", upload) for found, upload in storage.open_uploads(run_uri + "/")
    ]
    return Cleaning(run_uri, (*removals, *uploads))


def clean(cleaning: Cleaning, options: StorageOptions) -> None:
    """Remove what was listed. Raises :class:`RunHeldError` if a driver has come since."""
    storage = Storage(cleaning.uri, options)
    if at_work := [lease for lease in leases(storage, cleaning.uri) if lease.fresh]:
        raise RunHeldError(f"{cleaning.uri}: expected no driver at work, found {at_work[0]}. Stop it first.")
    manifest = load_manifest(storage, cleaning.uri)
    kept = _named(cleaning.uri, manifest)
    for removal in cleaning.removals:
        if removal.upload:
            storage.abort_upload(removal.uri, removal.upload)
        elif removal.uri not in kept:  # committed since it was listed
            storage.delete(removal.uri)


def _named(run_uri: str, manifest: Manifest | None) -> frozenset[str]:
    paths = [] if manifest is None else [*(entry.path for entry in manifest.objects), *manifest.side_files]
    return frozenset(join(run_uri, path) for path in (*_KEPT, *paths))


def _units_with_errors(storage: Storage, run_uri: str, plan: Plan, code: str) -> list[Removal]:
    done = find_done(storage, run_uri)
    units = [unit for unit in plan.units if unit.unit_id in done]
    removals = []
    for unit, footer in zip(units, unit_footers(storage, run_uri, units), strict=True):
        failed = {name: number for name, number in footer["errors"].items() if code in ("", name)}
        if failed:
            told = ", ".join(f"{number} {name}" for name, number in sorted(failed.items()))
            removals.append(Removal(unit_uri(run_uri, unit.unit_id), f"unit with errors: {told}"))
    return removals


def _leftovers(storage: Storage, run_uri: str, plan: Plan, manifest: Manifest | None) -> Sequence[Removal]:
    kept, planned = _named(run_uri, manifest), {unit_uri(run_uri, unit.unit_id) for unit in plan.units}
    removals = []
    for file in storage.list_everything(run_uri):
        path = file.uri.removeprefix(run_uri).lstrip("/")
        if file.uri in kept:
            continue
        if why := _reason(path, committed=manifest is not None, planned=file.uri in planned):
            removals.append(Removal(file.uri, why))
    return removals


def _reason(path: str, *, committed: bool, planned: bool) -> str:
    folder, name = path.split("/", 1)[0], path.rsplit("/", 1)[-1]
    if name.startswith((".", "_probe-")):
        return "left by a write that was interrupted"
    if folder == ATTEMPTS:
        return "mark of an attempt"
    if folder == LEASES:
        return "sign of a driver that is gone"
    if folder == "commit":
        return "side file of a driver that did not commit"
    if folder == "data" and committed:
        return "object that the manifest does not name"
    if folder == "data" and not planned:
        return "object that the plan does not know"
    return ""
