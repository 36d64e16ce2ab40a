"""Answers of a processor of ray.data.llm: its configuration, and the stages around it. vLLM itself is not run."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import ray
from ray.data import Dataset

from jobs.answer import pipeline_settings
from pipelines import answer
from pipelines.answering import AnswerSettings as StageSettings
from pipelines.answers.models import open_answerer
from pipelines.answers.processor import AskUnit, GatherUnits, check_installed, key_of, processor_config
from pipelines.answers.rows import answer_schema
from pipelines.answers.settings import AnswererSettings, EngineOptions, variant_names
from pipelines.commit import manifest_rows
from pipelines.job import RunResult
from pipelines.plan import Unit
from pipelines.storage import StorageOptions
from pipelines.units import UnitRows, from_ipc, to_ipc
from pipelines.work import PoolSettings
from qrcore.contracts.answerer import Question
from qrcore.decode import decode_greedy
from qrcore.errors import ConfigError
from qrcore.models import open_model
from qrcore.questions import answer_text
from qrcore.records import Document
from tests.pipelines.answers.test_cafe_run import BAD, config_of, shards
from tests.pipelines.answers.test_worker import CARRIED, ROWS, SCHEMA
from tests.pipelines.reranking import Recorder
from tests.shards import MODEL

ANSWERER = AnswererSettings(MODEL, device="cpu", max_new_tokens=3)


def test_without_vllm_it_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("vllm") is None:
        with pytest.raises(ConfigError, match=r"not installed.*qrbatch\[vllm\].*engine.kind transformers"):
            check_installed()
        settings = pipeline_settings(config_of("in", Path("out"), method="greedy", engine={"kind": "vllm"}))
        with pytest.raises(ConfigError, match="not installed"):
            answer.run(settings, Recorder())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    check_installed()


def test_the_configuration_of_the_processor_follows_the_settings() -> None:
    options = EngineOptions((("max_model_len", 900), ("tensor_parallel_size", 2)), batch_rows=7)
    answerer = replace(ANSWERER, model="org/name", revision="abc", dtype="bfloat16")
    config = processor_config(options, answerer, PoolSettings(actors=3), 2048)
    assert (config.model_source, config.concurrency, config.batch_size) == ("org/name", 3, 7)
    wanted = {"dtype": "bfloat16", "revision": "abc", "max_model_len": 900, "tensor_parallel_size": 2}
    assert wanted.items() <= config.engine_kwargs.items()
    assert not (config.chat_template_stage or config.tokenize_stage or config.detokenize_stage)
    assert processor_config(EngineOptions(), answerer, PoolSettings(), 2048).engine_kwargs["max_model_len"] == 2048


@pytest.mark.parametrize("changes", [{}, {"method": "greedy", "judge": {"model": MODEL}}])
def test_what_it_cannot_do_is_refused(changes: dict[str, Any]) -> None:
    settings = pipeline_settings(config_of("in", Path("out"), engine={"kind": "vllm"}, **changes))
    with pytest.raises(ConfigError, match="vllm can neither read attention"):
        variant_names(settings, bundles=False)


def test_questions_have_names_of_their_own() -> None:
    documents = answer_documents()
    asked = [Question("a", documents), Question("b", documents), Question("a"), Question("a", text="x"), Question("x")]
    assert len({key_of(one) for one in asked}) == len(asked)
    assert key_of(Question("a", answer_documents())) == key_of(asked[0])


def answer_documents() -> tuple[Document, ...]:
    return (Document("1", "Bees collect nectar.", "Bees"), Document("2", "Salt is sold."))


def decoded(row: dict[str, Any]) -> dict[str, Any]:
    """What vLLM's stage does to a row, with transformers."""
    assert row["sampling_params"] == {"temperature": 0.0, "max_tokens": 3}
    model = open_answerer(ANSWERER).language_model
    prompt = [int(token) for token in row.pop("tokenized_prompt")]
    (found,) = decode_greedy(model.model, [prompt], 3, model.end_ids)
    text = answer_text(model.decoder.tokenizer, found.ids)
    return {**row, "generated_text": f" {text}", "num_generated_tokens": len(found.ids)}


