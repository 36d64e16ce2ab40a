"""Where a run stands, read from what lies in the store; no cluster is needed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import pyarrow.parquet as pq

from pipelines.commit import Manifest, find_done, load_manifest
from pipelines.lease import Lease, leases
from pipelines.metrics import busy_seconds
from pipelines.plan import Plan, Unit, load_plan
from pipelines.storage import Storage, StorageOptions, absolute
from pipelines.units import unit_uri
from pipelines.work import UNIT_KEY
from qrcore.errors import InputError

_FOOTERS_AT_ONCE: Final = 16
#: Longer than in the report: units of a run that goes on may be far apart.
_BRIDGED_GAP_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class RunStatus:
    """``units`` and ``rows`` are (done, planned); ``errors`` rows by code; ``rows_per_s`` while units were scored;
    ``eta_s``: seconds to go at this rate, None if unknown or done; ``drivers``: signs of drivers, fresh or not."""

    uri: str
    plan: Plan
    manifest: Manifest | None
    units: tuple[int, int]
    rows: tuple[int, int]
    errors: dict[str, int]
    prompt_tokens: int
    rows_per_s: float | None
    tokens_per_s: float | None
    eta_s: float | None
    drivers: tuple[Lease, ...]


def run_status(uri: str, options: StorageOptions) -> RunStatus:
    """The status of the run at ``uri``. Raises :class:`InputError` if none is there."""
    run_uri = absolute(uri)
    storage = Storage(run_uri, options)
    plan = load_plan(storage, run_uri)
    if plan is None:
        raise InputError(f"{run_uri}: expected a run, found no _plan.json. Give the folder OUTPUT/<run_id>.")
    stored = find_done(storage, run_uri)
    done = [unit for unit in plan.units if unit.unit_id in stored]
    footers = unit_footers(storage, run_uri, done)
    errors: Counter[str] = Counter()
    for footer in footers:
        errors.update(footer["errors"])
    rows, tokens = sum(unit.rows for unit in done), sum(footer["prompt_tokens"] for footer in footers)
    seconds = busy_seconds(footers, _BRIDGED_GAP_S)
    left = plan.rows - rows
    return RunStatus(
        uri=run_uri,
        plan=plan,
        manifest=load_manifest(storage, run_uri),
        units=(len(done), len(plan.units)),
        rows=(rows, plan.rows),
        errors=dict(errors),
        prompt_tokens=tokens,
        rows_per_s=rows / seconds if seconds else None,
        tokens_per_s=tokens / seconds if seconds else None,
        eta_s=left * seconds / rows if left and rows and seconds else None,
        drivers=tuple(leases(storage, run_uri)),
    )


def unit_footers(storage: Storage, run_uri: str, units: Sequence[Unit]) -> list[dict[str, Any]]:
    """What each unit's object says of itself; only footers are read."""

    def footer(unit: Unit) -> dict[str, Any]:
        with storage.open(unit_uri(run_uri, unit.unit_id)) as stream:
            found: dict[str, Any] = json.loads(pq.read_schema(stream).metadata[UNIT_KEY])
            return found

    with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
        return list(pool.map(footer, units))
