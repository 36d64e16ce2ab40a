"""Key-value trials as an input shard: rows of the usual contract, as many of either part as asked for, made once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.inputs import list_inputs, survey_file
from pipelines.key_value_shards import (
    KEY_VALUE_KEY,
    KeyValueShards,
    KeyValueShardSettings,
    pair_row,
    write_key_value_shards,
)
from pipelines.labels import load_qrels
from pipelines.needle_columns import are_needle_trials
from pipelines.rows import request_from_row
from pipelines.splits import part_of
from pipelines.storage import StorageOptions
from qrcore.errors import ConfigError, InputError
from qrcore.loading import load_method
from qrcore.models import load_tokenizer, open_model
from qrcore.records import RankRequest
from qrcore.tokens import PromptEncoder
from tests.qrcore.test_needles import TEXTS

OPTIONS = StorageOptions()
BUILDING = {"count": 7, "length": 500, "top": None, "seed": 0}


def _settings(folder: Path, **changes: Any) -> KeyValueShardSettings:
    texts = folder / "texts.parquet"
    pq.write_table(pa.table({"text": TEXTS}), texts)
    settings = KeyValueShardSettings((str(texts),), str(folder / "out"), "embedded", None, BUILDING, 7, 3, OPTIONS)
    return replace(settings, **changes)


def _write(settings: KeyValueShardSettings) -> tuple[KeyValueShards, list[str]]:
    said: list[str] = []
    return write_key_value_shards(settings, said.append), said


def test_every_trial_is_a_row_that_any_job_can_read(tmp_path: Path) -> None:
    made, said = _write(_settings(tmp_path))
    assert made.top == 4 and said == ["reading texts", "hiding values behind keys"]
    (info,) = list_inputs([made.trials_uri], OPTIONS)
    survey = survey_file(info, OPTIONS)
    assert not survey.problem and are_needle_trials([survey])
    rows = pq.read_table(made.trials_uri).to_pylist()
    parts = [part_of(row["query_id"]) for row in rows]
    assert (parts.count("dev"), parts.count("test")) == (7, 3)
    qrels = load_qrels(made.qrels_uri, OPTIONS)
    encoder = PromptEncoder(load_tokenizer(open_model("embedded")))
    method = load_method("key_value").build(**BUILDING)
    for row in rows:
        request = request_from_row({name: row[name] for name in ("query_id", "query", "candidates")})
        assert isinstance(request, RankRequest)
        (asked,) = [one for one in request.documents if one.title == request.query]
        assert asked.doc_id == row["needle_doc_id"] and qrels[row["query_id"]] == {asked.doc_id: 1}
        assert (row["needle_start"], row["needle_end"]) == (0, len(asked.text))
        number = int(row["query_id"].removeprefix("key-value-"))
        (trial,) = method.trials(TEXTS, encoder, 4096, [number])
        assert pair_row(trial) == {
            **row,
            "candidates": [{name: one[name] for name in ("doc_id", "title", "text")} for one in row["candidates"]],
        }
    told = json.loads(pq.read_schema(made.trials_uri).metadata[KEY_VALUE_KEY])
    assert told["settings"]["length"] == 500 and told["settings"]["examples"] == 3 and len(told["texts"]) == 1


def test_the_same_command_finds_what_it_made_and_another_one_makes_its_own(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    made, _ = _write(settings)
    before = Path(made.trials_uri).stat().st_mtime_ns
    assert _write(settings) == (made, ["reading texts"])
    Path(made.qrels_uri).unlink()  # as if it had been interrupted between the two
    assert _write(settings)[0] == made and Path(made.qrels_uri).exists()
    assert Path(made.trials_uri).stat().st_mtime_ns == before
    for changes in ({"proving": 2}, {"building": {**BUILDING, "seed": 1}}, {"model": "embedded-gqa"}):
        assert _write(replace(settings, **changes))[0].trials_uri != made.trials_uri  # type: ignore[arg-type]


def test_texts_and_lengths_that_make_no_trials_are_refused(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    with pytest.raises(ConfigError, match="expected at most 4096 tokens for this model"):
        _write(replace(settings, building={**BUILDING, "length": 5000}))
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "texts.parquet")
    with pytest.raises(InputError, match="expected rows with text"):
        _write(settings)
    pq.write_table(pa.table({"text": ["Only one sentence stands in here."]}), tmp_path / "texts.parquet")
    with pytest.raises(InputError, match="Give more texts"):
        _write(settings)
    assert not list((tmp_path / "out").rglob("*.parquet"))
