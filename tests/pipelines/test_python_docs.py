"""The questions file, the corpus of the running Python, and the shards made from both."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import Stemmer
from bm25s.stopwords import STOPWORDS_EN

from pipelines.python_docs import (
    QRELS_FILE,
    SHARDS_FOLDER,
    PythonDoc,
    Question,
    build,
    collect_documents,
    first_stage,
    judge,
    load_questions,
    split_identifiers,
)
from pipelines.schemas import INPUT_SCHEMA, QRELS_SCHEMA, check_input_schema
from qrcore.errors import ConfigError, InputError

QUESTIONS_FILE = Path(__file__).parents[1] / "data" / "python_docs_questions.jsonl"


@pytest.fixture(scope="module")
def documents() -> list[PythonDoc]:
    return collect_documents()


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return load_questions(QUESTIONS_FILE)


def content_words(text: str) -> set[str]:
    words = re.findall(r"[a-z0-9]+", split_identifiers(text).casefold())
    return set(Stemmer.Stemmer("english").stemWords([word for word in words if word not in STOPWORDS_EN]))


def document(doc_id: str, text: str) -> PythonDoc:
    return PythonDoc(doc_id=doc_id, names=(doc_id,), title=doc_id, text=text)


def question(query_id: str, text: str, *gold: str) -> Question:
    return Question(query_id=query_id, question=text, gold=gold, split="test")


# The questions


def test_questions_are_many_and_distinct(questions: list[Question]) -> None:
    assert len(questions) >= 210
    assert len({asked.query_id for asked in questions}) == len(questions)
    assert len({asked.question.casefold() for asked in questions}) == len(questions)
    assert all(asked.gold and len(set(asked.gold)) == len(asked.gold) for asked in questions)


def test_split_is_a_function_of_the_query_id(questions: list[Question]) -> None:
    for asked in questions:
        digest = hashlib.sha256(asked.query_id.encode()).hexdigest()
        assert asked.split == ("dev" if int(digest[:8], 16) / 2**32 < 0.4 else "test")


def test_every_answer_is_documented_here(questions: list[Question], documents: list[PythonDoc]) -> None:
    known = {name for each in documents for name in each.names}
    missing = {name for asked in questions for name in asked.gold} - known
    assert not missing


def test_half_of_the_questions_do_not_give_the_name_away(questions: list[Question]) -> None:
    told = [asked for asked in questions if content_words(asked.question) & content_words(" ".join(asked.gold))]
    assert len(told) <= len(questions) / 2


def test_a_broken_questions_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    for line in ("nonsense", "[]", '{"query_id": "q", "question": "?", "split": "dev"}'):
        path.write_text(f'{{"query_id": "q", "question": "?", "gold": ["len"], "split": "dev"}}\n{line}\n')
        with pytest.raises(InputError, match="line 2"):
            load_questions(path)


# The corpus


def test_corpus_is_deterministic_and_ordered(documents: list[PythonDoc]) -> None:
    assert collect_documents() == documents
    assert [each.doc_id for each in documents] == sorted({each.doc_id for each in documents})


def test_corpus_is_that_of_the_standard_library_alone(
    documents: list[PythonDoc], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "colorsys.py").write_text('"""Another module of this name."""')
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert collect_documents() == documents


def test_documents_are_deduplicated_short_and_named(documents: list[PythonDoc]) -> None:
    assert len(documents) > 4000
    assert max(Counter(each.text for each in documents).values()) == 1
    assert max(Counter(name for each in documents for name in each.names).values()) == 1
    for each in documents:
        assert 1 <= len(each.text.split()) <= 60
        assert each.doc_id == each.title == each.names[0] == min(each.names, key=lambda name: (len(name), name))
        assert not any(part.startswith("_") for name in each.names for part in name.split("."))


def test_texts_do_not_depend_on_the_machine(documents: list[PythonDoc]) -> None:
    assert not [each.text for each in documents if re.search(r" at 0x[0-9a-f]{6}|/lib/python|/bin/", each.text)]


def test_signature_and_first_paragraph(documents: list[PythonDoc]) -> None:
    text = {name: each.text for each in documents for name in each.names}
    assert text["len"] == "len(obj): Return the number of items in a container."
    assert text["os.path.commonpath"].startswith("commonpath(paths): Given a sequence of path names, returns")
    assert text["str.strip"].startswith("strip(chars=None): Return a copy of the string")
    assert text["math.log"].startswith("log(x, [base=math.e]): Return the logarithm of x to the given base.")
    assert "after the final slash" in text["os.path.split"]
    assert "Cartesian product" in text["itertools.product"]
    assert "date object" in text["datetime.date"]
    assert text["subprocess.Popen"].endswith("...): Execute a child program in a new process.")
    assert text["pathlib.PurePath.name"] == "The final path component, if any."
    assert text["collections.ChainMap.fromkeys"].startswith("fromkeys(iterable")
    assert "command-line program that runs a set of tests" in text["unittest.main"]


def test_same_text_is_one_document_with_all_its_names(documents: list[PythonDoc]) -> None:
    names = {each.doc_id: set(each.names) for each in documents}
    assert {"json.dumps"} <= names["json.dumps"]
    assert {"random.choice", "secrets.choice"} <= names["random.choice"]
    assert {"list.index", "tuple.index"} <= names["list.index"]


def test_boilerplate_is_left_out(documents: list[PythonDoc]) -> None:
    names = {name for each in documents for name in each.names}
    assert not names & {"object.mro", "string.ascii_letters", "inspect.Traceback.filename", "os.environ", "this"}
    assert not [name for name in names if name.split(".")[0] in ("antigravity", "idlelib", "ntpath", "test", "tkinter")]
    assert not [each for each in documents if "help(type(self))" in each.text]
    assert not [each for each in documents if each.text in ("An enumeration.", "Alias for field number 0")]


def test_identifiers_split_into_words() -> None:
    assert split_identifiers("os.path.isDir_now").split() == ["os", "path", "is", "Dir", "now"]
    assert split_identifiers("HTMLParser IPv4Network JSONEncoder BytesIO").split() == [
        *("HTML", "Parser", "IPv4", "Network", "JSON", "Encoder", "Bytes", "IO")
    ]


# The first stage


def test_first_stage_ranks_by_words_stems_and_names() -> None:
    corpus = [
        document("a.copyTree", "copyTree(): Recursively duplicate everything."),
        document("b.walk", "walk(): The directory generator."),
        document("c.other", "other(): Nothing of interest."),
    ]
    asked = [
        question("names", "copying a tree"),
        question("stop", "the and of"),
        question("unknown", "zebra"),
        question("stem", "directories"),
    ]
    found = first_stage(asked, corpus, k=2)
    assert {query_id: [each.doc_id for each in hits] for query_id, hits in found.items()} == {
        "names": ["a.copyTree"],
        "stop": [],
        "unknown": [],
        "stem": ["b.walk"],
    }


def test_first_stage_cuts_at_k_and_keeps_ties_in_order() -> None:
    corpus = [document(f"d{number}", "the same words") for number in range(9)]
    hits = first_stage([question("q", "same words")], corpus, k=4)["q"]
    assert [(each.doc_id, each.rank) for each in hits] == [("d0", 1), ("d1", 2), ("d2", 3), ("d3", 4)]
    assert len({each.score for each in hits}) == 1
    assert hits[0].score > 0


def test_first_stage_scores_by_lucenes_formula() -> None:
    corpus = [document("d1", "alpha beta"), document("d2", "alpha alpha gamma delta"), document("d3", "gamma")]
    hits = first_stage([question("q", "alpha")], corpus, k=3)["q"]
    # Each title is one more word; three documents, two with the word: idf = ln(1 + (3 - 2 + .5) / (2 + .5)).
    idf, mean_length = 0.470004, 10 / 3

    def score(count: int, length: int) -> float:
        return idf * count / (count + 0.9 * (1 - 0.4 + 0.4 * length / mean_length))

    expected = {"d1": score(1, 3), "d2": score(2, 5)}
    assert {each.doc_id: each.score for each in hits} == pytest.approx(expected, rel=1e-4)


# Judgements and shards


def test_judged_names_map_to_their_document() -> None:
    corpus = [PythonDoc(doc_id="a", names=("a", "long.name"), title="a", text="text"), document("b", "other")]
    asked = [
        question("q1", "?", "long.name", "b", "gone"),
        question("q2", "?", "gone"),
        question("q3", "?", "a", "long.name"),
    ]
    assert judge(asked, corpus) == {"q1": {"a": 1, "b": 1}, "q3": {"a": 1}}


def test_build_writes_shards_and_judgements(
    tmp_path: Path, questions: list[Question], documents: list[PythonDoc]
) -> None:
    counts = build(str(tmp_path), QUESTIONS_FILE, k=12, shards=3)
    files = sorted((tmp_path / SHARDS_FOLDER).iterdir())
    assert [path.name for path in files] == ["part-000.parquet", "part-001.parquet", "part-002.parquet"]
    assert all(not check_input_schema(pq.read_schema(path)) for path in files)
    assert all(pq.read_schema(path).names == INPUT_SCHEMA.names for path in files)
    assert all(pq.read_schema(path).metadata == INPUT_SCHEMA.metadata for path in files)
    rows = [row for path in files for row in pq.read_table(path).to_pylist()]
    assert [(row["query_id"], row["query"]) for row in rows] == [(each.query_id, each.question) for each in questions]
    text_of = {each.doc_id: (each.title, each.text) for each in documents}
    for row in rows:
        candidates = row["candidates"]
        assert 1 <= len(candidates) <= 12
        assert [each["rank"] for each in candidates] == list(range(1, len(candidates) + 1))
        assert [each["score"] for each in candidates] == sorted((each["score"] for each in candidates), reverse=True)
        assert all(text_of[each["doc_id"]] == (each["title"], each["text"]) for each in candidates)
    qrels = pq.read_table(tmp_path / QRELS_FILE)
    assert qrels.schema.equals(QRELS_SCHEMA, check_metadata=True)
    judged = {(row["query_id"], row["doc_id"]): row["relevance"] for row in qrels.to_pylist()}
    assert judged == {(q, d): 1 for q, relevant in judge(questions, documents).items() for d in relevant}
    assert (counts.documents, counts.questions, counts.unanswerable) == (len(documents), len(questions), 0)
    assert (counts.judgements, counts.shards) == (len(judged), 3)
    assert counts.candidates == sum(len(row["candidates"]) for row in rows)


def test_build_of_one_split_and_again_in_place(tmp_path: Path, questions: list[Question]) -> None:
    first = build(str(tmp_path), QUESTIONS_FILE, k=5, shards=2, split="dev")
    assert first.questions == sum(each.split == "dev" for each in questions)
    before = {path.name: path.read_bytes() for path in (tmp_path / SHARDS_FOLDER).iterdir()}
    assert build(str(tmp_path), QUESTIONS_FILE, k=5, shards=2, split="dev") == first
    assert {path.name: path.read_bytes() for path in (tmp_path / SHARDS_FOLDER).iterdir()} == before


def test_build_refuses_to_leave_old_shards_among_new_ones(tmp_path: Path) -> None:
    build(str(tmp_path), QUESTIONS_FILE, k=5, shards=3, split="dev")
    with pytest.raises(InputError, match=r"part-002\.parquet"):
        build(str(tmp_path), QUESTIONS_FILE, k=5, shards=2, split="dev")


@pytest.mark.parametrize(("k", "shards"), [(0, 1), (1, 0)])
def test_build_refuses_empty_lists(tmp_path: Path, k: int, shards: int) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        build(str(tmp_path), QUESTIONS_FILE, k=k, shards=shards)
