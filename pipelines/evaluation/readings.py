"""Read what is to be measured: a committed run of rerank or select, a TREC run file, or a run in Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipelines.commit import load_manifest, manifest_rows
from pipelines.labels import decoded
from pipelines.storage import Storage, StorageOptions, absolute
from pipelines.trec import read_run
from pipelines.units import parquet_table
from qrcore.errors import InputError
from qrcore.records import DETECTION_QUERY


@dataclass(frozen=True, slots=True)
class BundleSize:
    """What a bundle holds of its source, in tokens of its target model."""

    context_tokens: int
    source_tokens: int


@dataclass(frozen=True, slots=True)
class Reading:
    """One run: documents by query, best first; of bundles, what was kept and how large it is.

    ``failed``: queries whose row has an error; ``unnamed``: rows without a query_id; ``sources``: where a query's text
    can be read again; ``found_on``: queries that the heads of the run were found on.
    """

    name: str
    kind: str
    rankings: dict[str, tuple[str, ...]]
    sizes: dict[str, BundleSize] = field(default_factory=dict)
    failed: tuple[str, ...] = ()
    unnamed: int = 0
    sources: dict[str, tuple[str, int]] = field(default_factory=dict)
    found_on: frozenset[str] = frozenset()


def read_reading(uri: str, options: StorageOptions) -> Reading:
    """The run at ``uri``. Raises :class:`InputError` for anything that is none."""
    storage, place = Storage(uri, options), absolute(uri)
    name = place.rsplit("/", 1)[-1]
    if storage.is_folder(place):
        return _committed(name, place, storage, options)
    if not storage.exists(place):
        raise InputError(f"run {uri}: expected a folder of a committed run or a run file, found nothing. Check it.")
    data = storage.read(place)
    if place.endswith(".parquet"):
        return Reading(name, "ranking", dict(_parquet(uri, data)))
    lines = read_run(uri, decoded(uri, data))
    rankings = {query_id: tuple(line.doc_id for line in found) for query_id, found in lines.items()}
    _check_once(uri, rankings)
    return Reading(name, "ranking", rankings)


def _committed(name: str, place: str, storage: Storage, options: StorageOptions) -> Reading:
    manifest = load_manifest(storage, place)
    if manifest is None or manifest.job not in ("rerank", "select"):
        raise InputError(
            f"run {place}: expected a committed run of rerank or select, found "
            f"{f'one of {manifest.job}' if manifest else 'no manifest'}. Finish it, or name another."
        )
    kind = "ranking" if manifest.job == "rerank" else "bundle"
    columns = (
        ["query_id", "source", "error", "flags", "ranking"]
        if kind == "ranking"
        else ["query_id", "source", "error", "flags", "segments", "context_tokens", "source_tokens"]
    )
    reading = Reading(name, kind, {})
    failed: list[str] = []
    found_on: set[str] = set()
    unnamed = 0
    for row in manifest_rows(place, columns, options):
        query_id = row["query_id"]
        if query_id is None:
            unnamed += 1
        elif row["error"] is not None:
            failed.append(query_id)
        elif kind == "ranking":
            ranked = sorted(row["ranking"], key=lambda entry: entry["rank"])
            reading.rankings[query_id] = tuple(entry["doc_id"] for entry in ranked)
        else:
            reading.rankings[query_id] = _kept(row["segments"])
            reading.sizes[query_id] = BundleSize(row["context_tokens"], row["source_tokens"])
        if query_id is not None and row["error"] is None:
            reading.sources[query_id] = (row["source"]["uri"], row["source"]["row"])
            if DETECTION_QUERY in (row["flags"] or ()):
                found_on.add(query_id)
    # A doubled id fails where it stands again, and counts where it stood first.
    failures = tuple(query_id for query_id in dict.fromkeys(failed) if query_id not in reading.rankings)
    return Reading(name, kind, reading.rankings, reading.sizes, failures, unnamed, reading.sources, frozenset(found_on))


def _kept(segments: list[dict[str, Any]]) -> tuple[str, ...]:
    """The pieces of a bundle, best segment first."""
    best = sorted(segments, key=lambda segment: segment["rank"])
    return tuple(doc_id for segment in best for doc_id in segment["doc_ids"])


def _parquet(uri: str, data: bytes) -> Iterator[tuple[str, tuple[str, ...]]]:
    try:
        rows = parquet_table(data, ["query_id", "doc_id", "rank"]).to_pylist()
    except (pa.ArrowException, KeyError, OSError) as error:
        raise InputError(
            f"run {uri}: expected columns query_id, doc_id and rank ({str(error).splitlines()[0]}). Correct the file."
        ) from error
    by_query: dict[str, dict[int, str]] = {}
    for row in rows:
        places = by_query.setdefault(row["query_id"], {})
        if row["rank"] in places or row["rank"] is None:
            raise InputError(f"run {uri}, query {row['query_id']!r}: expected each rank once, got {row['rank']} again.")
        places[row["rank"]] = row["doc_id"]
    rankings = {query_id: tuple(places[rank] for rank in sorted(places)) for query_id, places in by_query.items()}
    _check_once(uri, rankings)
    yield from rankings.items()


def _check_once(uri: str, rankings: dict[str, tuple[str, ...]]) -> None:
    for query_id, doc_ids in rankings.items():
        if len(set(doc_ids)) != len(doc_ids):
            raise InputError(f"run {uri}, query {query_id!r}: expected each document once, got one twice. Correct it.")