def unit_row(rows: list[dict[str, Any]], failed: dict[int, tuple[str, str]]) -> dict[str, Any]:
    unit = Unit(unit_id=f"u{len(rows)}", file=0, start=0, stop=len(rows), bytes=1, tokens=1)
    return {
        "unit": unit.model_dump_json(),
        "uri": "in.parquet",
        "table": to_ipc(pa.Table.from_pylist(rows, schema=SCHEMA)),
        "failed": json.dumps(failed),
        "seconds": "{}",
        "read_at": 0.0,
    }


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_actor_id=lambda: "actor"))
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "here")


@pytest.mark.usefixtures("without_ray")
def test_units_come_out_as_the_usual_actor_leaves_them(tmp_path: Path) -> None:
    """The stages by hand, with answers that come in another order and units that are mixed."""
    settings = pipeline_settings(config_of("in", tmp_path, method="greedy", model={"id": MODEL, "max_new_tokens": 3}))
    settings = replace(settings, answerer=ANSWERER)
    schema = answer_schema(CARRIED)
    worker = partial(answer._asking, settings, ("full",), answer.Given(), schema)
    stage = StageSettings(
        run_uri=str(tmp_path / "run"),
        driver="d",
        schema=schema.serialize().to_pybytes(),
        carried=("answers",),
        storage=StorageOptions(),
        most_killers=1,
    )
    long = {**ROWS[0], "query_id": "long", "query": "river " * open_model(MODEL).max_tokens}
    rows = [*ROWS, BAD, long, {**ROWS[0], "query_id": "torn", "query": "never asked"}]
    ask = AskUnit(worker, ANSWERER)
    prompts = [*ask(unit_row(rows, {5: ("unreadable_input", "torn")})), *ask(unit_row([BAD], {}))]
    assert [one["of"] for one in prompts] == [3, 3, 3, 1]
    gather = GatherUnits(worker, stage, 3)
    answered = [decoded(one) for one in (prompts[2], prompts[3], prompts[0], prompts[1])]
    only_bad, whole = [unit for one in answered for unit in gather(one)]
    expected = answer._worker(settings, ("full",), answer.Given(), schema).answer(
        UnitRows(pa.Table.from_pylist(rows[:5], schema=SCHEMA), "in.parquet", 0, frozenset())
    )[0]
    found = from_ipc(whole["table"]).to_pylist()
    assert found[:5] == expected.to_pylist()
    assert [one["error"] and one["error"]["code"] for one in found] == [
        *(None, None, None, "no_candidates"),
        *("context_too_long", "unreadable_input"),
    ]
    assert [one["error"]["code"] for one in from_ipc(only_bad["table"]).to_pylist()] == ["no_candidates"]


def transformers_instead(units: Dataset) -> Dataset:
    return units.map(decoded, num_cpus=0.5)


@pytest.mark.usefixtures("local_ray")
def test_a_run_with_a_processor_is_the_run_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer, "check_installed", lambda: None)
    monkeypatch.setattr(answer, "processor_config", lambda *given: None)
    monkeypatch.setattr(answer, "llm_processor", lambda config: transformers_instead)
    source, _ = shards(tmp_path)

    def run(**changes: Any) -> RunResult:
        return answer.run(
            pipeline_settings(config_of(source, tmp_path / "out", method="greedy", units={"max_rows": 5}, **changes)),
            Recorder(),
        )

    by_vllm, usual = run(engine={"kind": "vllm"}), run()
    assert by_vllm.run_uri != usual.run_uri and len(by_vllm.manifest.objects) == 3
    assert list(manifest_rows(by_vllm.run_uri)) == list(manifest_rows(usual.run_uri))
    assert by_vllm.manifest.provenance["model"]["device"] == "vllm"
