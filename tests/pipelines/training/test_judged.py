"""Judged lists: what is read, what is left out, the prompt order, and the split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.python_docs import load_questions
from pipelines.schemas import QRELS_SCHEMA
from pipelines.training.judged import ANSWERS_SCHEMA, JudgedList, JudgedSet, read_judged_set
from qrcore.errors import InputError
from tests.pipelines.training.collection import DEV_IDS, TEST_IDS, candidate, plain_rows, ranked_rows, read
from tests.shards import write_shard

QUESTIONS = Path(__file__).parents[2] / "data" / "python_docs_questions.jsonl"


def one_list(query_id: str) -> JudgedList:
    return JudgedList(query_id, "query", (), {})


def test_lists_come_as_stored_with_relevance_and_answers(tmp_path: Path) -> None:
    judged = read(tmp_path, plain_rows())
    assert judged.name == "facts"
    assert not judged.ranked
    assert len(judged.lists) == 12
    for entry, row in zip(judged.lists, plain_rows(), strict=True):
        assert (entry.query_id, entry.query) == (row["query_id"], row["query"])
        assert [d.doc_id for d in entry.documents] == [c["doc_id"] for c in row["candidates"]]
        gold = f"d{entry.query_id[1:]}"
        assert entry.relevance == {gold: 1}
        assert [entry.documents[place - 1].doc_id for place in entry.relevant_places] == [gold]
    assert judged.lists[2].answers == ("Telford",)
    assert read(tmp_path, plain_rows(), answers=False).lists[2].answers == ()


def test_the_split_is_by_the_hash_of_the_query_id(tmp_path: Path) -> None:
    judged = read(tmp_path, plain_rows())
    assert tuple(entry.query_id for entry in judged.part("dev")) == DEV_IDS
    assert tuple(entry.query_id for entry in judged.part("test")) == TEST_IDS
    share = sum(one_list(f"query {number}").is_dev for number in range(2000)) / 2000
    assert 0.37 < share < 0.43


def test_the_split_of_the_questions_file_is_the_same() -> None:
    questions = load_questions(QUESTIONS)
    assert {question.split for question in questions} == {"dev", "test"}
    for question in questions:
        assert one_list(question.query_id).is_dev == (question.split == "dev"), question.query_id


def test_ranked_candidates_keep_their_rank_and_stand_in_a_hashed_order(tmp_path: Path) -> None:
    rows = ranked_rows(size=6)
    judged = read(tmp_path, rows)
    assert judged.ranked
    moved = 0
    for entry, row in zip(judged.lists, rows, strict=True):
        assert {d.doc_id: d.rank for d in entry.documents} == {c["doc_id"]: c["rank"] for c in row["candidates"]}
        moved += sum(d.rank != place for place, d in enumerate(entry.documents, start=1))
    assert moved > 40, "nearly every document stands elsewhere"
    assert read(tmp_path, rows) == judged
    assert read(tmp_path, [{**row, "candidates": row["candidates"][::-1]} for row in rows]) == judged


def test_scores_alone_are_a_first_stage_too(tmp_path: Path) -> None:
    scored = [{**candidate(topic), "score": score} for topic, score in ((1, 0.5), (0, 2.5), (2, 1.5))]
    judged = read(tmp_path, [{"query_id": "q0", "query": "When?", "candidates": scored}])
    assert judged.ranked
    assert {d.doc_id: d.rank for d in judged.lists[0].documents} == {"d0": 1, "d2": 2, "d1": 3}


@pytest.mark.parametrize(
    "known",
    [
        ({"score": 0.5}, {}, {"score": 1.5}),
        ({"rank": 1}, {}, {"rank": 2}),
        ({"score": 0.5}, {"score": 2.5, "rank": 1}, {"score": 1.5}),
    ],
)
def test_half_an_order_is_none(known: tuple[dict[str, Any], ...], tmp_path: Path) -> None:
    half = [{**candidate(topic), **more} for topic, more in zip((1, 0, 2), known, strict=True)]
    judged = read(tmp_path, [{"query_id": "q0", "query": "When?", "candidates": half}])
    assert not judged.ranked
    assert [d.doc_id for d in judged.lists[0].documents] == ["d1", "d0", "d2"]


def test_lists_without_a_relevant_document_are_left_out(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"query_id": "q0", "query": "When?", "candidates": [candidate(0), candidate(1)]},
        {"query_id": "q1", "query": "Who?", "candidates": [candidate(0), candidate(2)]},
        {"query_id": "q2", "query": "Who?", "candidates": []},
    ]
    assert [entry.query_id for entry in read(tmp_path, rows).lists] == ["q0"]
    with pytest.raises(InputError, match="got 1 lists and none with one"):
        read(tmp_path, rows[1:])


def test_relevance_of_zero_is_none_and_missed_documents_are_known(tmp_path: Path) -> None:
    lists = write_shard(tmp_path / "lists.parquet", plain_rows()[:1])
    grades = {"d0": 2, "d50": 1, **{c["doc_id"]: 0 for c in plain_rows()[0]["candidates"] if c["doc_id"] != "d0"}}
    rows = [{"query_id": "q0", "doc_id": doc_id, "relevance": grade} for doc_id, grade in grades.items()]
    qrels = write_shard(tmp_path / "qrels.parquet", rows, QRELS_SCHEMA)
    (entry,) = read_judged_set("facts", [str(lists)], str(qrels)).lists
    assert entry.relevance == {"d0": 2}
    assert entry.missed == {"d50"}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([*plain_rows()[:1], *plain_rows()[:1]], "each query_id once, got 'q0' twice"),
        ([{**plain_rows()[0], "query": " "}], "row 0: query: expected text"),
        ([{**plain_rows()[0], "candidates": [candidate(0), candidate(0)]}], "expected each doc_id once"),
    ],
)
def test_rows_that_break_the_contract_are_refused(rows: list[dict[str, Any]], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        read(tmp_path, rows)


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    lists = write_shard(tmp_path / "lists.parquet", plain_rows())
    qrels = write_shard(tmp_path / "q" / "qrels.parquet", [], QRELS_SCHEMA)
    with pytest.raises(InputError, match="expected an input shard"):
        read_judged_set("facts", [str(qrels)], str(qrels))
    with pytest.raises(InputError, match="'answers' is missing"):
        read_judged_set("facts", [str(lists)], str(qrels), str(qrels))
    (tmp_path / "no.parquet").write_bytes(b"no")
    with pytest.raises(InputError, match="expected Parquet"):
        read_judged_set("facts", [str(tmp_path / "no.parquet")], str(qrels))


def test_the_hash_is_of_the_content_wherever_it_lies(tmp_path: Path) -> None:
    rows = plain_rows()
    whole = read(tmp_path / "one", rows)
    assert read(tmp_path / "two", rows).hash == whole.hash
    first, *others = whole.lists[0].documents
    changed = [
        replace(whole, name="others"),
        replace(whole, ranked=True),
        replace(whole, lists=whole.lists[::-1]),
        _with(whole, query_id="q99"),
        _with(whole, query="Else?"),
        _with(whole, documents=(*others, first)),
        *(
            _with(whole, documents=(replace(first, **change), *others))
            for change in ({"doc_id": "d99"}, {"title": "Else"}, {"text": "Else."}, {"rank": 2})
        ),
        _with(whole, relevance={"d0": 2}),
        _with(whole, answers=("1924",)),
        _with(whole, missed=frozenset({"d99"})),
    ]
    assert len({whole.hash, *(judged.hash for judged in changed)}) == len(changed) + 1


def _with(judged: JudgedSet, **changes: Any) -> JudgedSet:
    return replace(judged, lists=(replace(judged.lists[0], **changes), *judged.lists[1:]))


def test_answers_of_blanks_are_none(tmp_path: Path) -> None:
    lists = write_shard(tmp_path / "lists.parquet", plain_rows()[:1])
    qrels = write_shard(
        tmp_path / "q" / "qrels.parquet", [{"query_id": "q0", "doc_id": "d0", "relevance": 1}], QRELS_SCHEMA
    )
    rows = [{"query_id": "q0", "answers": [" 1923", "", " ", None]}, {"query_id": "q1", "answers": None}]
    answers = write_shard(tmp_path / "a" / "answers.parquet", rows, ANSWERS_SCHEMA)
    judged = read_judged_set("facts", [str(lists)], str(qrels), str(answers.parent))
    assert judged.lists[0].answers == ("1923",)
