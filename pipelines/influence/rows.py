"""Output rows of scored documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa

from pipelines.rows import Source, error_fields
from pipelines.schemas import ERROR, SCHEMA_VERSION, SCHEMA_VERSION_KEY, SOURCE
from qrcore.contracts.influence import DocumentInfluence
from qrcore.errors import ScoreError

INFLUENCE_SCHEMA: Final = pa.schema(
    [
        pa.field("doc_id", pa.string()),
        pa.field("domain", pa.string()),
        pa.field("n_tokens", pa.int64()),
        pa.field("n_scored", pa.int64()),
        pa.field("chunks", pa.int32()),
        pa.field("loss_base", pa.float32()),
        pa.field("loss_masked", pa.float32()),
        pa.field("influence", pa.float32()),
        pa.field("control_influence", pa.list_(pa.float32())),
        pa.field("repetition", pa.float32()),
        pa.field("noise", pa.float32()),
        pa.field("source", SOURCE),
        pa.field("error", ERROR),
    ],
    metadata={SCHEMA_VERSION_KEY: SCHEMA_VERSION.encode()},
)


def influence_row(
    doc_id: str | None, domain: str | None, answer: DocumentInfluence | ScoreError, source: Source
) -> dict[str, Any]:
    """The output row of one document."""
    row: dict[str, Any] = dict.fromkeys(INFLUENCE_SCHEMA.names)
    row |= {"doc_id": doc_id, "domain": domain, "source": {"uri": source.uri, "row": source.row}}
    if isinstance(answer, ScoreError):
        return row | {"error": error_fields(answer)}
    return row | {
        "n_tokens": answer.n_tokens,
        "n_scored": answer.n_scored,
        "chunks": answer.chunks,
        "loss_base": answer.loss_base,
        "loss_masked": answer.loss_masked,
        "influence": answer.influence,
        "control_influence": list(answer.controls),
        "repetition": answer.repetition,
        "noise": answer.noise,
    }


def influence_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Output rows as a table."""
    return pa.Table.from_pylist(list(rows), schema=INFLUENCE_SCHEMA)
