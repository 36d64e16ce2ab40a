"""Rank documents inside their domain and choose the top share, as one Ray Data group-by over slim rows.

Texts do not travel: of every scored document go its id, its domain, a few numbers and where it stands. The rows of one
domain meet in one task, about 100 bytes a document. Ties go by doc_id, then by file and row, so that the choice is the
same whatever the order in which units were done.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, Final, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from pipelines.cluster import LIGHT_TASK_CPUS
from pipelines.schemas import SCHEMA_VERSION, SCHEMA_VERSION_KEY, SOURCE
from pipelines.storage import Storage, StorageOptions, join
from pipelines.units import parquet_table, unit_uri
from pipelines.work import parquet_bytes

RANKED_SCHEMA: Final = pa.schema(
    [
        pa.field("doc_id", pa.string()),
        pa.field("domain", pa.string()),
        pa.field("n_tokens", pa.int64()),
        pa.field("influence", pa.float32()),
        pa.field("rank", pa.int64()),
        pa.field("percentile", pa.float64()),
        pa.field("selected", pa.bool_()),
        pa.field("selected_by_length", pa.bool_()),
        pa.field("source", SOURCE),
    ],
    metadata={SCHEMA_VERSION_KEY: SCHEMA_VERSION.encode()},
)
_COLUMNS: Final = (
    "doc_id",
    "domain",
    "n_tokens",
    "influence",
    "control_influence",
    "repetition",
    "noise",
    "source",
    "error",
)
#: Keys of groups: no domain's name can be taken for none.
_NO_DOMAIN: Final = "none"
_DOMAIN: Final = "domain "
_BINS: Final = 24
_LENGTH_GROUPS: Final = 10


@dataclass(frozen=True, slots=True)
class RankingSettings:
    """Where units stand and ranks go, and the share (0 to 1) of each domain that is selected."""

    run_uri: str
    folder: str
    storage: StorageOptions
    fraction: float


def rank_documents(settings: RankingSettings, unit_ids: Sequence[str]) -> list[dict[str, Any]]:
    """Rank all scored documents of these units and put one Parquet file per domain into ``folder``.

    Returns a summary of every domain, in the order of their names; see :func:`ranked_domain`.
    """
    units = ray.data.from_items([{"unit_id": one} for one in unit_ids], override_num_blocks=max(1, len(unit_ids)))
    slim = units.map_batches(
        cast("Any", partial(_slim_rows, settings=settings)), batch_format="pyarrow", num_cpus=LIGHT_TASK_CPUS
    )
    ranked = slim.groupby("domain_key").map_groups(
        cast("Any", partial(_rank_group, settings=settings)), batch_format="pyarrow", num_cpus=LIGHT_TASK_CPUS
    )
    found = [json.loads(row["summary"]) for row in ranked.iter_rows()]
    return sorted(found, key=lambda domain: domain["domain"] or "")


def chosen_count(documents: int, fraction: float) -> int:
    """How many of a domain's documents the top share holds: rounded up, exactly (0.2 is a fifth)."""
    return math.ceil(Fraction(str(fraction)) * documents)


@dataclass(frozen=True, slots=True, eq=False)
class RankedDomain:
    """The documents of one domain, best first, and beside them their ``rank`` (from 1), ``percentile`` (share of the
    domain that they are not below, 0 to 1), whether they are ``selected``, and ``by_length``: whether they are in the
    top share of documents of about their length."""

    documents: pa.Table
    rank: np.ndarray
    percentile: np.ndarray
    selected: np.ndarray
    by_length: np.ndarray


def ranked_domain(documents: pa.Table, fraction: float) -> RankedDomain:
    """Rank documents (``doc_id, n_tokens, influence, uri, row``) of one domain."""
    keys = [("influence", "descending"), *((name, "ascending") for name in ("doc_id", "uri", "row"))]
    best_first = documents.sort_by(keys)
    count = len(best_first)
    rank = np.arange(1, count + 1)
    return RankedDomain(
        best_first,
        rank,
        1 - (rank - 1) / count,
        rank <= chosen_count(count, fraction),
        _best_of_their_length(best_first["n_tokens"].to_numpy(), fraction),
    )


