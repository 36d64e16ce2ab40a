"""Units in tokens, made where no weights are."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pyarrow as pa

from pipelines.actors import RequestUnitEncoder
from pipelines.encoding import EncodeUnit
from pipelines.plan import Unit
from pipelines.rows import request_from_row
from pipelines.schemas import INPUT_SCHEMA
from pipelines.scorers import ScorerSettings
from pipelines.units import UnitRows, to_ipc, unit_rows
from qrcore import load_scorer
from qrcore.encoding import EncodedRequest
from qrcore.errors import ScoreError
from qrcore.records import RankRequest
from tests.shards import HEADS, MODEL, candidates, row

SETTINGS = ScorerSettings(model=MODEL, heads=HEADS, device="cpu", order="reversed")
ROWS = [row("q0"), row("q1", query=None), row("q0"), row("twice", candidates=candidates(1) * 2), row("q3")]


def table() -> pa.Table:
    return pa.Table.from_pylist(ROWS, schema=INPUT_SCHEMA)


def test_rows_come_out_as_tokens_or_with_the_reason_in_order() -> None:
    encoded = RequestUnitEncoder(SETTINGS).encode(UnitRows(table(), "a.parquet", 10, frozenset({12})))
    assert [one.code if isinstance(one, ScoreError) else None for one in encoded] == [
        None, "null_query", "duplicate_query_id", "duplicate_doc_id", None,
    ]  # fmt: skip
    assert [one.request.query_id for one in encoded if isinstance(one, EncodedRequest)] == ["q0", "q3"]


def test_a_scorer_ranks_them_as_it_ranks_the_rows() -> None:
    encoded = RequestUnitEncoder(SETTINGS).encode(UnitRows(table(), "a.parquet", 10, frozenset()))
    scorer = load_scorer(MODEL, heads=HEADS, device="cpu", order="reversed")
    asked = [request_from_row(one) for one in (ROWS[0], ROWS[4])]
    ranked = list(scorer.rank_encoded([encoded[0], encoded[4]]))
    assert ranked == list(scorer.rank_many(one for one in asked if isinstance(one, RankRequest)))


def test_what_travels_is_what_was_encoded_and_parts_keep_their_rows() -> None:
    unit = Unit(unit_id="u", file=0, start=10, stop=15, bytes=1, tokens=1, duplicates=(12,))
    seconds = json.dumps({"read_s": 1.0})
    sent = {"unit": unit.model_dump_json(), "uri": "a", "table": to_ipc(table()), "seconds": seconds}
    received = EncodeUnit(lambda: RequestUnitEncoder(SETTINGS))(sent)
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
