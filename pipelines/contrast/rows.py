"""Output rows of contrasted answers, and the rows for tuning that are made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from pipelines.contrast.model import TuningSettings
from pipelines.rows import Row
from pipelines.schemas import ERROR, SCHEMA_VERSION, SCHEMA_VERSION_KEY, SOURCE
from qrcore.answers import normalised, score_answer, without_mark
from qrcore.contracts.contrast import ContrastedAnswer

_SCORES: Final = [pa.field(name, pa.float32()) for name in ("exact_match", "sub_em", "token_f1")]
_PLAIN: Final = pa.struct([pa.field("answer", pa.string()), *_SCORES])
_CONTROL: Final = pa.struct(
    [
        pa.field("answer", pa.string()),
        pa.field("steps", pa.int32()),
        pa.field("tokens_changed", pa.int32()),
        *_SCORES,
    ]
)
_NEGATIVE: Final = pa.struct(
    [
        pa.field("answer", pa.string()),
        pa.field("support", pa.float32()),
        pa.field("faithful", pa.string()),
        pa.field("faithful_from", pa.string()),
        pa.field("faithful_support", pa.float32()),
        pa.field("left_out", pa.string()),
    ]
)
CONTRAST_FIELDS: Final[tuple[pa.Field, ...]] = (
    pa.field("query_id", pa.string()),
    pa.field("query", pa.string()),
    pa.field("answer", pa.string()),
    pa.field("ended", pa.bool_()),
    pa.field("prompt_tokens", pa.int64()),
    pa.field("new_tokens", pa.int32()),
    pa.field("mean_alpha", pa.float32()),
    pa.field("steps", pa.int32()),
    pa.field("tokens_changed", pa.int32()),
    *_SCORES,
    pa.field("plain", _PLAIN),
    pa.field("controls", pa.list_(_CONTROL)),
    pa.field("gold", pa.list_(pa.string())),
    pa.field("prompt", pa.string()),
    pa.field("negative", _NEGATIVE),
    pa.field("source", SOURCE),
    pa.field("error", ERROR),
)
TUNING_SCHEMA: Final = pa.schema(
    [
        pa.field("query_id", pa.string()),
        pa.field("control_token", pa.string()),
        pa.field("prompt", pa.string()),
        pa.field("target", pa.string()),
        pa.field("target_from", pa.string()),
        pa.field("faithful", pa.bool_()),
        pa.field("support", pa.float32()),
        pa.field("source", SOURCE),
    ],
    metadata={SCHEMA_VERSION_KEY: SCHEMA_VERSION.encode()},
)


def contrast_schema(carried: Sequence[pa.Field]) -> pa.Schema:
    """The output schema of contrast: its own columns and the carried ones."""
    return pa.schema([*CONTRAST_FIELDS, *carried], metadata={SCHEMA_VERSION_KEY: SCHEMA_VERSION.encode()})


def answer_columns(answer: ContrastedAnswer, gold: Sequence[str] | None) -> Row:
    """The columns of one answer, measured where there is a gold one."""
    plain = None if answer.plain is None else {"answer": answer.plain, **_scores(answer.plain, gold)}
    return {
        "answer": answer.text,
        "ended": answer.ended,
        "prompt_tokens": answer.prompt_tokens,
        "new_tokens": answer.new_tokens,
        "mean_alpha": answer.mean_alpha,
        "steps": answer.steps,
        "tokens_changed": answer.tokens_changed,
        **_scores(answer.text, gold),
        "plain": plain,
        "controls": [
            {
                "answer": one.text,
                "steps": one.steps,
                "tokens_changed": one.tokens_changed,
                **_scores(one.text, gold),
            }
            for one in answer.controls
        ],
    }


def _scores(text: str, gold: Sequence[str] | None) -> Row:
    return score_answer(without_mark(text), gold)._asdict() if gold else {}


def negative_columns(
    answer: ContrastedAnswer,
    gold: Sequence[str] | None,
    support: Callable[[str], float],
    settings: TuningSettings,
) -> Row | None:
    """The masked answer as an unfaithful sample beside a faithful one, and why it is left out, if it is; None where
    nothing was masked. ``support``: the share of a text's tokens that its context holds."""
    if answer.masked is None:
        return None
    kind, faithful = _faithful(answer, gold, settings)
    supported = support(answer.masked)
    return {
        "answer": answer.masked,
        "support": supported,
        "faithful": faithful,
        "faithful_from": kind,
        "faithful_support": support(faithful) if faithful else None,
        "left_out": _why_left_out(answer.masked, faithful, supported, settings.max_support),
    }


def _faithful(
    answer: ContrastedAnswer, gold: Sequence[str] | None, settings: TuningSettings
) -> tuple[str | None, str | None]:
    if settings.faithful != "plain" and gold:
        return "gold", gold[0]
    if settings.faithful != "gold" and answer.plain:
        return "plain", answer.plain
    return None, None


def _why_left_out(masked: str, faithful: str | None, support: float, most: float | None) -> str | None:
    said = normalised(without_mark(masked))
    if not said:
        return "empty"
    if faithful is None or not faithful.strip():
        return "nothing_faithful"
    if said == normalised(without_mark(faithful)):
        return "same_answer"
    return "supported" if most is not None and support > most else None


def tuning_rows(row: Mapping[str, Any], settings: TuningSettings) -> Iterator[Row]:
    """The faithful and the unfaithful sample of an output row, nothing for a row without both."""
    negative = row["negative"]
    if negative is None or negative["left_out"] is not None:
        return
    shared = {"query_id": row["query_id"], "prompt": row["prompt"], "source": row["source"]}
    yield {
        **shared,
        "control_token": settings.faithful_token,
        "target": negative["faithful"],
        "target_from": negative["faithful_from"],
        "faithful": True,
        "support": negative["faithful_support"],
    }
    yield {
        **shared,
        "control_token": settings.masked_token,
        "target": negative["answer"],
        "target_from": "masked",
        "faithful": False,
        "support": negative["support"],
    }


def chat_line(row: Row) -> Row:
    """A row for tuning as a conversation: the control token stands in front of what the user says."""
    return {
        "id": row["query_id"],
        "messages": [
            {"role": "user", "content": f"{row['control_token']} {row['prompt'].lstrip()}"},
            {"role": "assistant", "content": row["target"]},
        ],
        "control_token": row["control_token"],
        "faithful": row["faithful"],
        "support": row["support"],
        "source": row["source"],
    }
