"""Qualities of every way to order judged lists, and their comparison."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean

import pytest

from pipelines.training import orders, ranking_study
from pipelines.training.claims import relation
from pipelines.training.findings import Interval, ListQuality
from pipelines.training.judged import JudgedList, JudgedSet
from pipelines.training.ranking_study import comparisons, list_qualities
from qrcore import Document, load_scorer
from qrcore.heads import Head, head_set_from_list
from tests.pipelines.training.collection import DEV_IDS, PlantedScorer, plain_rows, planted, ranked_rows, read

MODEL = "embedded"


def ndcg_of_one(ranking: list[str], relevant: str) -> float:
    return 1 / math.log2(ranking.index(relevant) + 2)


def by_method(found: tuple[ListQuality, ...]) -> dict[str, ListQuality]:
    return {entry.method: entry for entry in found}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> JudgedSet:
    return read(tmp_path_factory.mktemp("plain"), plain_rows())


def test_heads_are_measured_on_what_a_scorer_ranks(plain: JudgedSet) -> None:
    found = by_method(list_qualities(MODEL, plain, "test"))
    assert list(found) == ["random", "BM25", "all heads", "heads"]
    scorer = load_scorer(MODEL)
    for entry in plain.part("test"):
        ranking = [d.doc_id for d in scorer.rank(entry.query, entry.documents).documents]
        expected = ndcg_of_one(ranking, f"d{entry.query_id[1:]}")
        assert found["heads"].per_query[entry.query_id] == pytest.approx(expected)
    heads = found["heads"]
    assert (heads.name, heads.part, heads.queries, heads.too_long) == ("facts", "test", 6, 0)
    assert heads.ndcg_10.mean == pytest.approx(fmean(heads.per_query.values()))
    assert heads.ndcg_10.low <= heads.ndcg_10.mean <= heads.ndcg_10.high
    assert heads.recall_1.mean == fmean(value == 1.0 for value in heads.per_query.values())
    assert heads.ndcg_10.mean > found["random"].ndcg_10.mean + 0.1
    assert found["BM25"].ndcg_10.mean == 1.0, "every question shares its rare words with its text alone"


def test_a_random_order_has_the_expected_quality(plain: JudgedSet) -> None:
    lists = [planted(f"q{number}", "gold", "a", "b", "c") for number in range(60)]
    measured = orders.random_quality(lists, seed=0)
    expected = fmean(1 / math.log2(rank + 1) for rank in range(1, 5))
    assert fmean(measured.ndcg_10.values()) == pytest.approx(expected, abs=0.02)
    assert fmean(measured.recall_1.values()) == pytest.approx(0.25, abs=0.03)
    assert orders.random_quality(lists, seed=0) == measured
    assert orders.random_quality(lists, seed=1) != measured


def number_of(doc_id: str) -> int:
    return int(doc_id[1:])


def fused_by_hand(first: list[str], second: list[str]) -> list[str]:
    gain = {doc_id: 1 / (60 + place) for place, doc_id in enumerate(first, start=1)}
    for place, doc_id in enumerate(second, start=1):
        gain[doc_id] += 1 / (60 + place)
    return sorted(first, key=lambda doc_id: -gain[doc_id])


def test_a_first_stage_stands_in_for_bm25_and_is_fused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The chosen head likes high numbers; with the other one, which counts twice as much, low ones win.
    def liking(query: str, doc_id: str, head: Head) -> float:
        return number_of(doc_id) if head == Head(0, 0) else -2.0 * number_of(doc_id)

    chosen, every = (PlantedScorer(liking, head_set_from_list(heads)) for heads in ("0-0", "0-0,0-1"))
    monkeypatch.setattr(ranking_study, "open_scorer", lambda _, heads=None, device="": every if heads else chosen)
    found = by_method(list_qualities(MODEL, read(tmp_path, ranked_rows()), "dev"))
    assert list(found) == ["random", "first stage", "all heads", "heads", "fused"]
    by_rank = {row["query_id"]: [c["doc_id"] for c in row["candidates"]] for row in ranked_rows()}
    assert set(found["fused"].per_query) == set(DEV_IDS)
    for query_id in DEV_IDS:
        first = by_rank[query_id]
        rising = sorted(first, key=number_of)
        orders_by_hand = {
            "first stage": first,
            "all heads": rising,
            "heads": rising[::-1],
            "fused": fused_by_hand(first, rising[::-1]),
        }
        for method, order in orders_by_hand.items():
            expected = ndcg_of_one(order, f"d{number_of(query_id)}")
            assert found[method].per_query[query_id] == pytest.approx(expected), (method, query_id)
    means = {round(one.ndcg_10.mean, 6) for method, one in found.items() if method != "random"}
    assert len(means) == 4, "no method could stand for another"


def test_fusion_is_by_reciprocal_rank() -> None:
    fused = orders.fused_order({"q": ["a", "b", "c", "d"]}, {"q": ["d", "b", "a", "c"]})
    by_hand = {"a": 1 / 61 + 1 / 63, "b": 1 / 62 + 1 / 62, "c": 1 / 63 + 1 / 64, "d": 1 / 64 + 1 / 61}
    assert fused == {"q": sorted(by_hand, key=lambda doc_id: -by_hand[doc_id])}


def test_bm25_counts_words_in_all_lists() -> None:
    texts = {"d1": "bees bees fly", "d2": "the bridge of stone", "d3": "bees and a bridge", "d4": "salt"}
    documents = tuple(Document(doc_id=doc_id, text=text) for doc_id, text in texts.items())
    lists = [JudgedList("q1", "a stone bridge", documents, {"d2": 1}), JudgedList("q2", "zzz", documents, {"d4": 1})]
    order = orders.bm25_order(lists)
    assert order["q1"][:2] == ["d2", "d3"]
    assert order["q2"] == ["d1", "d2", "d3", "d4"], "nothing matches: as given"


def test_lists_beyond_the_limit_count_in_the_order_given() -> None:
    long = planted("q1", "gold", "filler", *(f"other{n}" for n in range(3)))
    long = JudgedList(
        long.query_id, long.query, tuple(Document(d.doc_id, "word " * 9000) for d in long.documents), {"gold": 1}
    )
    short = planted("q2", "gold", "a")
    order, too_long = orders.scorer_order([long, short], load_scorer(MODEL))
    assert too_long == 1
    assert order["q1"] == ["filler", "other0", "other1", "other2", "gold"]
    assert sorted(order["q2"]) == ["a", "gold"]


def test_equal_scores_stay_in_prompt_order() -> None:
    scorer = PlantedScorer(lambda query, doc_id, head: float(doc_id == "gold"), head_set_from_list("0-0"))
    order, _ = orders.scorer_order([planted("q", "gold", "z", "a", "m")], scorer)  # type: ignore[arg-type]
    assert order == {"q": ["gold", "z", "a", "m"]}


def quality_of(name: str, method: str, *values: float) -> ListQuality:
    per_query = {f"q{number}": value for number, value in enumerate(values)}
    nothing = Interval(0.0, 0.0, 0.0)
    return ListQuality(name, "test", method, len(values), 0, nothing, nothing, per_query)


def test_methods_are_compared_query_by_query() -> None:
    found = comparisons(
        [
            quality_of("a", "heads", *[0.9, 0.5] * 20),
            quality_of("a", "BM25", *[0.8, 0.4] * 20),
            quality_of("b", "heads", *[1.0, 0.0] * 20),
            quality_of("b", "first stage", *[0.0, 1.0] * 20),
            quality_of("b", "fused", *[0.3, 0.5] * 20),
            quality_of("b", "all heads", *[1.0, 0.0] * 20),
        ]
    )
    assert [(c.name, c.better, c.worse) for c in found] == [
        ("a", "heads", "BM25"),
        ("b", "heads", "first stage"),
        ("b", "fused", "first stage"),
        ("b", "heads", "all heads"),
    ]
    assert found[0].difference.mean == pytest.approx(0.1)
    assert relation(found[0].difference) == "above"
    assert found[0].difference.high - found[0].difference.low < 1e-9, "paired: every query differs by as much"
    assert relation(found[1].difference) == "not distinguishable from"
    assert found[2].difference.mean == pytest.approx(-0.1)
    assert found[3].difference == Interval(0.0, 0.0, 0.0)


def test_a_part_without_lists_has_no_qualities(plain: JudgedSet) -> None:
    dev_only = JudgedSet("facts", plain.part("dev"), ranked=False)
    assert list_qualities(MODEL, dev_only, "test") == ()
