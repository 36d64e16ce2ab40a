"""From rows of examples to a head set and its evidence."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.detection.choice import Choice
from pipelines.detection.found import (
    Examples,
    Found,
    Origin,
    find,
    head_score_table,
    head_set,
    overlaps,
    warnings,
)
from pipelines.detection.rows import HEAD_SCORES_SCHEMA, HEAD_VALUES_SCHEMA, HeadValues, row_from_values
from pipelines.rows import Source
from qrcore.errors import ConfigError, InputError, ScoreError
from qrcore.heads import Head, HeadSet, ModelShape
from qrcore.prompts import EMBEDDED
from qrcore.records import ScorerIdentity

SHAPE = ModelShape(layers=2, query_heads=3, kv_heads=3)
LEVELS = np.array([0.1, 0.9, 0.2, 0.8, 0.3, 0.05])  # heads 0-1, 1-0, 1-1, 0-2, 0-0, 1-2


def _rows(count: int = 20, seed: int = 0, spread: float = 0.05) -> list[dict[str, Any]]:
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        drawn = LEVELS + generator.normal(scale=spread, size=6)
        values = {"qrscore": drawn.tolist(), "core": (-drawn).tolist()}
        answer = HeadValues("dev", 10, 1, 2, values, 100 + number, f"sha-{number}", f"digest-{number:02}")
        rows.append(row_from_values(f"q{number}", answer, Source("f", number)))
    return rows


def _examples(*units: list[dict[str, Any]]) -> Examples:
    examples = Examples(SHAPE)
    for rows in units:
        examples.add(pa.Table.from_pylist(rows, schema=HEAD_VALUES_SCHEMA))
    return examples


def _found(examples: Examples, method: str = "qrscore", top: int = 2, max_layer: int | None = None) -> Found:
    return find(examples, method, {"calibration_weight": 1.0}, Choice(top, max_layer, seed=0))


def test_units_are_merged_into_the_same_answer_as_one() -> None:
    rows = _rows()
    assert _found(_examples(rows)) == _found(_examples(rows[:7], rows[7:8], rows[8:]))
    assert _examples(rows).sha256 == _examples(rows[10:], rows[:10]).sha256 != _examples(rows[1:]).sha256


def test_the_best_heads_are_chosen() -> None:
    found = _found(_examples(_rows()))
    assert [str(one.head) for one in found.chosen] == ["0-1", "1-0"]
    assert [one.head for one in found.scores][-1] == Head(1, 2)
    assert found.stability is not None and found.stability.overlap == 1.0
    assert [str(one.head) for one in _found(_examples(_rows()), max_layer=0).chosen] == ["0-1", "0-2"]
    with pytest.raises(ConfigError, match="up to layer 0"):
        _found(_examples(_rows()), top=4, max_layer=0)


def test_methods_are_compared_by_the_heads_they_share() -> None:
    examples = _examples(_rows())
    found = [_found(examples, "qrscore", top=3), _found(examples, "core", top=3)]
    assert overlaps(found) == [[1.0, 0.0], [0.0, 1.0]]
    assert overlaps([_found(examples, top=4), _found(examples, "core", top=4)])[0][1] == 0.5


def test_failed_and_kept_rows_are_counted_and_not_used() -> None:
    failed = row_from_values("x", ScoreError("nothing_relevant", "no", stage="validate"), Source("f", 90))
    kept = row_from_values("y", HeadValues("test", 10, 1, 3, None), Source("f", 91))
    examples = _examples([failed, *_rows(), kept, failed])
    assert (examples.errors, examples.kept_back, len(examples.prompt_tokens)) == ({"nothing_relevant": 2}, 1, 20)
    assert _found(examples) == _found(_examples(_rows()))
    assert (examples.relevant, examples.relevant_elsewhere) == (21, 43)
    with pytest.raises(InputError, match=r"got none \(2 nothing_relevant; 1 kept"):
        _found(_examples([failed, kept, failed]))


def _origin() -> Origin:
    facts = ScorerIdentity(
        head_set_id="all@0", heads=(), prompt=_prompt(), prompt_sha256=EMBEDDED.hash, revision="abc",
        weights_sha256="w" * 64, setup_sha256="s", layers=2, kept_layers=2, dtype="float32", device="cpu",
        max_tokens=4096,
    )  # fmt: skip
    return Origin(
        name="mine", model_id="org/model", facts=facts, shape=SHAPE, dataset_id="nq-dev", order="shuffled",
        null_query="N/A", calibration_weight=1.0, query_span="official", code_version="0.1", contamination=None,
    )  # fmt: skip


def _prompt() -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(EMBEDDED)


def test_the_head_set_remembers_how_it_was_found() -> None:
    examples = _examples(_rows())
    found = _found(examples)
    chosen = head_set(found, examples, _origin())
    assert HeadSet.model_validate_json(chosen.model_dump_json()) == chosen
    assert chosen.heads == ("0-1", "1-0") and chosen.scores == tuple(one.score for one in found.chosen)
    assert chosen.intervals is not None and chosen.intervals[0][0] < found.chosen[0].score < chosen.intervals[0][1]
    assert (chosen.examples, chosen.order, chosen.revision, chosen.method) == (20, "shuffled", "abc", "qrscore")
    assert chosen.prompt_tokens == {"p5": 100, "p50": 109, "p95": 118}
    assert chosen.prompt == EMBEDDED and chosen.dataset_sha256 == examples.sha256
    chosen.check_fits(SHAPE)


def test_the_table_holds_every_head_of_every_method() -> None:
    examples = _examples(_rows())
    found = [_found(examples), _found(examples, "core")]
    table = pq.read_table(io.BytesIO(head_score_table(found, _origin())))
    assert table.schema.equals(HEAD_SCORES_SCHEMA)
    rows = table.to_pylist()
    assert len(rows) == 2 * 6
    assert (rows[0]["method"], rows[0]["layer"], rows[0]["head"], rows[0]["examples"]) == ("qrscore", 0, 1, 20)
    assert rows[0]["low"] < rows[0]["score"] < rows[0]["high"]
    assert rows[0]["score"] == pytest.approx(found[0].scores[0].score)


def test_what_a_user_should_know() -> None:
    many, few = _examples(_rows()), _examples(_rows(count=5))
    assert warnings(_found(many), many) == ()
    assert "5 examples are few" in warnings(_found(few), few)[0]
    noise = _examples(
        [
            row_from_values(
                f"q{n}", HeadValues("dev", 9, 1, 0, {"qrscore": [(-1.0) ** n] * 6}, 9, "x", "d"), Source("f", n)
            )
            for n in range(20)
        ]
    )
    assert warnings(_found(noise), noise) == ("the interval of the best head's score includes 0",)
