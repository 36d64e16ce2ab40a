"""Relevant documents that are no candidates of their query: whatever ranks or selects, it could not find them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from pipelines.fan_out import fan_out
from pipelines.inputs import DAMAGE, check_unchanged
from pipelines.labels import Qrels
from pipelines.storage import FileInfo, Storage, StorageOptions

_ROWS_AT_ONCE: Final = 64


def missing_gold(files: Sequence[FileInfo], qrels: Qrels, options: StorageOptions) -> dict[str, int]:
    """How many relevant documents are not among the candidates, for every query of these files that has any.

    Raises :class:`InputError` if a file changed since it was planned.
    """
    gold = ray.put({query_id: relevant for query_id, judged in qrels.items() if (relevant := relevant_of(judged))})
    found: dict[str, int] = {}
    for of_file in fan_out(missing_in_file, files, lambda file: file.size, gold, options):
        for query_id, missing in of_file.items():
            found.setdefault(query_id, missing)
    return found


def relevant_of(judged: Mapping[str, int]) -> frozenset[str]:
    """The relevant documents among the judged ones."""
    return frozenset(doc_id for doc_id, relevance in judged.items() if relevance > 0)


def missing_in_file(file: FileInfo, gold: Mapping[str, frozenset[str]], options: StorageOptions) -> dict[str, int]:
    """See :func:`missing_gold`; of one file, of which ids alone are decoded. A query that stands twice counts once."""
    storage = Storage(file.uri, options)
    check_unchanged(file, storage.info(file.uri))
    found: dict[str, int] = {}
    with storage.open(file.uri) as stream:
        parquet = pq.ParquetFile(stream)
        for group in range(parquet.num_row_groups):
            with suppress(*DAMAGE):  # rows that cannot be decoded are error rows already
                for batch in parquet.iter_batches(_ROWS_AT_ONCE, [group], _ids(parquet), use_threads=False):
                    for query_id, names in _candidates(batch):
                        if relevant := gold.get(query_id):
                            there = set(names.to_pylist())
                            missing = sum(name.encode("utf-8", "surrogatepass") not in there for name in relevant)
                            found.setdefault(query_id, missing)
    return found


def _ids(parquet: pq.ParquetFile) -> list[str]:
    # What stands between a list and its elements differs by writer.
    paths = [parquet.schema.column(place).path for place in range(len(parquet.schema))]
    return [
        path
        for path in paths
        if path == "query_id" or (path.split(".")[0], path.split(".")[-1]) == ("candidates", "doc_id")
    ]


def _candidates(batch: pa.RecordBatch) -> Iterator[tuple[str, pa.Array]]:
    """The id of each row that has one, and those of its candidates as bytes, which need not be UTF-8."""
    lists = batch.column("candidates")
    names = _as_binary(pc.struct_field(pc.list_flatten(lists), "doc_id"))
    ends = np.cumsum(pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)).tolist()
    for query_id, (start, end) in zip(
        _as_binary(batch.column("query_id")).to_pylist(), pairwise([0, *ends]), strict=True
    ):
        if query_id is not None:
            yield query_id.decode("utf-8", "replace"), names.slice(start, end - start)


def _as_binary(texts: pa.Array) -> pa.Array:
    return texts.cast(pa.large_string()).cast(pa.large_binary())
