"""The columns that make a row of an input shard a needle trial; light enough for the driver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pyarrow as pa

from pipelines.inputs import FileSurvey
from pipelines.schemas import is_text
from qrcore.errors import ConfigError

#: Which candidate holds the needle, and which characters of its text are it; then what the trial is: number of the
#: needle, prompt tokens aimed at, share of the haystack before the needle.
NEEDLE_FIELDS: Final[tuple[pa.Field, ...]] = (
    pa.field("needle_doc_id", pa.string()),
    pa.field("needle_start", pa.int64()),
    pa.field("needle_end", pa.int64()),
    pa.field("needle", pa.int32()),
    pa.field("length", pa.int32()),
    pa.field("depth", pa.float64()),
)
#: Those that a needle is found by.
PLACE_FIELDS: Final[tuple[pa.Field, ...]] = NEEDLE_FIELDS[:3]


def needle_fields(surveys: Sequence[FileSurvey]) -> tuple[pa.Field, ...]:
    """The columns that a needle is found by, as they are written. Raises :class:`ConfigError` for a file without."""
    for survey in surveys:
        if survey.schema is not None and (problem := _problem(survey.schema)):
            raise ConfigError(
                f"method copy: expected needle trials, and {survey.file.uri} has {problem}. Make trials with qrbatch "
                "needles, or choose another method."
            )
    return PLACE_FIELDS


def are_needle_trials(surveys: Sequence[FileSurvey]) -> bool:
    """Whether every file has the columns that a needle is found by."""
    return not any(_problem(survey.schema) for survey in surveys if survey.schema is not None)


def _problem(schema: pa.Schema) -> str:
    for field in PLACE_FIELDS:
        if field.name not in schema.names:
            return f"no column {field.name!r} ({field.type})"
        kind = schema.field(field.name).type
        fits = is_text(kind) if field.type == pa.string() else pa.types.is_integer(kind)
        if not fits:
            return f"column {field.name!r} of type {kind} instead of {field.type}"
    return ""
