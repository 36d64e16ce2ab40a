"""Ranks inside a domain: exact shares, ties, lengths; the slim rows that meet there; the page. No Ray."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.influence.page import influence_page
from pipelines.influence.ranking import (
    RANKED_SCHEMA,
    RankingSettings,
    _rank_group,
    _slim_rows,
    chosen_count,
    rank_correlation,
    ranked_domain,
)
from pipelines.influence.rows import influence_row, influence_table
from pipelines.rows import Source
from pipelines.storage import StorageOptions
from qrcore.contracts.influence import DocumentInfluence
from qrcore.errors import ScoreError


def _documents(influences: list[float], tokens: list[int] | None = None) -> pa.Table:
    count = len(influences)
    return pa.table(
        {
            "doc_id": [f"d{place:03}" for place in range(count)],
            "n_tokens": tokens or [100] * count,
            "influence": influences,
            "uri": ["f"] * count,
            "row": list(range(count)),
        }
    )


@pytest.mark.parametrize(
    ("documents", "fraction", "count"),
    [(5, 0.2, 1), (6, 0.2, 2), (15, 0.2, 3), (1, 0.2, 1), (10, 1.0, 10), (30, 0.1, 3)],
)
def test_the_top_share_is_exact_and_rounded_up(documents: int, fraction: float, count: int) -> None:
    assert chosen_count(documents, fraction) == count


def test_ties_go_by_doc_id_whatever_the_order_of_rows() -> None:
    table = _documents([0.5, 0.9, 0.5, 0.1, 0.5])
    order = list(range(5))
    for seed in range(5):
        random.Random(seed).shuffle(order)
        ranked = ranked_domain(table.take(order), 0.4)
        assert ranked.documents["doc_id"].to_pylist() == ["d001", "d000", "d002", "d004", "d003"]
        assert ranked.rank.tolist() == [1, 2, 3, 4, 5]
        assert ranked.selected.tolist() == [True, True, False, False, False]
        assert ranked.percentile.tolist() == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3]), min_size=1, max_size=60), st.sampled_from([0.05, 0.2, 0.5, 1.0]))
def test_nobody_left_out_scores_higher_than_anyone_selected(influences: list[float], fraction: float) -> None:
    ranked = ranked_domain(_documents(influences), fraction)
    values = ranked.documents["influence"].to_numpy()
    assert ranked.selected.sum() == chosen_count(len(influences), fraction)
    if not ranked.selected.all():
        assert values[ranked.selected].min() >= values[~ranked.selected].max()


def test_by_length_every_length_gets_its_share() -> None:
    # Long documents score higher throughout: all selected ones are long, by length they are not.
    tokens = [10 + place for place in range(40)]
    ranked = ranked_domain(_documents([place / 40 for place in range(40)], tokens), 0.25)
    chosen = np.array(ranked.documents["n_tokens"].to_pylist())
    assert sorted(chosen[ranked.selected]) == list(range(40, 50))
    groups = [range(10, 20), range(20, 30), range(30, 40), range(40, 50)]
    for group in groups:
        of_group = [int(length) for length in chosen[ranked.by_length] if length in group]
        assert sorted(of_group) == list(group)[-3:], "the top quarter of ten, rounded up"


def test_rank_correlation_takes_the_mean_rank_of_ties() -> None:
    assert rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([10, 20, 40])) == pytest.approx(1.0)
    assert rank_correlation(np.array([1.0, 2.0, 3.0, 4.0]), np.array([4, 3, 3, 1])) == pytest.approx(-0.9486833)
    assert rank_correlation(np.array([1.0, 1.0]), np.array([1, 2])) is None


# From units to ranks


def _influence(value: float, tokens: int = 10, noise: float | None = 1e-7) -> DocumentInfluence:
    return DocumentInfluence(tokens, tokens, 1, 2.0, 2.0 + 2 * value, value, (value / 2, 0.0), 0.25, noise)


def _unit(folder: Path, name: str, rows: list[tuple[str | None, str | None, Any]]) -> None:
    table = influence_table([influence_row(*row, Source("in.parquet", place)) for place, row in enumerate(rows)])
    (folder / "data").mkdir(exist_ok=True)
    pq.write_table(table, folder / "data" / f"{name}.parquet")


def test_domains_are_ranked_apart_and_errors_and_no_domain_are_not_lost_or_mixed(tmp_path: Path) -> None:
    problem = ScoreError("empty_document", "text: none", stage="validate")
    _unit(tmp_path, "u1", [("a", "web", _influence(0.5)), ("b", None, _influence(0.1)), ("c", "web", problem)])
    _unit(tmp_path, "u2", [("d", "none", _influence(0.3, noise=None)), ("e", "web", _influence(0.7, 30))])
    settings = RankingSettings(str(tmp_path), "commit/x/ranked", StorageOptions(), 0.5)
    slim = _slim_rows(pa.table({"unit_id": ["u1", "u2"]}), settings)
    assert sorted(slim["doc_id"].to_pylist()) == ["a", "b", "d", "e"]
    summaries = {}
    for key in set(slim["domain_key"].to_pylist()):
        group = slim.filter(pa.compute.equal(slim["domain_key"], key))
        (told,) = (json.loads(one) for one in _rank_group(group, settings)["summary"].to_pylist())
        summaries[told["domain"]] = told
    assert set(summaries) == {"web", None, "none"}, "a domain called none is not no domain"
    web = summaries["web"]
    assert (web["documents"], web["selected"], web["cut"]) == (2, 1, pytest.approx(0.7))
    assert web["control_means"] == pytest.approx([0.3, 0.0]) and web["largest_noise"] == pytest.approx(1e-7)
    assert (web["tokens_all"], web["tokens_selected"], web["length_correlation"]) == (20, 30, pytest.approx(1.0))
    assert summaries["none"]["largest_noise"] is None
    table = pq.read_table(tmp_path / web["path"])
    assert table.schema.equals(RANKED_SCHEMA)
    assert table.select(["doc_id", "rank", "selected"]).to_pylist() == [
        {"doc_id": "e", "rank": 1, "selected": True},
        {"doc_id": "a", "rank": 2, "selected": False},
    ]
    assert table["source"].to_pylist()[1] == {"uri": "in.parquet", "row": 0}
    page = influence_page(_report(list(summaries.values())))
    assert "no domain" in page and page.count("<svg") == 3 and "1 failed row" in page


def test_a_page_without_documents_says_so() -> None:
    assert "No document could be scored" in influence_page(_report([]))


def _report(domains: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "run": {"run_id": "influence-1", "job": "influence", "name": "influence", "output": "out", "tokens": 50},
        "result": {"rows": 5, "scored": 4, "failed": 1},
        "failed": {"empty_document": 1},
        "domains": domains,
        "provenance": {
            "head_set": {"id": "embedded@1"},
            "settings": {"mask_mode": "uniform", "mask_scope": "all"},
            "fraction": 0.5,
            "warnings": ["heads were found for another model"],
        },
    }
