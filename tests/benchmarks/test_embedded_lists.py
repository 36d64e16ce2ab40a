"""The judged lists of the embedded model, as files: of small collections made here, and of those beside the
repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.schemas import QRELS_SCHEMA
from pipelines.training.judged import ANSWERS_SCHEMA, JudgedSet, read_judged_set
from pipelines.units import parquet_table
from tests.benchmarks import embedded_lists
from tests.benchmarks.embedded_lists import BUILDERS, COLLECTIONS, build, write
from tests.shards import write_shard

beside = pytest.mark.skipif(not COLLECTIONS.is_dir(), reason="the collections are not part of the repository")


def written(name: str, folder: Path) -> JudgedSet:
    write(build(name), folder)
    answers = folder / "answers.parquet"
    return read_judged_set(
        name, [str(folder / "lists.parquet")], str(folder / "qrels.parquet"), str(answers) if answers.exists() else None
    )


@beside
def test_xquad_is_the_gold_paragraph_four_neighbours_and_five_others(tmp_path: Path) -> None:
    judged = written("xquad-10", tmp_path)
    assert len(judged.lists) == 100
    assert not judged.ranked
    rows = parquet_table((COLLECTIONS / "xquad_long" / "candidates.parquet").read_bytes()).to_pylist()
    place = {c["doc_id"]: number for number, c in enumerate(rows[0]["candidates"])}
    for entry in judged.lists:
        assert len({d.doc_id for d in entry.documents}) == 10
        (gold,) = entry.relevance
        around = sorted(place, key=lambda doc_id: (abs(place[doc_id] - place[gold]), place[doc_id]))[:5]
        assert set(around) <= {d.doc_id for d in entry.documents}
        assert entry.answers
    assert len({entry.relevant_places for entry in judged.lists}) == 10, "the gold stands anywhere"


@beside
def test_scifact_is_cut_to_100_words_and_has_no_answers(tmp_path: Path) -> None:
    judged = written("scifact-10", tmp_path)
    assert len(judged.lists) == 247
    assert max(len(d.text.split()) for entry in judged.lists for d in entry.documents) == 100
    assert not (tmp_path / "answers.parquet").exists()


@beside
def test_python_docs_keep_their_first_stage(tmp_path: Path) -> None:
    judged = written("python-docs", tmp_path)
    assert judged.ranked
    assert max(d.rank or 0 for entry in judged.lists for d in entry.documents) == 10
    assert sum(entry.is_dev for entry in judged.lists) >= 30


@beside
@pytest.mark.parametrize(("name", "queries", "relevant"), [("nq-10", 299, 1), ("hotpotqa-10", 300, 2)])
def test_lists_of_ten_whole_texts(name: str, queries: int, relevant: int, tmp_path: Path) -> None:
    judged = written(name, tmp_path)
    assert len(judged.lists) == queries
    assert not judged.ranked
    for entry in judged.lists:
        assert len({d.doc_id for d in entry.documents}) == 10
        assert len(entry.relevance) == relevant
        assert entry.answers
    assert {place for entry in judged.lists for place in entry.relevant_places} == set(range(1, 11))
    words = [len(d.text.split()) for entry in judged.lists for d in entry.documents]
    assert max(words) > 150, "whole"


@beside
def test_twenty_paragraphs_are_cut_or_whole(tmp_path: Path) -> None:
    whole, cut = written("xquad-20", tmp_path / "whole"), written("xquad-20-short", tmp_path / "cut")
    assert len(whole.lists) == len(cut.lists) == 100
    for one, other in zip(whole.lists, cut.lists, strict=True):
        assert [d.doc_id for d in one.documents] == [d.doc_id for d in other.documents]
        assert len(one.documents) == 20
        for long, short in zip(one.documents, other.documents, strict=True):
            assert short.text.split() == long.text.split()[:100]


def test_the_lists_are_those_of_the_table() -> None:
    assert list(BUILDERS) == [
        *("xquad-10", "nq-10", "hotpotqa-10", "scifact-10", "xquad-20-short", "xquad-20", "python-docs")
    ]  # fmt: skip


# Small collections

LONG = "word " * 150


def candidate(doc_id: str, rank: int) -> dict[str, Any]:
    return {"doc_id": doc_id, "title": f"Title {doc_id}", "text": f"{LONG}{doc_id}", "score": 9.0 - rank, "rank": rank}


def collection(
    folder: Path, monkeypatch: pytest.MonkeyPatch, lists: dict[str, list[str]], qrels: dict[str, dict[str, int]]
) -> None:
    """A collection in its files: doc_ids by query_id, best first, and the judgements."""
    rows = [
        {"query_id": query_id, "query": f"query {query_id}", "candidates": [
            candidate(doc_id, rank) for rank, doc_id in enumerate(doc_ids, start=1)
        ]}
        for query_id, doc_ids in lists.items()
    ]  # fmt: skip
    judged = [
        {"query_id": query_id, "doc_id": doc_id, "relevance": grade}
        for query_id, grades in qrels.items()
        for doc_id, grade in grades.items()
    ]
    answers = [{"query_id": query_id, "answers": [f"answer {query_id}"]} for query_id in lists]
    write_shard(folder / "candidates.parquet", rows)
    write_shard(folder / "qrels.parquet", judged, QRELS_SCHEMA)
    write_shard(folder / "answers.parquet", answers, ANSWERS_SCHEMA)
    monkeypatch.setattr(embedded_lists, "COLLECTIONS", folder.parent)


def nq_collection(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Thirty queries of eight candidates: the gold at any rank, a second relevant one at rank 7, and one that is a
    candidate of the query before alone. The gold of one more query is a candidate of another query alone."""
    lists, qrels = {}, {}
    for number in range(30):
        own = [f"n{number}-{place}" for place in range(6)]
        own.insert(number % 5, f"gold{number}")
        own.insert(6, f"second{number}")
        lists[f"nq{number}"] = own
        missed = lists[f"nq{number - 1}"][-1] if number else "nowhere"
        qrels[f"nq{number}"] = {f"gold{number}": 1, f"second{number}": 1, missed: 1, own[number % 5 - 1]: 0}
    lists["nq30"], qrels["nq30"] = [f"n30-{place}" for place in range(6)], {"n3-2": 1}
    collection(folder, monkeypatch, lists, qrels)
    return lists


