"""Output rows of the audit: what was answered, and what the model says when it is asked again."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from pipelines.schemas import ERROR, SCHEMA_VERSION, SCHEMA_VERSION_KEY, SOURCE

#: What the model is asked about: its own first answer, or a wrong one in its place.
OWN: Final = "own"
INJECTED: Final = "injected"
#: An optional column of the input: a wrong answer to inject, and what a misleading passage says.
WRONG_ANSWER: Final = pa.field("wrong_answer", pa.string())
_ASKED: Final = pa.struct(
    [
        pa.field("first", pa.string()),
        pa.field("follow_up", pa.int32()),
        pa.field("mask", pa.string()),
        pa.field("p_yes", pa.float32()),
        pa.field("p_no", pa.float32()),
        pa.field("logit_margin", pa.float32()),
        pa.field("entropy", pa.float32()),
        pa.field("coherent", pa.bool_()),
        pa.field("flipped", pa.bool_()),
    ]
)
_LOOKING: Final = pa.struct([pa.field("follow_up", pa.int32()), pa.field("heads", pa.list_(pa.string()))])
FLIP_FIELDS: Final[tuple[pa.Field, ...]] = (
    pa.field("query_id", pa.string()),
    pa.field("part", pa.string()),
    pa.field("answer", pa.string()),
    pa.field("recall", pa.float32()),
    pa.field("correct", pa.bool_()),
    pa.field("injected", pa.string()),
    pa.field("asked", pa.list_(_ASKED)),
    pa.field("looking", pa.list_(_LOOKING)),
    pa.field("prompt_tokens", pa.int64()),
    pa.field("source", SOURCE),
    pa.field("error", ERROR),
)


def flip_schema(carried: tuple[pa.Field, ...]) -> pa.Schema:
    """The output schema of the audit: its own columns, and those that a needle is found by."""
    return pa.schema([*FLIP_FIELDS, *carried], metadata={SCHEMA_VERSION_KEY: SCHEMA_VERSION.encode()})
