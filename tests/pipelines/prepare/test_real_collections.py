"""Recipes on real texts give the very pieces and judgements of the collections that stand beside the repository.

Rows are made of these collections in the form in which they are published. The folder is
:data:`tests.benchmarks.embedded_lists.COLLECTIONS`, or the one that ``QRBATCH_COLLECTIONS`` names; what is not there is
skipped.
"""

from __future__ import annotations

import json
import os
import re
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from pipelines.prepare import recipes
from pipelines.prepare.recipes import Tools
from pipelines.prepare.records import Piece, Prepared, shard_row
from pipelines.prepare.splitters import SplitSettings, make_splitter
from pipelines.prepare.tables import Bm25Candidates, index_corpus, load_corpus
from pipelines.storage import StorageOptions
from qrcore.counting import TextTokenizer
from qrcore.splitting import rebuild
from tests.benchmarks.embedded_lists import COLLECTIONS, JudgedRows, read_collection

FOLDER = Path(os.environ.get("QRBATCH_COLLECTIONS", COLLECTIONS))


def collection(name: str) -> JudgedRows:
    if not (FOLDER / name / "candidates.parquet").is_file():
        pytest.skip(f"{name} is not in {FOLDER}")
    return read_collection(name, FOLDER)


def made(name: str, row: dict[str, Any], **tools: Any) -> list[Prepared]:
    found = list(recipes.recipe(name).prepare(row, Tools(**tools)))
    for one in found:
        shard_row(one, ())  # what no job could read is refused here
    return found


def texts(candidates: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(one["doc_id"], one["title"], one["text"]) for one in candidates]


def shown(pieces: Any) -> list[tuple[Any, ...]]:
    return [(one.doc_id, one.title, one.text) for one in pieces]


def relevant(judged: dict[str, int]) -> set[str]:
    return {name for name, relevance in judged.items() if relevance > 0}


@pytest.mark.parametrize(("name", "recipe"), [("hotpotqa", "hotpotqa"), ("2wikimultihopqa", "wikimultihop")])
def test_questions_over_paragraphs(name: str, recipe: str) -> None:
    real = collection(name)
    for row in real.lists[:40]:
        judged = relevant(real.qrels[row["query_id"]])
        source = {
            "_id": row["query_id"],
            "question": row["query"],
            "context": [[one["title"], [one["text"]]] for one in row["candidates"]],
            "supporting_facts": [[one["title"], 0] for one in row["candidates"] if one["doc_id"] in judged],
            "answer": real.answers[row["query_id"]][0],
        }
        (one,) = made(recipe, source)
        assert shown(one.pieces) == texts(row["candidates"])
        assert set(one.gold or ()) == judged and one.answers == tuple(real.answers[row["query_id"]][:1])


def test_musique_paragraphs_are_those_of_2wiki() -> None:
    """MuSiQue itself is not there; its form is filled with real paragraphs of like ones."""
    real = collection("2wikimultihopqa")
    for row in real.lists[:40]:
        judged = relevant(real.qrels[row["query_id"]])
        paragraphs = [
            {"idx": place, "title": c["title"], "paragraph_text": c["text"], "is_supporting": c["doc_id"] in judged}
            for place, c in enumerate(row["candidates"])
        ]
        (one,) = made("musique", {"id": row["query_id"], "question": row["query"], "paragraphs": paragraphs})
        assert shown(one.pieces) == texts(row["candidates"]) and set(one.gold or ()) == judged


def conversation(candidates: list[dict[str, Any]]) -> dict[str, Any]:
    """LoCoMo's form of turns that are named ``conv-26/D1:3`` and titled ``Caroline, 1:56 pm on 8 May, 2023``."""
    found: dict[str, Any] = {}
    for number, turns in groupby(candidates, key=lambda one: re.search(r"/D(\d+):", one["doc_id"])[1]):  # type: ignore[index]
        said = list(turns)
        found[f"session_{number}_date_time"] = said[0]["title"].split(", ", 1)[1]
        found[f"session_{number}"] = [
            {"speaker": one["title"].split(", ")[0], "dia_id": one["doc_id"].split("/")[1], "text": one["text"]}
            for one in said
        ]
    return found


def locomo() -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """A row in LoCoMo's form for each conversation with its first questions, and what these are in the collection."""
    real = collection("locomo_turns")
    rows = []
    for sample_id, asked in groupby(real.lists, key=lambda row: row["query_id"].split("/")[0]):
        several = list(asked)[:8]
        qa = [
            {
                "question": row["query"],
                "answer": real.answers[row["query_id"]][0],
                "evidence": ["; ".join(one.split("/")[1] for one in sorted(relevant(real.qrels[row["query_id"]])))],
                "category": 1,
            }
            for row in several
        ]
        rows.append(
            ({"sample_id": sample_id, "conversation": conversation(several[0]["candidates"]), "qa": qa}, several)
        )
    return rows


def test_a_conversation_in_turns() -> None:
    real = collection("locomo_turns")
    rows = locomo()
    assert len(rows) == 5
    for source, asked in rows:
        for one, row in zip(made("locomo", source), asked, strict=True):
            assert shown(one.pieces) == texts(row["candidates"])
            assert set(one.gold or ()) == relevant(real.qrels[row["query_id"]])


