"""Needle trials as an input shard: every row is one of the contract, and the needle is where the row says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.inputs import list_inputs, survey_file
from pipelines.labels import load_qrels
from pipelines.needle_columns import are_needle_trials, needle_fields
from pipelines.needle_shards import NEEDLES_KEY, NeedleShardSettings, write_needle_shards
from pipelines.rows import request_from_row
from pipelines.storage import StorageOptions
from qrcore.errors import ConfigError, InputError
from qrcore.models import load_tokenizer, open_model
from qrcore.needles import NEEDLES, NeedlePlace, NeedleSettings, copy_trial, needle_trials
from qrcore.prompts import EMBEDDED
from qrcore.records import RankRequest, Span
from qrcore.tokens import PromptEncoder
from tests.qrcore.test_needles import TEXTS
from tests.shards import row, write_shard

OPTIONS = StorageOptions()
TRIALS = NeedleSettings(lengths=(400, 800), depths=(0.0, 1.0), haystacks=2)


def _settings(folder: Path, **changes: Any) -> NeedleShardSettings:
    texts = folder / "texts.parquet"
    pq.write_table(pa.table({"text": TEXTS}), texts)
    settings = NeedleShardSettings(
        (str(texts),), str(folder / "needles"), "embedded", None, "auto", TRIALS, OPTIONS
    )  # fmt: skip
    return replace(settings, **changes)


def _write(settings: NeedleShardSettings) -> tuple[Any, list[str]]:
    said: list[str] = []
    return write_needle_shards(settings, said.append), said


def test_every_trial_is_a_row_that_any_job_can_read(tmp_path: Path) -> None:
    made, said = _write(_settings(tmp_path))
    assert said and (made.trials, made.already_there) == (3 * 2 * 2 * 2, False)
    (info,) = list_inputs([str(tmp_path / "needles" / "shards")], OPTIONS)
    survey = survey_file(info, OPTIONS)
    assert not survey.problem and are_needle_trials([survey])
    qrels = load_qrels(made.qrels_uri, OPTIONS)
    rows = pq.read_table(made.trials_uri).to_pylist()
    assert len({one["query_id"] for one in rows}) == len(rows) == made.trials
    for one in rows:
        request = request_from_row({name: one[name] for name in ("query_id", "query", "candidates")})
        assert isinstance(request, RankRequest)
        assert qrels[one["query_id"]] == {one["needle_doc_id"]: 1}
        needle, text = NEEDLES[one["needle"] - 1], {d.doc_id: d.text for d in request.documents}[one["needle_doc_id"]]
        assert text[one["needle_start"] : one["needle_end"]] == needle.text and request.query == needle.question
        places = [document.doc_id for document in request.documents].index(one["needle_doc_id"])
        assert places == (0 if one["depth"] == 0.0 else len(request.documents) - 1)


def test_a_row_gives_the_trial_that_it_was_made_of(tmp_path: Path) -> None:
    made, _ = _write(_settings(tmp_path))
    encoder = PromptEncoder(load_tokenizer(open_model("embedded")))
    prefix = "[{place}] "
    built = list(needle_trials(TEXTS, encoder, EMBEDDED, replace(TRIALS, answer_prefix=prefix)))
    for one, expected in zip(pq.read_table(made.trials_uri).to_pylist(), built, strict=True):
        request = request_from_row({name: one[name] for name in ("query_id", "query", "candidates")})
        assert isinstance(request, RankRequest)
        place = [document.doc_id for document in request.documents].index(one["needle_doc_id"])
        where = NeedlePlace(place, Span(one["needle_start"], one["needle_end"]))
        assert copy_trial(encoder, EMBEDDED, request.query, request.documents, where, prefix) == expected.trial
    assert (made.shortest_tokens, made.longest_tokens) == (
        min(len(one.trial.prompt_ids) for one in built), max(len(one.trial.prompt_ids) for one in built),
    )  # fmt: skip


def test_the_file_says_how_it_was_made(tmp_path: Path) -> None:
    made, _ = _write(_settings(tmp_path))
    for uri in (made.trials_uri, made.qrels_uri):
        facts = json.loads(pq.read_schema(uri).metadata[NEEDLES_KEY])
        assert facts["trials"]["lengths"] == [400, 800] and facts["prompt"]["name"] == "embedded"
        assert facts["model"]["id"] == "embedded" and len(facts["texts"]) == 1


def test_the_same_command_again_finds_them_and_another_is_refused(tmp_path: Path) -> None:
    first, _ = _write(_settings(tmp_path))
    Path(first.qrels_uri).unlink()
    assert not _write(_settings(tmp_path))[0].already_there
    assert Path(first.qrels_uri).exists()
    assert _write(_settings(tmp_path))[0].already_there
    Path(first.qrels_uri).unlink()
    with pytest.raises(ConfigError, match="found other trials"):
        _write(_settings(tmp_path, trials=replace(TRIALS, seed=1)))
    assert not Path(first.qrels_uri).exists()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"body": TEXTS}, "missing columns text"),
        ({"text": [*TEXTS, None]}, "'text' is null in row 6"),
        ({"text": [1, 2]}, "'text' has type int64"),
        ({"text": pa.array([], pa.string())}, "expected rows with text, got none"),
        ({"text": ["Short."]}, "at least one piece of whole sentences"),
        ({"text": [TEXTS[0][:1500]]}, "tokens are missing"),
    ],
)
def test_texts_that_cannot_be_used(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    settings = _settings(tmp_path)
    pq.write_table(pa.table(columns), settings.texts[0])
    with pytest.raises(InputError, match=message):
        _write(settings)


def test_lengths_beyond_the_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at most 4096 tokens for this model, got 5000"):
        _write(_settings(tmp_path, trials=replace(TRIALS, lengths=(400, 5000))))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lengths": (400, 400)}, "lengths: expected different values"),
        ({"depths": (0.5, 0.5)}, "depths: expected different values"),
        ({"haystacks": 0}, "haystacks: expected at least 1"),
        ({"document_words": 0}, "document_words: expected at least 1"),
    ],
)
def test_trials_that_cannot_be_told_apart_or_built(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(TRIALS, **changes)


def test_rows_without_the_columns_are_no_needle_trials(tmp_path: Path) -> None:
    plain = survey_file(list_inputs([str(write_shard(tmp_path / "1.parquet", [row("a")]))], OPTIONS)[0], OPTIONS)
    assert not are_needle_trials([plain])
    with pytest.raises(ConfigError, match=r"1.parquet has no column 'needle_doc_id'.*qrbatch needles"):
        needle_fields([plain])
    table = pq.read_table(tmp_path / "1.parquet")
    for name, values in (("needle_doc_id", ["d0"]), ("needle_start", ["x"]), ("needle_end", [3])):
        table = table.append_column(name, pa.array(values))
    pq.write_table(table, tmp_path / "1.parquet")
    wrong = survey_file(list_inputs([str(tmp_path / "1.parquet")], OPTIONS)[0], OPTIONS)
    with pytest.raises(ConfigError, match="'needle_start' of type string instead of int64"):
        needle_fields([wrong])