def _best_of_their_length(tokens: np.ndarray, fraction: float) -> np.ndarray:
    """Documents stand best first; groups of about equal length hold about equally many."""
    count = len(tokens)
    groups = min(_LENGTH_GROUPS, max(1, count // _LENGTH_GROUPS))
    chosen = np.zeros(count, dtype=bool)
    for group in np.array_split(np.argsort(tokens, kind="stable"), groups):
        chosen[np.sort(group)[: chosen_count(len(group), fraction)]] = True
    return chosen


def _slim_rows(units: pa.Table, settings: RankingSettings) -> pa.Table:
    """The scored documents of units; a domain that is null is one of its own."""
    storage = Storage(settings.run_uri, settings.storage)
    parts = [
        parquet_table(storage.read(unit_uri(settings.run_uri, unit_id)), _COLUMNS)
        for unit_id in units["unit_id"].to_pylist()
    ]
    table = pa.concat_tables(parts)
    scored = table.filter(pc.is_null(table["error"]))
    domains = scored["domain"].to_pylist()
    source = scored["source"].combine_chunks()
    keys = [_NO_DOMAIN if domain is None else f"{_DOMAIN}{domain}" for domain in domains]
    columns = {
        "domain_key": pa.array(keys, pa.string()),
        **{name: scored[name] for name in ("doc_id", "n_tokens", "repetition", "noise")},
        "influence": scored["influence"],
        "controls": scored["control_influence"],
        "uri": pc.struct_field(source, "uri"),
        "row": pc.struct_field(source, "row"),
    }
    return pa.table(columns)


def _rank_group(documents: pa.Table, settings: RankingSettings) -> pa.Table:
    key = documents["domain_key"][0].as_py()
    domain = None if key == _NO_DOMAIN else key.removeprefix(_DOMAIN)
    ranked = ranked_domain(documents, settings.fraction)
    path = f"{settings.folder}/{hashlib.sha256(key.encode()).hexdigest()[:16]}.parquet"
    data = parquet_bytes(_ranked_table(ranked, domain), {})
    Storage(settings.run_uri, settings.storage).create(join(settings.run_uri, path), data)
    return pa.table({"summary": [json.dumps(_summary(ranked, domain, path))]})


def _ranked_table(ranked: RankedDomain, domain: str | None) -> pa.Table:
    documents = ranked.documents
    columns = {
        "doc_id": documents["doc_id"],
        "domain": pa.repeat(pa.scalar(domain, pa.string()), len(documents)),
        "n_tokens": documents["n_tokens"],
        "influence": documents["influence"].cast(pa.float32()),
        "rank": ranked.rank,
        "percentile": ranked.percentile,
        "selected": ranked.selected,
        "selected_by_length": ranked.by_length,
        "source": pa.StructArray.from_arrays(
            [documents[name].combine_chunks() for name in ("uri", "row")], fields=list(SOURCE)
        ),
    }
    return pa.table(columns, schema=RANKED_SCHEMA)


def _summary(ranked: RankedDomain, domain: str | None, path: str) -> dict[str, Any]:
    """What the report tells of a domain."""
    documents, selected = ranked.documents, ranked.selected
    numbers = {name: documents[name].to_numpy() for name in ("influence", "n_tokens", "repetition", "noise")}
    influence = numbers["influence"]
    counts, edges = np.histogram(influence, bins=_BINS if np.ptp(influence) > 0 else 1)
    controls = documents["controls"].combine_chunks().flatten().to_numpy().reshape(len(documents), -1)
    return {
        "domain": domain,
        "path": path,
        "documents": len(documents),
        "selected": int(selected.sum()),
        "cut": float(influence[selected].min()),
        "mean_influence": float(influence.mean()),
        "control_means": controls.mean(axis=0, dtype=np.float64).tolist(),
        "largest_noise": float(numbers["noise"].max()) if documents["noise"].null_count == 0 else None,
        "edges": edges.tolist(),
        "counts": counts.tolist(),
        "tokens_selected": float(numbers["n_tokens"][selected].mean()),
        "tokens_all": float(numbers["n_tokens"].mean()),
        "repetition_selected": float(numbers["repetition"][selected].mean()),
        "repetition_all": float(numbers["repetition"].mean()),
        "length_correlation": rank_correlation(influence, numbers["n_tokens"]),
        "repetition_correlation": rank_correlation(influence, numbers["repetition"]),
        "kept_by_length": float((selected & ranked.by_length).sum() / selected.sum()),
    }


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    """Spearman's rho, ties at their mean rank; None where either is the same everywhere."""
    if len(np.unique(one)) < 2 or len(np.unique(other)) < 2:
        return None
    return float(np.corrcoef(_mean_ranks(one), _mean_ranks(other))[0, 1])


def _mean_ranks(values: np.ndarray) -> np.ndarray:
    lowest, highest = (pc.rank(pa.array(values), tiebreaker=kind).to_numpy() for kind in ("min", "max"))
    mean: np.ndarray = (lowest + highest) / 2
    return mean
