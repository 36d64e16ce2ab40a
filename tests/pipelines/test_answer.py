"""Answers from bundles, full contexts and the oracle's choice, and what the report makes of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.answer import pipeline_settings
from jobs.answer_config import AnswerConfig
from jobs.settings import merge, validate
from pipelines import answer
from pipelines.answer_files import AnswerFiles, AnswerFileSettings
from pipelines.answer_prompts import STYLES
from pipelines.answer_worker import AnswerWorker
from pipelines.answers.contexts import BundleContexts, Context, WholeContexts
from pipelines.answers.models import open_answerer
from pipelines.answers.rows import answer_schema
from pipelines.answers.settings import AnswererSettings
from pipelines.answers.variants import ContextVariants
from pipelines.commit import manifest_rows
from pipelines.job import RunResult
from pipelines.plan import Plan, Unit, encode_schema
from pipelines.schemas import INPUT_SCHEMA
from pipelines.side_files import read_side_file
from pipelines.storage import StorageOptions
from pipelines.units import UnitRows
from qrcore.contracts.answerer import Answer, AnswererIdentity, Question
from qrcore.errors import ConfigError, InputError, ScoreError
from tests.pipelines.reranking import Recorder
from tests.pipelines.test_score_select import selected
from tests.pipelines.unit_samples import stored
from tests.shards import MODEL, row, write_shard

CARRIED = [pa.field("answers", pa.list_(pa.string())), pa.field("group", pa.string()), pa.field("date", pa.string())]
SCHEMA = pa.schema([*INPUT_SCHEMA, *CARRIED])


class Parrot:
    """Answers with the last word of what it is asked; keeps the questions."""

    def __init__(self) -> None:
        self.asked: list[Question] = []

    @property
    def identity(self) -> AnswererIdentity:
        return AnswererIdentity(None, "w", "s", "p", "float32", "cpu", 100)

    def answer_many(self, questions: Sequence[Question]) -> list[Answer | ScoreError]:
        self.asked += questions
        return [Answer(one.query.split()[-1], 10, 1, True) for one in questions]


def unit_of(rows: list[dict[str, Any]], duplicates: frozenset[int] = frozenset()) -> UnitRows:
    return UnitRows(pa.Table.from_pylist(rows, schema=SCHEMA), "in.parquet", 4, duplicates)


def answered(
    rows: list[dict[str, Any]], contexts: Any = None, template: str | None = None, gold: Any = None, **more: Any
) -> Any:
    parrot = Parrot()
    if not isinstance(contexts, dict):
        contexts = {"full": contexts or WholeContexts()}
    worker = AnswerWorker(ContextVariants(parrot, contexts, template), answer_schema(CARRIED), gold)
    table, metrics = worker.answer(unit_of(rows, **more))
    return table.to_pylist(), metrics, parrot.asked


def test_every_row_comes_out_once_with_its_answer_or_its_error() -> None:
    rows = [
        {**row("a", query="Where is the salt"), "answers": ["Salt"], "group": "g"},
        {**row("b", candidates=[]), "answers": ["x"]},
        {**row("a"), "answers": None},
        {**row("c", query="no gold"), "answers": None},
    ]
    out, metrics, asked = answered(rows, duplicates=frozenset({6}))
    assert [one["query_id"] for one in out] == ["a", "b", "a", "c"]
    assert [one["source"]["row"] for one in out] == [4, 5, 6, 7]
    assert [one["error"] and one["error"]["code"] for one in out] == [None, "no_candidates", "duplicate_query_id", None]
    assert (out[0]["answer"], out[0]["exact_match"], out[0]["token_f1"]) == ("salt", 1.0, 1.0)
    assert (out[0]["gold"], out[0]["pair"], out[0]["group"]) == (["Salt"], "g", "g")
    assert out[3]["answer"] == "gold" and out[3]["exact_match"] is None
    assert (metrics.scored, metrics.failed, metrics.prompt_tokens) == (2, 2, 22)
    assert [document.doc_id for document in asked[0].documents] == ["d0", "d1", "d2", "d3"]


@pytest.mark.parametrize("style", ["longmemeval", "clipper", "plain"])
def test_templates_are_filled_from_the_row(style: str) -> None:
    given = {**row("a", query="Who?"), "date": "2024-05-30"}
    _, _, (asked,) = answered([given], template=STYLES[style])
    assert asked.text is not None and "Who?" in asked.text
    for candidate in given["candidates"]:
        assert candidate["text"] in asked.text
    assert ("2024-05-30" in asked.text) == (style == "longmemeval")
    _, _, (undated,) = answered([{**given, "date": None}], template=STYLES[style])
    assert "Today" not in (undated.text or "")


def test_a_template_that_fails_is_the_rows_error() -> None:
    out, _, _ = answered([row("a"), row("b")], template="{{ 1 // (query_id == 'b') }}")
    assert [one["error"] and one["error"]["code"] for one in out] == ["template_error", None]


def test_the_oracle_keeps_what_is_relevant() -> None:
    oracle = WholeContexts({"a": {"d2": 1, "d1": 0, "elsewhere": 1}, "b": {"d1": 0}})
    out, _, asked = answered([row("a"), row("b")], oracle)
    assert [document.doc_id for document in asked[0].documents] == ["d2"]
    assert out[1]["error"]["code"] == "nothing_relevant"


PLAN = Plan(
    run_id="answer-0123456789ab",
    job="answer",
    name="answer",
    config_hash="1",
    input_hash="2",
    config={},
    provenance={"told": "x", "variants": ["full"], "judge": None, "warnings": []},
    order="as_given",
    files=(),
    skipped_files=(),
    units=(Unit(unit_id="u", file=0, start=0, stop=1, bytes=1, tokens=1),),
    schema_ipc=encode_schema(answer_schema(())),
)


def test_the_report_counts_pairs_as_wholes_and_leaves_broken_ones_out() -> None:
    claims = [
        *(("TRUE", "TRUE", "p1"), ("FALSE", "FALSE", "p1"), ("TRUE", "TRUE", "p2"), ("TRUE", "FALSE", "p2")),
        *(("TRUE", "TRUE", "p3"), (None, "FALSE", "p3"), ("TRUE", "TRUE", "p4")),
    ]
    rows = [
        {
            **row(f"q{n}", query=f"claim {said or 'x'}", **({} if said else {"candidates": []})),
            "answers": [gold],
            "group": pair,
        }
        for n, (said, gold, pair) in enumerate(claims)
    ]
    out, _, _ = answered(rows)
    files = AnswerFiles(PLAN, AnswerFileSettings(datetime.now(UTC)))
    own = pa.Table.from_pylist(out, schema=answer_schema(CARRIED)).drop_columns([field.name for field in CARRIED])
    list(files.watch([stored(PLAN, own)]))
    report = files.finish("uri", "d", {"u": 1.5}, resumed=False)
    assert report.pace is not None and report.pace.throughput.tokens_per_second == 200
    assert (report.result.rows, report.result.scored, report.result.failed) == (7, 6, 1)
    (own,) = report.variants
    assert own.verdicts is not None and (own.verdicts.mean, own.verdicts.n) == (pytest.approx(5 / 6), 6)
    assert own.pairs is not None and (own.pairs.mean, own.pairs.n) == (0.5, 2)
    assert own.unfinished_pairs == 2
    assert own.measures["exact_match"].n == 6
    assert [(group.code, group.count) for group in report.errors] == [("no_candidates", 1)]


def config_of(source: str, output: Path, **changes: Any) -> AnswerConfig:
    base = {
        "input": {"uri": source},
        "output": {"uri": str(output)},
        "actors": {"count": 1},
        "model": {"id": MODEL, "max_new_tokens": 4},
    }
    return validate(AnswerConfig, merge(base, changes))


def run(source: str, output: Path, **changes: Any) -> RunResult:
    return answer.run(pipeline_settings(config_of(source, output, **changes)), Recorder())


def test_a_context_that_is_not_there_is_refused(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "in" / "1.parquet", [row("a")])
    with pytest.raises(ConfigError, match="bundle needs a committed run of select, got shards"):
        run(str(shard), tmp_path, input={"context": "bundle"})
    with pytest.raises(ConfigError, match="oracle needs judgements, got none"):
        run(str(shard), tmp_path, input={"context": "oracle"})


@pytest.mark.usefixtures("local_ray")
def test_a_run_answers_from_bundles(tmp_path: Path) -> None:
    rows = [{**row(f"q{n}"), "answers": ["salt"], "group": None, "date": None} for n in range(3)]
    write_shard(tmp_path / "in" / "1.parquet", [*rows, {**row("bad", candidates=[]), "answers": ["x"]}], SCHEMA)
    bundles = selected(str(tmp_path / "in"), tmp_path / "bundles", contexts={"window_tokens": 2000})
    result = run(bundles.run_uri, tmp_path / "out", baselines=["full"])
    found, kept = list(manifest_rows(result.run_uri)), list(manifest_rows(bundles.run_uri))
    assert [one["query_id"] for one in found] == ["q0", "q1", "q2", "bad"]
    assert all(isinstance(one["answer"], str) and one["new_tokens"] <= 4 for one in found[:3])
    assert found[3]["error"]["code"] == "no_candidates"
    for one, bundle in zip(found[:3], kept[:3], strict=True):
        assert one["documents"] == [name for segment in bundle["segments"] for name in segment["doc_ids"]]
        assert [other["name"] for other in one["baselines"]] == ["full"]
        assert one["baselines"][0]["documents"] == ["d0", "d1", "d2", "d3"] != one["documents"]
    # The same answers as in this process, from the same segments.
    unit = UnitRows(pa.Table.from_pylist(rows, schema=SCHEMA), str(tmp_path / "in" / "1.parquet"), 0, frozenset())
    ranked = answer.find_bundles(bundles.run_uri, StorageOptions())
    assert ranked is not None
    contexts = BundleContexts(ranked, StorageOptions()).of(unit, rows)
    assert [[d.doc_id for d in one.documents] for one in contexts if isinstance(one, Context)] == [
        [segment["doc_id"] for segment in bundle["segments"]] for bundle in kept[:3]
    ]
    answerer = open_answerer(AnswererSettings(MODEL, max_new_tokens=4))
    questions = [
        Question(one["query"], c.documents) for one, c in zip(rows, contexts, strict=True) if isinstance(c, Context)
    ]
    expected = [one.text for one in answerer.answer_many(questions) if isinstance(one, Answer)]
    assert [one["answer"] for one in found[:3]] == expected
    report = read_side_file(result.run_uri, result.manifest.side_files, "report.json", StorageOptions())
    assert (report["result"]["scored"], report["variants"][0]["measures"]["sub_em"]["n"]) == (3, 3)
    assert json.dumps(report["provenance"]["bundles"]["run_id"]) == json.dumps(bundles.manifest.run_id)
    with pytest.raises(InputError, match="or shards, found one of answer"):
        run(result.run_uri, tmp_path / "out")
