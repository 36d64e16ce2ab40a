"""The lists on which choices of heads are compared, of the collections beside the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.units import parquet_table
from tests.benchmarks.embedded_lists import COLLECTIONS, write
from tests.benchmarks.head_lists import CANDIDATES, MOST_QUERIES, NAMES, WORDS, build

beside = pytest.mark.skipif(not COLLECTIONS.is_dir(), reason="the collections are not part of the repository")


@beside
@pytest.mark.parametrize("name", ["adi", "scifact", "2wikimultihopqa"])
def test_lists_hold_the_first_candidates_and_one_that_is_relevant(name: str, tmp_path: Path) -> None:
    write(build(name), tmp_path)
    lists = parquet_table((tmp_path / "lists.parquet").read_bytes()).to_pylist()
    qrels = parquet_table((tmp_path / "qrels.parquet").read_bytes()).to_pylist()
    relevant = {(row["query_id"], row["doc_id"]) for row in qrels if row["relevance"] > 0}
    given = {row["query_id"]: row for row in _rows(name)}
    assert 30 <= len(lists) <= MOST_QUERIES
    for row in lists:
        ids = [one["doc_id"] for one in row["candidates"]]
        assert ids == [one["doc_id"] for one in given[row["query_id"]]["candidates"]][:CANDIDATES]
        assert any((row["query_id"], doc_id) in relevant for doc_id in ids)
        assert max(len(one["text"].split()) for one in row["candidates"]) <= max(WORDS, 1)
        assert [one["rank"] for one in row["candidates"]] == [
            one["rank"] for one in given[row["query_id"]]["candidates"][:CANDIDATES]
        ]


@beside
def test_every_collection_whose_lists_can_be_cut_is_there() -> None:
    long = {"clipper_chapters", "locomo_sessions", "locomo_turns", "policyqa", "xquad_long"}
    there = {folder.name for folder in COLLECTIONS.iterdir() if (folder / "candidates.parquet").exists()}
    assert set(NAMES) == there - long


def _rows(name: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = parquet_table((COLLECTIONS / name / "candidates.parquet").read_bytes()).to_pylist()
    return rows
