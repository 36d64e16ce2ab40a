"""The actor's part, in this process: what becomes of every kind of row, and of masked answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest

from pipelines.answers.contexts import WholeContexts
from pipelines.contrast import worker as module
from pipelines.contrast.model import TuningSettings
from pipelines.contrast.rows import contrast_schema
from pipelines.contrast.worker import ContrastWorker
from pipelines.metrics import UnitMetrics
from pipelines.schemas import INPUT_SCHEMA
from pipelines.units import UnitRows
from qrcore.contracts.answerer import Answer, AnswererIdentity, Question
from qrcore.contracts.contrast import ContrastedAnswer, ContrastIdentity
from qrcore.errors import ScoreError
from tests.shards import row

CARRIED = [pa.field("answers", pa.list_(pa.string())), pa.field("date", pa.string())]
SCHEMA = pa.schema([*INPUT_SCHEMA, *CARRIED])


class Parrot:
    """Answers with the last word of what it is asked, masked with the first; fails where it is asked for it."""

    @property
    def identity(self) -> AnswererIdentity:
        return AnswererIdentity(None, "w", "s", "p", "float32", "cpu", 100)

    @property
    def contrast(self) -> ContrastIdentity:
        return ContrastIdentity("h", ("1-0",), (), {}, ())

    def turn_text(self, question: Question) -> str:
        return question.text or f"documents. {question.query}"

    def support(self, answer: str, context: str) -> float:
        return float(answer in context)

    def answer_many(self, questions: Sequence[Question]) -> list[Answer | ScoreError]:
        return [_said(one.query) for one in questions]


def _said(query: str) -> Answer | ScoreError:
    first, *_, last = query.split()
    if last == "nan":
        return ScoreError("non_finite", "logits: expected finite numbers, got NaN.", stage="score")
    return ContrastedAnswer(last, 10, 1, True, 0.5, 2, 1, first, (), first)


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def metrics(rows: int, errors: Sequence[ScoreError], tokens: int, started: float) -> UnitMetrics:
        return UnitMetrics(rows, rows - len(errors), len(errors), 0, tokens, {}, 0.0, "", "", 1, "here")

    monkeypatch.setattr(module, "unit_metrics", metrics)


def _answered(rows: list[dict[str, Any]], tuning: TuningSettings | None, template: str | None = None) -> Any:
    worker = ContrastWorker(Parrot(), WholeContexts(), template, contrast_schema(CARRIED), tuning)
    unit = UnitRows(pa.Table.from_pylist(rows, schema=SCHEMA), "in.parquet", 4, frozenset({6}))
    table, metrics = worker.answer(unit)
    assert table.schema.equals(contrast_schema(CARRIED))
    return table.to_pylist(), metrics


ROWS = [
    {**row("a", query="Where is the salt"), "answers": ["Salt"], "date": "2024"},
    {**row("b", candidates=[]), "answers": ["x"]},
    {**row("a"), "answers": None},
    {**row("c", query="it ends in nan"), "answers": None},
    {**row(None), "answers": None},
    {**row("d", query="  "), "answers": None},
]


def test_every_row_comes_out_once_with_its_answer_or_its_error() -> None:
    out, metrics = _answered(ROWS, None)
    assert [one["query_id"] for one in out] == ["a", "b", "a", "c", None, "d"]
    assert [one["source"]["row"] for one in out] == [4, 5, 6, 7, 8, 9]
    assert [one["error"] and one["error"]["code"] for one in out] == [
        None, "no_candidates", "duplicate_query_id", "non_finite", "null_query_id", "empty_query",
    ]  # fmt: skip
    assert out[3]["error"]["kind"] == "transient"
    first = out[0]
    assert (first["answer"], first["exact_match"], first["gold"], first["date"]) == ("salt", 1.0, ["Salt"], "2024")
    assert first["plain"] == {"answer": "Where", "exact_match": 0.0, "sub_em": 0.0, "token_f1": 0.0}
    assert (first["steps"], first["tokens_changed"], first["mean_alpha"]) == (2, 1, 0.5)
    assert (first["query"], first["prompt"], first["negative"]) == ("Where is the salt", None, None)
    assert all(one["answer"] is None and one["plain"] is None for one in out[1:])
    assert (metrics.rows, metrics.scored, metrics.failed, metrics.prompt_tokens) == (6, 1, 5, 11)


def test_masked_answers_become_samples_of_the_same_context() -> None:
    (one,), _ = _answered(ROWS[:1], TuningSettings(faithful="plain"))
    assert one["prompt"] == "documents. Where is the salt"
    assert (one["negative"]["answer"], one["negative"]["left_out"]) == ("Where", "same_answer")
    given = [{**row("e", query="map is town"), "answers": ["x"]}]
    (one,), _ = _answered(given, TuningSettings(), "{{ context }} {{ query }}")
    held = " ".join(candidate["text"] for candidate in given[0]["candidates"])
    assert one["prompt"].endswith("map is town") and given[0]["candidates"][0]["text"] in one["prompt"]
    assert one["negative"]["support"] == float("map" in held)
    assert (one["negative"]["faithful"], one["negative"]["faithful_support"]) == ("x", float("x" in held))