def test_a_conversation_in_sessions() -> None:
    sessions = {row["query_id"]: row["candidates"] for row in collection("locomo_sessions").lists}
    seen = 0
    for source, asked in locomo():
        for one, row in zip(made("locomo", source, granularity="coarse"), asked, strict=True):
            if row["query_id"] not in sessions:
                continue
            expected = [(c["title"], c["text"].rstrip("\n")) for c in sessions[row["query_id"]]]
            assert [(piece.title, piece.text.rstrip("\n")) for piece in one.pieces] == expected
            seen += 1
    assert seen


def books() -> list[tuple[dict[str, Any], dict[str, int]]]:
    """A query with its chapters for each book of CLIPPER."""
    real = collection("clipper_chapters")
    firsts = [next(rows) for _, rows in groupby(real.lists, key=lambda row: row["query_id"].split("/")[0])]
    return [(row, real.qrels[row["query_id"]]) for row in firsts]


def test_chapters_given_and_chapters_found() -> None:
    by_pattern = 0
    for row, judged in books():
        chapters = [one["text"] for one in row["candidates"]]
        numbers = sorted(int(name.rsplit("/", 1)[1]) for name in relevant(judged))
        pair = {
            "id": row["query_id"],
            "book_name": row["query_id"].split("/")[0],
            "true_claim": row["query"],
            "false_claim": f"It is not so that {row['query']}",
            "source": f"Chapter {', '.join(map(str, numbers))}",
        }
        true, false = made("clipper", {**pair, "chapters": chapters})
        assert shown(true.pieces) == texts(row["candidates"]) and set(true.gold or ()) == relevant(judged)
        assert (true.group, false.group, false.answers) == (row["query_id"], row["query_id"], ("FALSE",))
        headed = all(re.match(r"CHAPTER [IVXLC]+\b", chapter) for chapter in chapters)
        if not headed or sum(len(re.findall(r"^CHAPTER [IVXLC]+\b", one, re.M)) for one in chapters) != len(chapters):
            continue  # a book whose chapters are headed otherwise
        split = make_splitter(SplitSettings(by="pattern", pattern=r"^CHAPTER [IVXLC]+\b"))
        text = "\n\n".join(chapters)
        found, _ = made("clipper", {**pair, "text": text}, split=split)
        assert [piece.text.rstrip("\n") for piece in found.pieces] == [one.rstrip("\n") for one in chapters]
        assert set(found.gold or ()) == relevant(judged)
        assert whole(found.pieces) == text
        by_pattern += 1
    assert by_pattern >= 3


def whole(pieces: Any) -> str:
    return rebuild((piece.start, piece.text) for piece in pieces)


@pytest.mark.parametrize(
    "split",
    [
        SplitSettings(by="paragraphs"),
        SplitSettings(by="sentences", max_tokens=90),
        SplitSettings(by="tokens", max_tokens=120),
        SplitSettings(by="tokens", max_tokens=120, overlap_tokens=30),
        SplitSettings(by="pattern", pattern=r"\n{2,}", cut="after"),
        SplitSettings(by="none"),
    ],
    ids=lambda one: f"{one.by}-{one.overlap_tokens}",
)
@pytest.mark.parametrize("recipe", ["documents", "text"])
def test_books_are_rebuilt_from_their_pieces(recipe: str, split: SplitSettings) -> None:
    tokenizer = TextTokenizer.load("embedded")
    for row, _ in books()[:2]:
        text = "\n\n".join(one["text"] for one in row["candidates"][:6])
        queries = {"book": [("q1", row["query"]), ("q2", "What happens?")]}
        found = made(recipe, {"document_id": "book", "text": text}, queries=queries, split=make_splitter(split))
        assert [one.query_id for one in found] == ["q1", "q2"]
        pieces: list[Piece] = list(found[0].pieces)
        assert whole(pieces) == text and all(text[one.start : one.stop] == one.text for one in pieces)
        assert (len(pieces) > 20) == (split.by != "none")
        if split.by in ("sentences", "tokens"):
            # A piece alone may come to a token more at each end than it is in the whole text.
            assert max(tokenizer.count_many([one.text for one in pieces])) <= split.max_tokens + 2


def test_a_beir_folder_and_bm25_over_it(tmp_path: Path) -> None:
    real = collection("scifact")
    documents = {one["doc_id"]: one for row in real.lists for one in row["candidates"]}
    lines = [{"_id": name, "title": one["title"], "text": one["text"]} for name, one in documents.items()]
    (tmp_path / "corpus.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    corpus = load_corpus([str(tmp_path / "corpus.jsonl")], {"doc_id": "_id"}, StorageOptions())
    tools: dict[str, Any] = {"corpus": Bm25Candidates(corpus, index_corpus(corpus), 10), "gold": real.qrels}
    shared, found = [], []
    for row in real.lists[:80]:
        (one,) = made("beir", {"query_id": row["query_id"], "query": row["query"]}, only_judged=True, **tools)
        by_id = {piece.doc_id: piece for piece in one.pieces}
        assert all((piece.title, piece.text) == texts([documents[name]])[0][1:] for name, piece in by_id.items())
        assert one.gold == real.qrels[row["query_id"]]
        shared.append(len(set(by_id) & {c["doc_id"] for c in row["candidates"][:10]}) / 10)
        found.append(len(relevant(real.qrels[row["query_id"]]) & set(by_id)) > 0)
    # The lists beside the repository are of another BM25 of the same settings, with stop words and stems of its own.
    assert sum(shared) / len(shared) > 0.8 and sum(found) / len(found) > 0.75
