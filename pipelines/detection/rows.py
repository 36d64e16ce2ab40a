"""What one example says of every head, as rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from pipelines.rows import Row, Source, error_fields
from pipelines.schemas import ERROR, SCHEMA_VERSION, SCHEMA_VERSION_KEY, SOURCE
from pipelines.splits import Part
from qrcore.errors import ScoreError

_METHOD_VALUES: Final = pa.struct([pa.field("method", pa.string()), pa.field("values", pa.list_(pa.float32()))])

#: One row an example. ``part``: of the split by query id; ``relevant``: relevant candidates; ``methods``: each one's
#: value of every head, layer by layer, null for an example that is kept for proving the choice; ``content_sha256``: of
#: the query, the candidates and which of them are relevant; ``query_digest``: how the head set remembers the query;
#: ``relevant_elsewhere``: relevant documents of the query that are not among its candidates.
HEAD_VALUES_SCHEMA: Final = pa.schema(
    [
        pa.field("query_id", pa.string()),
        pa.field("part", pa.string()),
        pa.field("candidates", pa.int32()),
        pa.field("relevant", pa.int32()),
        pa.field("relevant_elsewhere", pa.int32()),
        pa.field("methods", pa.list_(_METHOD_VALUES)),
        pa.field("prompt_tokens", pa.int64()),
        pa.field("content_sha256", pa.string()),
        pa.field("query_digest", pa.string()),
        pa.field("source", SOURCE),
        pa.field("error", ERROR),
    ],
    metadata={SCHEMA_VERSION_KEY: SCHEMA_VERSION.encode()},
)

#: One row a head and method; ``low`` and ``high`` bound the 95 % bootstrap interval of ``score``.
HEAD_SCORES_SCHEMA: Final = pa.schema(
    [
        pa.field("model_id", pa.string()),
        pa.field("revision", pa.string()),
        pa.field("method", pa.string()),
        pa.field("dataset_id", pa.string()),
        pa.field("layer", pa.int16()),
        pa.field("head", pa.int16()),
        pa.field("score", pa.float32()),
        pa.field("std", pa.float32()),
        pa.field("examples", pa.int32()),
        pa.field("low", pa.float32()),
        pa.field("high", pa.float32()),
    ],
    metadata={SCHEMA_VERSION_KEY: SCHEMA_VERSION.encode()},
)


@dataclass(frozen=True, slots=True, eq=False)
class HeadValues:
    """An example's answer: ``values`` of all heads by method; None for an example that was not read, which then has
    no tokens and no hash."""

    part: Part
    candidates: int
    relevant: int
    relevant_elsewhere: int
    values: Mapping[str, Sequence[float]] | None
    prompt_tokens: int = 0
    content_sha256: str | None = None
    query_digest: str | None = None


def row_from_values(query_id: str | None, answer: HeadValues | ScoreError, source: Source) -> Row:
    """An output row from an example's values or from the reason why there are none."""
    row: Row = dict.fromkeys(HEAD_VALUES_SCHEMA.names)
    row |= {"query_id": query_id, "source": {"uri": source.uri, "row": source.row}}
    if isinstance(answer, ScoreError):
        row["error"] = error_fields(answer)
        return row
    row |= {
        "part": answer.part,
        "candidates": answer.candidates,
        "relevant": answer.relevant,
        "relevant_elsewhere": answer.relevant_elsewhere,
        "prompt_tokens": answer.prompt_tokens,
        "content_sha256": answer.content_sha256,
        "query_digest": answer.query_digest,
    }
    if answer.values is not None:
        row["methods"] = [{"method": name, "values": list(values)} for name, values in answer.values.items()]
    return row


def head_score_rows(scores: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows of the head-score table in its schema."""
    return pa.Table.from_pylist(list(scores), schema=HEAD_SCORES_SCHEMA)
