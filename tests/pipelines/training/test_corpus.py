"""The text that is trained on: which of it is used, what identifies it, and which columns are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.storage import StorageOptions
from pipelines.training.corpus import Corpus, read_corpus
from qrcore.errors import InputError
from tests.shards import write_shard

TEXTS = pa.schema([(name, pa.string()) for name in ("text", "source", "licence")])
QUESTIONS = pa.schema([(name, pa.string()) for name in ("group", "paragraph", "question", "answer_sentence")])
#: Of one length, so that nothing but the words tells a choice among them.
SAME_LENGTH = [{"text": f"text number {number:02}", "source": "a/x", "licence": "CC0"} for number in range(20)]
ASKED = {"group": "g", "paragraph": "One. Two.", "question": "Which?", "answer_sentence": "Two."}


def corpus(
    folder: Path,
    rows: list[dict[str, Any]],
    asked: list[dict[str, Any]] | None = None,
    most: int = 10**6,
    seed: int = 0,
) -> Corpus:
    texts = write_shard(folder / "texts.parquet", rows, TEXTS)
    questions = [str(write_shard(folder / "questions.parquet", asked, QUESTIONS))] if asked else []
    return read_corpus([str(texts)], questions, most, seed, StorageOptions())


def test_the_hash_is_of_the_texts_in_use(tmp_path: Path) -> None:
    first, again, other = (corpus(tmp_path, SAME_LENGTH, most=100, seed=seed) for seed in (0, 0, 1))
    assert len(first.texts) == len(other.texts)
    assert set(first.texts) != set(other.texts)
    assert first.hash == again.hash != other.hash


def test_the_hash_is_of_the_order_and_not_of_the_files(tmp_path: Path) -> None:
    whole = corpus(tmp_path, SAME_LENGTH)
    for number, half in enumerate((SAME_LENGTH[:10], SAME_LENGTH[10:])):
        write_shard(tmp_path / "halves" / f"{number}.parquet", half, TEXTS)
    halves = read_corpus([str(tmp_path / "halves")], [], 10**6, 0, StorageOptions())
    assert halves.files != whole.files
    assert halves.hash == whole.hash
    assert corpus(tmp_path, SAME_LENGTH[::-1]).hash != whole.hash


@pytest.mark.parametrize("column", QUESTIONS.names)
def test_the_hash_is_of_every_column_of_the_questions(column: str, tmp_path: Path) -> None:
    none, one, other = (
        corpus(tmp_path, SAME_LENGTH, asked).hash for asked in ([], [ASKED], [{**ASKED, column: "Else."}])
    )
    assert len({none, one, other}) == 3


def test_the_hash_is_of_where_each_text_ends(tmp_path: Path) -> None:
    cuts = (["ab", "c"], ["a", "bc"], ["abc"])
    assert len({corpus(tmp_path, [{"text": text} for text in cut]).hash for cut in cuts}) == 3


def test_texts_and_questions_are_told_apart(tmp_path: Path) -> None:
    four = [{"text": text} for text in ASKED.values()]
    assert corpus(tmp_path, [*SAME_LENGTH, *four]).hash != corpus(tmp_path, SAME_LENGTH, [ASKED]).hash


def test_no_family_gives_many_more_characters_than_asked_for(tmp_path: Path) -> None:
    rows = [*SAME_LENGTH, {"text": "alone", "source": "b", "licence": None}]
    found = corpus(tmp_path, rows, most=40)
    assert [(use.family, use.texts, use.licences) for use in found.sources] == [
        ("a", 3, ("CC0",)),
        ("b", 1, ("not stated",)),
    ]
    assert found.sources[0].available == sum(len(row["text"] or "") for row in SAME_LENGTH)
    assert "alone" in found.texts


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])
def test_strings_are_read_however_they_are_stored(kind: pa.DataType, tmp_path: Path) -> None:
    schema = pa.schema([("text", kind)])
    texts = write_shard(tmp_path / "texts.parquet", [{"text": "one"}, {"text": "two"}], schema)
    assert read_corpus([str(texts)], [], 100, 0, StorageOptions()).texts == ("one", "two")


@pytest.mark.parametrize(
    ("column", "kind", "value"),
    [
        ("text", pa.int64(), 3),
        ("text", pa.list_(pa.string()), ["a"]),
        ("text", pa.binary(), b"a"),
        ("source", pa.int64(), 3),
        ("licence", pa.list_(pa.string()), ["CC0"]),
    ],
)
def test_columns_of_other_types_are_refused(column: str, kind: pa.DataType, value: Any, tmp_path: Path) -> None:
    row = {"text": "words", "source": "a", "licence": "CC0", column: value}
    schema = pa.schema([(name, kind if name == column else pa.string()) for name in row])
    texts = write_shard(tmp_path / "texts.parquet", [row], schema)
    with pytest.raises(InputError, match=rf"texts\.parquet: .*column '{column}' has type"):
        read_corpus([str(texts)], [], 100, 0, StorageOptions())


def test_nulls_and_missing_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'text' is null in row 1"):
        corpus(tmp_path, [{"text": "one"}, {"text": None}])
    wrong = write_shard(tmp_path / "wrong.parquet", [{"body": "x"}], pa.schema([("body", pa.string())]))
    with pytest.raises(InputError, match="missing columns text"):
        read_corpus([str(wrong)], [], 100, 0, StorageOptions())
    with pytest.raises(InputError, match="expected rows with text, got none"):
        corpus(tmp_path, [])
