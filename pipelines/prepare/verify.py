"""Read markers back, and every object that they name, before anything is committed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from pipelines.cluster import LIGHT_TASK_CPUS, get
from pipelines.prepare.tables import hash_of
from pipelines.prepare.work import MARKER_KEY, marker_uri
from pipelines.storage import Storage, StorageOptions, join
from qrcore.errors import IncompleteRunError, RunError

_AT_ONCE = 16


@dataclass(frozen=True, slots=True, eq=False)
class Marker:
    """What one unit came to, in flat arrays: one entry for each row of its shards.

    ``errors``: failed rows with ``query_id``, ``source`` and ``error``.
    """

    footer: dict[str, Any]
    query_hashes: np.ndarray
    query_ids: pa.Array
    candidates: np.ndarray
    characters: np.ndarray
    longest: np.ndarray
    repeated_texts: np.ndarray
    gold: np.ndarray
    gold_missing: np.ndarray
    errors: list[dict[str, Any]]


def read_markers(unit_ids: Sequence[str], run_uri: str, options: StorageOptions) -> Iterator[Marker]:
    """Every planned unit's marker in plan order, its objects compared with their hashes.

    Raises :class:`IncompleteRunError` for a unit that is not done and :class:`RunError` for an object that differs.
    """
    task = ray.remote(num_cpus=LIGHT_TASK_CPUS)(read_marker)
    pending: list[Any] = []
    for unit_id in unit_ids:
        pending.append(task.remote(unit_id, run_uri, options))
        if len(pending) >= _AT_ONCE:
            yield get(pending.pop(0))
    for reference in pending:
        yield get(reference)


def read_marker(unit_id: str, run_uri: str, options: StorageOptions) -> Marker:
    """One unit's marker, and its objects checked."""
    storage = Storage(run_uri, options)
    uri = marker_uri(run_uri, unit_id)
    if not storage.exists(uri):
        raise IncompleteRunError(f"{uri}: expected the unit to be done, it is not. Run the same command again.")
    parquet = pq.ParquetFile(pa.BufferReader(storage.read(uri)))
    footer = json.loads(parquet.schema_arrow.metadata[MARKER_KEY])
    for entry in footer["objects"]:
        _check_object(storage, join(run_uri, entry["path"]), entry["sha256"])
    table = parquet.read(use_threads=False)
    failed = pc.is_valid(table["error"])
    prepared = table.filter(pc.and_(pc.invert(failed), pc.invert(table["left_out"])))
    ids = prepared["query_id"].combine_chunks()
    errors = table.filter(failed).select(["query_id", "source", "error"]).to_pylist()
    numbers = {name: prepared[name].to_numpy() for name in _NUMBERS}
    hashes = np.fromiter((hash_of(one.as_py()) for one in ids), dtype=np.uint64, count=len(ids))
    return Marker(footer, hashes, ids, **numbers, errors=errors)


_NUMBERS = ("candidates", "characters", "longest", "repeated_texts", "gold", "gold_missing")


def _check_object(storage: Storage, uri: str, sha256: str) -> None:
    if hashlib.sha256(storage.read(uri)).hexdigest() != sha256:
        raise RunError(f"{uri}: expected the object that its unit wrote, found another. Use another output.")
