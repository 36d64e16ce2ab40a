"""The output row of answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from pipelines.answers.variants import RowAnswers, Said
from pipelines.rows import Row, error_fields, query_id_of
from pipelines.schemas import CANDIDATE, ERROR, SCHEMA_VERSION, SCHEMA_VERSION_KEY, SOURCE
from qrcore.answers import score_answer, without_mark
from qrcore.errors import ScoreError
from qrcore.records import Document

_SAID: Final = (
    pa.field("answer", pa.string()),
    pa.field("ended", pa.bool_()),
    pa.field("prompt_tokens", pa.int64()),
    pa.field("new_tokens", pa.int32()),
    pa.field("exact_match", pa.float32()),
    pa.field("sub_em", pa.float32()),
    pa.field("token_f1", pa.float32()),
    pa.field("judged", pa.bool_()),
    pa.field("documents", pa.list_(pa.string())),
    pa.field("steered", pa.list_(pa.string())),
)
BASELINE: Final = pa.struct([pa.field("name", pa.string()), *_SAID, pa.field("error", ERROR)])
ANSWER_FIELDS: Final[tuple[pa.Field, ...]] = (
    pa.field("query_id", pa.string()),
    pa.field("query", pa.string()),
    *_SAID,
    pa.field("gold", pa.list_(pa.string())),
    pa.field("pair", pa.string()),
    pa.field("flags", pa.list_(pa.string())),
    pa.field("baselines", pa.list_(BASELINE)),
    pa.field("source", SOURCE),
    pa.field("error", ERROR),
)
#: What a prompt held, as the candidates of an input shard; only where it is asked for.
KEPT_FIELD: Final = pa.field("candidates", pa.list_(CANDIDATE))


def answer_schema(carried: Sequence[pa.Field], *, keep_documents: bool = False) -> pa.Schema:
    """The output schema of answer: the answer row, the documents of its prompt if wanted, and the carried columns."""
    kept = (KEPT_FIELD,) if keep_documents else ()
    return pa.schema([*ANSWER_FIELDS, *kept, *carried], metadata={SCHEMA_VERSION_KEY: SCHEMA_VERSION.encode()})


def answer_row(
    row: Row | ScoreError,
    found: RowAnswers,
    gold: Sequence[str] | None,
    pair: str | None,
    judged: Mapping[str, bool | None],
) -> Row:
    """The row without ``source`` and carried columns. ``judged``: what a judge says of each variant's answer."""
    own, *others = found.said
    told: Row = {"query_id": query_id_of(row), "gold": gold, "pair": pair}
    answer = found.said[own]
    if isinstance(answer, ScoreError):
        return {**told, "error": error_fields(answer)}
    return {
        **told,
        **_said(answer, gold, judged.get(own)),
        "query": None if isinstance(row, ScoreError) else row["query"],
        "flags": list(found.flags),
        "baselines": [_baseline(name, found.said[name], gold, judged.get(name)) for name in others],
        KEPT_FIELD.name: [_candidate(document) for document in answer.documents],
    }


def _baseline(name: str, answer: Said | ScoreError, gold: Sequence[str] | None, judged: bool | None) -> Row:
    if isinstance(answer, ScoreError):
        return {"name": name, "error": error_fields(answer)}
    return {"name": name, **_said(answer, gold, judged)}


def _said(answer: Said, gold: Sequence[str] | None, judged: bool | None) -> dict[str, Any]:
    scores = score_answer(without_mark(answer.answer.text), gold)._asdict() if gold else {}
    return {
        "answer": answer.answer.text,
        "ended": answer.answer.ended,
        "prompt_tokens": answer.answer.prompt_tokens,
        "new_tokens": answer.answer.new_tokens,
        **scores,
        "judged": judged,
        "documents": list(answer.doc_ids),
        "steered": None if answer.steered is None else list(answer.steered),
    }


def _candidate(document: Document) -> Row:
    return {"doc_id": document.doc_id, "title": document.title, "text": document.text}
