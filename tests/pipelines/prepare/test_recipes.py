"""What each recipe makes of a row in its collection's form."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.prepare import recipes
from pipelines.prepare.recipes import Tools
from pipelines.prepare.records import Prepared
from pipelines.prepare.splitters import SplitSettings, make_splitter
from qrcore.errors import ConfigError, ScoreError
from qrcore.splitting import rebuild
from tests.pipelines.prepare import samples


def made(name: str, row: dict[str, Any], **tools: Any) -> list[Prepared]:
    return list(recipes.recipe(name).prepare(row, Tools(**tools)))


@pytest.mark.parametrize("row", [samples.HOTPOTQA, samples.HOTPOTQA_COLUMNS])
def test_hotpotqa_in_both_of_its_forms(row: dict[str, Any]) -> None:
    (one,) = made("hotpotqa", row)
    assert (one.query_id, one.query, one.answers) == ("5a7a0693", row["question"], ("Salton",))
    assert [(piece.doc_id, piece.title) for piece in one.pieces] == [
        ("5a7a0693/0", "Ada's canal"),
        ("5a7a0693/1", "Lamp"),
        ("5a7a0693/2", "Salton"),
    ]
    assert one.pieces[0].text == "The canal was built by Ada. It ends at the river."
    assert one.gold == {"5a7a0693/0": 1, "5a7a0693/2": 1}


def test_2wiki_sentences_without_spaces_are_joined_with_some() -> None:
    row = {**samples.HOTPOTQA, "context": [["T", ["One.", "Two."]]], "supporting_facts": []}
    (one,) = made("wikimultihop", row)
    assert (one.pieces[0].text, one.gold) == ("One. Two.", None)


def test_musique_marks_what_supports() -> None:
    (one,) = made("musique", samples.MUSIQUE)
    assert one.gold == {"2hop__13548_13529/1": 1}
    assert (one.answers, one.kind) == (("Bo", "Bo Miller"), "2hop")


def test_longmemeval_rounds_keep_their_dates() -> None:
    (one,) = made("longmemeval", samples.LONGMEMEVAL)
    assert [piece.doc_id for piece in one.pieces] == ["0:s1/1", "0:s1/2", "1:s2/1", "2:s3/1"]
    assert one.pieces[0].text == "user: I bought a kit of a ship.\nassistant: Which one?\n"
    assert one.pieces[2].title == "2023/05/21 (Sun) 10:02"
    assert one.gold == {"0:s1/1": 1, "2:s3/1": 1}
    assert (one.date, one.kind, one.answers) == ("2023/05/30 (Tue) 23:40", "multi-session", ("2",))


def test_longmemeval_sessions_and_gold_without_marked_turns() -> None:
    unmarked = [[{**turn, "has_answer": False} for turn in one] for one in samples.LONGMEMEVAL["haystack_sessions"]]
    (one,) = made("longmemeval", {**samples.LONGMEMEVAL, "haystack_sessions": unmarked}, granularity="coarse")
    assert [piece.doc_id for piece in one.pieces] == ["0:s1/1", "1:s2/1", "2:s3/1"]
    assert one.gold == {"0:s1/1": 1, "2:s3/1": 1}


def test_longmemeval_questions_for_what_was_never_said_have_no_gold() -> None:
    (one,) = made("longmemeval", {**samples.LONGMEMEVAL, "question_id": "gpt4_59c863d7_abs"})
    assert one.gold is None and one.answers == ("2",) and len(one.pieces) == 4


def test_locomo_turns() -> None:
    first, second, adversarial = made("locomo", samples.LOCOMO)
    assert [piece.doc_id for piece in first.pieces] == ["conv-1/D1:1", "conv-1/D1:2", "conv-1/D2:1", "conv-1/D10:1"]
    assert first.pieces[1].title == "Ben, 1:56 pm on 8 May, 2023"
    assert first.pieces[1].text == "Look! [shares a photo of a bridge]"
    assert first.gold == {"conv-1/D1:2": 1, "conv-1/D2:1": 1}
    # Evidence names a turn that does not exist: kept, so that the report can count it.
    assert second.gold == {"conv-1/D1:9": 1}
    assert adversarial.gold is None
    assert [one.query_id for one in (first, second, adversarial)] == ["conv-1/q0", "conv-1/q1", "conv-1/q2"]


def test_locomo_sessions() -> None:
    first, *_ = made("locomo", samples.LOCOMO, granularity="coarse")
    assert [piece.doc_id for piece in first.pieces] == ["conv-1/D1", "conv-1/D2", "conv-1/D10"]
    assert first.gold == {"conv-1/D1": 1, "conv-1/D2": 1}


@pytest.mark.parametrize("chapters", [False, True])
def test_clipper_pairs_over_chapters(chapters: bool) -> None:
    split = make_splitter(SplitSettings(by="pattern", pattern="^CHAPTER"))
    row = dict(samples.CLIPPER)
    if chapters:
        start, end = row["text"].split("\n\n")
        row |= {"text": None, "chapters": [start, end]}
    true, false = made("clipper", row, split=split)
    assert [true.query_id, false.query_id, true.group, false.answers] == ["7/true", "7/false", "7", ("FALSE",)]
    assert [piece.doc_id for piece in true.pieces] == ["mars/1", "mars/2"]
    assert true.gold == false.gold == {"mars/1": 1, "mars/2": 1}


def test_qmsum_spans_are_inclusive_turns() -> None:
    specific, general = made("qmsum", {**samples.QMSUM, "_source": "bed.json:0"})
    assert specific.pieces[2].text == "Chair: Then we wait.\n"
    assert specific.gold == {"bed.json:0/2": 1, "bed.json:0/3": 1}
    assert (general.gold, general.query_id) == (None, "bed.json:0/general-0")


def test_a_document_with_a_table_of_queries() -> None:
    queries = {"a": [("q1", "one?")], "": [("all", "any?")]}
    rows = made(
        "documents", {"document_id": "a", "text": "x\n\ny"}, queries=queries, split=make_splitter(SplitSettings())
    )
    assert [(one.query_id, len(one.pieces)) for one in rows] == [("q1", 2), ("a/all", 2)]
    with pytest.raises(ScoreError, match="document 'b': expected queries"):
        made("documents", {"document_id": "b", "text": "x"}, queries={"a": [("q1", "one?")]})


@given(turns=st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.text(max_size=20)), min_size=1, max_size=9))
def test_a_dialogue_is_rebuilt_from_its_pieces(turns: list[tuple[str, str]]) -> None:
    if not any(said.strip() for _, said in turns):
        return
    row = {"query_id": "q", "query": "?", "turns": [{"role": role, "content": said} for role, said in turns]}
    for together in (1, 2, 3):
        (one,) = made("dialogue", row, turns=together)
        text = "".join(f"{role}: {said}\n" for role, said in turns)
        assert rebuild((piece.start or 0, piece.text) for piece in one.pieces) == text
        assert all(text[piece.start : piece.stop] == piece.text for piece in one.pieces)
        if together == 1:
            both = zip(one.pieces, turns, strict=True)
            assert [piece.text.removeprefix(f"{role}: ")[:-1] for piece, (role, _) in both] == [
                said for _, said in turns
            ]


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("shards", {"query_id": "q", "query": "x", "candidates": "none"}, "candidates: expected a list, got str"),
        ("shards", {"query_id": "q", "query": True, "candidates": []}, "query: expected text, got bool"),
        ("hotpotqa", {**samples.HOTPOTQA, "context": [["only title"]]}, r"context: expected \[title, sentences\]"),
        ("hotpotqa", {**samples.HOTPOTQA, "context": [["t", [1]]]}, "context: expected sentences of text"),
        ("musique", {"id": "m", "question": "x"}, "paragraphs: expected a list, got nothing"),
        ("longmemeval", {**samples.LONGMEMEVAL, "haystack_dates": []}, "as many sessions as ids and dates"),
        ("locomo", {**samples.LOCOMO, "conversation": []}, "conversation: expected an object"),
        ("qmsum", {**samples.QMSUM, "meeting_transcripts": [{"content": "x"}], "_source": "x"}, "a role or a speaker"),
        ("dialogue", {"query_id": "q", "query": "x", "turns": [{"role": "user"}]}, "expected content or text"),
        ("dialogue", {"query_id": "q", "query": "x", "turns": []}, "expected turns with text"),
        ("documents", {"document_id": "d", "text": " \n", "query_id": "q", "query": "x"}, "white space only"),
    ],
)
def test_a_row_of_another_form_says_what_was_expected(name: str, row: dict[str, Any], message: str) -> None:
    with pytest.raises(ScoreError, match=message):
        made(name, row)


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="beir, clipper, dialogue, documents, hotpotqa"):
        recipes.recipe("sparkles")
