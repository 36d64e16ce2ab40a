"""The text that a model is trained on: Parquet shards into texts, questions, and what the card says of them."""

from __future__ import annotations

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any, Final

from pipelines.storage import StorageOptions
from pipelines.texts import read_text_rows
from qrcore.errors import InputError
from qrcore.training.passages import QuestionRow

_TEXT_COLUMNS: Final = ("text",)
_OPTIONAL_TEXT_COLUMNS: Final = ("source", "licence")
_QUESTION_COLUMNS: Final = ("group", "paragraph", "question", "answer_sentence")
_UNNAMED: Final = "text"


@dataclass(frozen=True, slots=True)
class SourceUse:
    """What one family of sources gave: ``characters`` of ``texts`` texts that were used, of ``available`` ones."""

    family: str
    licences: tuple[str, ...]
    texts: int
    characters: int
    available: int


@dataclass(frozen=True, slots=True)
class Corpus:
    """Texts and questions in use; ``files``: SHA-256 of every file that was read, by URI; ``sources``: their origin."""

    texts: tuple[str, ...]
    questions: tuple[QuestionRow, ...]
    files: Mapping[str, str] = field(repr=False)
    sources: tuple[SourceUse, ...]

    @property
    def paragraphs(self) -> tuple[str, ...]:
        """The questions' paragraphs, each once."""
        return tuple(dict.fromkeys(row.paragraph for row in self.questions))

    @property
    def hash(self) -> str:
        """SHA-256 of the texts and questions in use, in their order, hexadecimal; not of where they come from."""
        digest = hashlib.sha256()
        for part in (*self.texts, *(column for row in self.questions for column in astuple(row))):
            data = part.encode()
            digest.update(len(data).to_bytes(8, "big") + data)
        digest.update(len(self.texts).to_bytes(8, "big"))
        return digest.hexdigest()


def read_corpus(
    texts: Sequence[str],
    questions: Sequence[str],
    characters_per_family: int,
    seed: int,
    options: StorageOptions,
) -> Corpus:
    """Read ``text`` rows (with ``source`` and ``licence`` if known) and question rows.

    No family of sources, a source up to its first slash, gives many more than ``characters_per_family`` characters;
    which of its texts are used is drawn with ``seed``. Raises InputError for columns that are missing, hold nulls or
    no strings, and for no text.
    """
    text_rows, text_files = read_text_rows(texts, _TEXT_COLUMNS, options, _OPTIONAL_TEXT_COLUMNS)
    question_rows, question_files = read_text_rows(questions, _QUESTION_COLUMNS, options)
    if not text_rows:
        raise InputError(f"texts {', '.join(texts)}: expected rows with text, got none. Check the files.")
    kept, sources = _balanced(text_rows, characters_per_family, seed)
    asked = tuple(QuestionRow(*(row[name] for name in _QUESTION_COLUMNS)) for row in question_rows)
    return Corpus(kept, asked, text_files | question_files, sources)


def _balanced(
    rows: Sequence[dict[str, Any]], characters_per_family: int, seed: int
) -> tuple[tuple[str, ...], tuple[SourceUse, ...]]:
    """A random choice of texts, in the files' order, and what each family gave."""
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    used: Counter[str] = Counter()
    available: Counter[str] = Counter()
    texts: Counter[str] = Counter()
    licences: dict[str, set[str]] = defaultdict(set)
    kept = []
    for number in order:
        row = rows[number]
        family, length = _family(row), len(row["text"])
        available[family] += length
        if used[family] < characters_per_family:
            used[family] += length
            texts[family] += 1
            licences[family].add(row.get("licence") or "not stated")
            kept.append(number)
    sources = [SourceUse(f, tuple(sorted(licences[f])), texts[f], used[f], available[f]) for f in sorted(used)]
    return tuple(rows[number]["text"] for number in sorted(kept)), tuple(sources)


def _family(row: Mapping[str, Any]) -> str:
    return str(row.get("source") or _UNNAMED).split("/")[0]
