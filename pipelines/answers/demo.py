"""Questions for a demonstration: facts of no real place, hidden in the documentation of this Python."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from pipelines.needle_shards import TRIAL_ROWS_SCHEMA, trial_row
from pipelines.python_docs import collect_documents
from pipelines.schemas import QRELS_SCHEMA
from pipelines.storage import Storage, absolute, join
from pipelines.work import parquet_bytes
from qrcore.errors import HeadSetError
from qrcore.needles import NeedleSettings, NeedleTrial, needle_trials

#: Three facts at five depths, in prompts of a length that the embedded models answer from, of about ten documents.
TRIALS: Final = NeedleSettings(lengths=(900,), document_words=30)


@dataclass(frozen=True, slots=True)
class DemoQuestions:
    """Where shards, judgements and gold answers stand, and the name of the head set that ships with the model."""

    shards: str
    qrels: str
    answers: str
    heads: str


def write_demo_questions(output: str, model: str) -> DemoQuestions:
    """Put the questions below ``output``. Raises :class:`qrcore.errors.ConfigError` or a subclass for a model that
    ships no heads, :class:`qrcore.errors.InputError` if this Python's documentation cannot be read."""
    from qrcore.models import load_tokenizer, open_model  # torch
    from qrcore.prompts import resolve_prompt
    from qrcore.tokens import PromptEncoder

    source = open_model(model)
    if source.head_set is None:
        raise HeadSetError(f"model {model!r}: expected one that ships its heads, got none. Use embedded-gqa.")
    tokenizer = load_tokenizer(source)
    prompt = resolve_prompt("auto", tokenizer, source.head_set.prompt)
    texts = [document.text for document in collect_documents()]
    trials = list(needle_trials(texts, PromptEncoder(tokenizer), prompt, TRIALS))
    rows = [trial_row(trial) for trial in trials]
    judged = [{"query_id": row["query_id"], "doc_id": row["needle_doc_id"], "relevance": 1} for row in rows]
    gold = [{"query_id": row["query_id"], "answers": [_fact(trial)]} for row, trial in zip(rows, trials, strict=True)]
    found = DemoQuestions(
        shards=join(absolute(output), "questions", "shards"),
        qrels=join(absolute(output), "questions", "qrels.parquet"),
        answers=join(absolute(output), "questions", "answers.jsonl"),
        heads=source.head_set.name,
    )
    _put(join(found.shards, "questions.parquet"), _parquet(rows, TRIAL_ROWS_SCHEMA))
    _put(found.qrels, _parquet(judged, QRELS_SCHEMA))
    _put(found.answers, "".join(f"{json.dumps(one)}\n" for one in gold).encode())
    return found


def _fact(trial: NeedleTrial) -> str:
    document = trial.documents[trial.place - 1].text
    return document[trial.characters.start : trial.characters.stop]


def _parquet(rows: list[dict[str, object]], schema: pa.Schema) -> bytes:
    return parquet_bytes(pa.Table.from_pylist(rows, schema=schema), {})


def _put(uri: str, data: bytes) -> None:
    storage = Storage(uri)
    # A file that is written again is another input, and its run another run.
    if not storage.exists(uri) or storage.read(uri) != data:
        storage.replace(uri, data)
