"""Units in tokens, made where no weights are."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.actors import RequestUnitEncoder, UnitScorer
from pipelines.encoding import EncodeUnit
from pipelines.job import EncodesAhead
from pipelines.plan import Unit
from pipelines.rerank import RerankJob
from pipelines.rows import request_from_row
from pipelines.run import used_pool
from pipelines.schemas import INPUT_SCHEMA, ranking_schema
from pipelines.scorers import ScorerSettings
from pipelines.units import UnitRows, to_ipc, unit_rows
from qrcore import load_scorer
from qrcore.encoding import EncodedRequest
from qrcore.errors import ScoreError
from qrcore.records import RankRequest
from qrcore.windows import ContextSettings
from tests.pipelines.reranking import settings_for
from tests.shards import HEADS, MODEL, candidates, row

SETTINGS = ScorerSettings(model=MODEL, heads=HEADS, device="cpu", order="reversed")
PLAIN = ContextSettings()
ROWS = [row("q0"), row("q1", query=None), row("q0"), row("twice", candidates=candidates(1) * 2), row("q3")]


def table() -> pa.Table:
    return pa.Table.from_pylist(ROWS, schema=INPUT_SCHEMA)


def test_rows_come_out_as_tokens_or_with_the_reason_in_order() -> None:
    encoded = RequestUnitEncoder(SETTINGS, PLAIN).encode(UnitRows(table(), "a.parquet", 10, frozenset({12})))
    assert [one.code if isinstance(one, ScoreError) else None for one in encoded] == [
        None, "null_query", "duplicate_query_id", "duplicate_doc_id", None,
    ]  # fmt: skip
    assert [one.request.query_id for one in encoded if isinstance(one, EncodedRequest)] == ["q0", "q3"]


def test_a_scorer_ranks_them_as_it_ranks_the_rows() -> None:
    encoded = RequestUnitEncoder(SETTINGS, PLAIN).encode(UnitRows(table(), "a.parquet", 10, frozenset()))
    scorer = load_scorer(MODEL, heads=HEADS, device="cpu", order="reversed")
    asked = [request_from_row(one) for one in (ROWS[0], ROWS[4])]
    ranked = list(scorer.rank_encoded([encoded[0], encoded[4]]))
    assert ranked == list(scorer.rank_many(one for one in asked if isinstance(one, RankRequest)))


def test_tokens_made_ahead_are_those_of_the_scorer_in_every_setting() -> None:
    """A prompt that is shuffled by a seed, or longer than it may be, is the same wherever it is made."""
    settings = replace(SETTINGS, order="shuffled", order_seed=7)
    contexts = ContextSettings(window_tokens=300)
    unit = UnitRows(
        pa.Table.from_pylist([row("q0"), row("q1", candidates=candidates(40))], schema=INPUT_SCHEMA),
        "a",
        0,
        frozenset(),
    )
    ahead = replace(unit, encoded=RequestUnitEncoder(settings, contexts).encode(unit))
    there, here = (
        UnitScorer(settings, contexts, ranking_schema(())).answer(one)[0].to_pylist() for one in (ahead, unit)
    )
    assert there == here
    assert [one["error"] and one["error"]["code"] for one in there] == [None, "context_too_long"]
    (first, _), (other, _) = (
        RequestUnitEncoder(replace(settings, order_seed=seed), contexts).encode(unit) for seed in (7, 8)
    )
    assert isinstance(first, EncodedRequest) and isinstance(other, EncodedRequest)
    assert first.prompt_order != other.prompt_order


@pytest.mark.parametrize(
    ("contexts", "ahead"),
    [
        ({}, 2),
        ({"window_tokens": 300}, 2),
        ({"policy": "tournament"}, 0),
        ({"long_documents": "split_and_pool"}, 0),
    ],
)
def test_windows_are_never_tokenised_ahead(contexts: dict[str, Any], ahead: int) -> None:
    settings = settings_for("in", "out", contexts=contexts, actors={"tokenisers": 2})
    job = RerankJob(settings, None)
    assert isinstance(job, EncodesAhead) and job.encodes_ahead == bool(ahead)
    assert used_pool(job, settings.run.pool).encoders == ahead
    if not ahead:
        with pytest.raises(RuntimeError, match="defect"):
            RequestUnitEncoder(SETTINGS, settings.contexts)


def test_what_travels_is_what_was_encoded_and_parts_keep_their_rows() -> None:
    unit = Unit(unit_id="u", file=0, start=10, stop=15, bytes=1, tokens=1, duplicates=(12,))
    seconds = json.dumps({"read_s": 1.0})
    sent = {"unit": unit.model_dump_json(), "uri": "a", "table": to_ipc(table()), "seconds": seconds}
    received = EncodeUnit(lambda: RequestUnitEncoder(SETTINGS, PLAIN))(sent)
    rows = unit_rows(received, unit)
    assert rows.encoded is not None and len(rows.encoded) == len(rows.table) == 5
    took = json.loads(received["seconds"])
    assert took["read_s"] == 1.0 and took["tokenise_s"] > 0
    (last,) = rows.part(4, 5).encoded or ()
    assert isinstance(last, EncodedRequest) and last.request.query_id == "q3"
    assert rows.part(4, 5).first_row == 14 and rows.part(0, 5) is rows
    whole = pickle.loads(received["encoded"])[4]
    np.testing.assert_array_equal(whole.prefix_ids, last.prefix_ids)
    assert unit_rows(sent, unit).encoded is None