def test_nq_is_the_gold_the_four_best_others_and_five_of_the_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = nq_collection(tmp_path / "nq_pool", monkeypatch)
    judged = written("nq-10", tmp_path / "built")
    assert [entry.query_id for entry in judged.lists] == list(lists)
    pool = {doc_id for doc_ids in lists.values() for doc_id in doc_ids}
    for number, entry in enumerate(judged.lists):
        shown = {d.doc_id for d in entry.documents}
        own = lists[entry.query_id]
        gold = f"gold{number}" if number < 30 else "n3-2"
        hard = [doc_id for doc_id in own if not doc_id.startswith(("gold", "second"))][:4]
        assert len(shown) == len(entry.documents) == 10
        assert {gold, *hard} < shown <= pool
        assert set(entry.relevance) == {gold}, "no other relevant one among the five"
        assert f"second{number}" not in shown
        assert entry.answers == (f"answer {entry.query_id}",)
        assert [(d.title, d.text) for d in entry.documents] == [
            (f"Title {d.doc_id}", f"{LONG}{d.doc_id}") for d in entry.documents
        ]
    others = {d.doc_id for entry in judged.lists for d in entry.documents if d.doc_id not in lists[entry.query_id]}
    assert len(others) > 60, "drawn anew for each query"


def test_neither_place_nor_rank_tells_the_gold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nq_collection(tmp_path / "nq_pool", monkeypatch)
    judged = written("nq-10", tmp_path / "built")
    assert len({entry.relevant_places for entry in judged.lists}) >= 8
    assert not judged.ranked
    assert all(d.score is None and d.rank is None for entry in judged.lists for d in entry.documents)
    again = written("nq-10", tmp_path / "again")
    assert again == judged


def test_hotpotqa_is_the_first_ten_paragraphs_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = {f"h{number}": [f"h{number}/{place}" for place in range(12)] for number in range(20)}
    qrels = {query_id: {doc_ids[number % 10]: 1, doc_ids[11]: 1, doc_ids[(number + 3) % 10]: 2}
             for number, (query_id, doc_ids) in enumerate(lists.items())}  # fmt: skip
    collection(tmp_path / "hotpotqa", monkeypatch, lists, qrels)
    judged = written("hotpotqa-10", tmp_path / "built")
    assert [entry.query_id for entry in judged.lists] == list(lists)
    for number, entry in enumerate(judged.lists):
        own = lists[entry.query_id]
        assert sorted(d.doc_id for d in entry.documents) == sorted(own[:10])
        assert entry.relevance == {own[number % 10]: 1, own[(number + 3) % 10]: 2}
        assert entry.missed == {own[11]}
        assert entry.answers == (f"answer {entry.query_id}",)
        assert all(d.text == f"{LONG}{d.doc_id}" and d.rank is None for d in entry.documents)
    assert len({entry.relevant_places[0] for entry in judged.lists}) >= 4
    assert not judged.ranked
