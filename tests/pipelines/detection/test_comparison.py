"""What is said of a choice of heads follows from the trials."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.detection.choice import Choice
from pipelines.detection.comparison import Trials, by_place, compare_sets, draws
from pipelines.detection.found import Examples, Found, find
from pipelines.detection.rivals import rivals
from pipelines.detection.rows import HEAD_VALUES_SCHEMA, HeadValues, row_from_values
from pipelines.detection.trials import TRIALS_SCHEMA
from pipelines.rows import Source
from qrcore.heads import HeadSet, ModelShape, parse_head

SHAPE = ModelShape(layers=4, query_heads=4, kv_heads=4)


def _trial(name: str, ndcg: float, order: str = "as_given", place: float = 0.5, above: bool | None = True) -> Any:
    return {"head_set": name, "order": order, "ndcg_10": ndcg, "above_longest": above, "gold_place": place}


def _trials(rows: list[dict[str, Any]]) -> Trials:
    trials = Trials()
    for half in (rows[::2], rows[1::2]):
        filled = [{**dict.fromkeys(TRIALS_SCHEMA.names), **one} for one in half]
        trials.add(pa.Table.from_pylist(filled, schema=TRIALS_SCHEMA))
    return trials


def _query(number: int, trials: list[Any]) -> dict[str, Any]:
    return {"query_id": f"q{number}", "trials": trials, "prompt_tokens": 100}


def test_the_chosen_set_is_compared_query_by_query() -> None:
    generator = np.random.default_rng(0)
    hard = generator.uniform(0, 0.6, size=40)
    rows = [
        _query(n, [_trial("all", hard[n]), _trial("chosen", hard[n] + 0.1, above=n % 4 > 0), _trial("core", hard[n])])
        for n in range(40)
    ]
    chosen, *others = compare_sets(_trials(rows), "as_given")
    assert (chosen.name, chosen.queries, chosen.above_longest) == ("chosen", 40, 0.75)
    assert chosen.ndcg_10.mean == pytest.approx(hard.mean() + 0.1)
    assert chosen.ndcg_10.low < chosen.ndcg_10.mean < chosen.ndcg_10.high
    assert chosen.chosen_minus.mean == chosen.chosen_minus.low == 0.0
    assert {one.name for one in others} == {"all", "core"}
    for one in others:
        # Paired: the queries' own differences are 0.1 each, however much their values spread.
        assert one.chosen_minus.low == pytest.approx(0.1, abs=1e-6) == one.chosen_minus.high


def test_random_sets_are_told_by_their_seeds() -> None:
    rows = [
        _query(n, [_trial("chosen", 0.9), *(_trial(f"random-{s}", 0.1 * s) for s in range(3))]
               + [_trial(f"random-same-layers-{s}", 0.5) for s in range(2)])
        for n in range(4)
    ]  # fmt: skip
    anywhere, same = draws(compare_sets(_trials(rows), "as_given"))
    assert (anywhere.name, anywhere.mean, anywhere.deviation, anywhere.seeds) == (
        "random", pytest.approx(0.1), pytest.approx(0.1), 3,
    )  # fmt: skip
    assert (same.name, same.mean, same.deviation, same.seeds) == ("random-same-layers", 0.5, 0.0, 2)


def test_quality_by_the_place_of_the_gold_document() -> None:
    rows = [
        _query(n, [_trial("chosen", 1.0 if n < 5 else 0.2, place=0.0 if n < 5 else 1.0),
                   _trial("chosen", 0.5, order="reversed", place=0.5)])
        for n in range(10)
    ]  # fmt: skip
    given, reverse = by_place(_trials(rows))
    assert given.early is not None and given.late is not None
    assert (given.order, given.early.mean, given.late.mean) == ("as_given", 1.0, pytest.approx(0.2))
    assert given.mean.mean == pytest.approx(0.6)
    assert (reverse.order, reverse.early, reverse.late, reverse.mean.mean) == ("reversed", None, None, 0.5)


def test_rows_without_trials_are_counted() -> None:
    failed = {"query_id": "x", "error": {"code": "null_query", "kind": "input", "message": "m", "stage": "s"}}
    trials = _trials([failed, {"query_id": "y"}, _query(1, [_trial("chosen", 0.5)]), failed])
    assert (trials.errors, trials.kept_back, trials.queries) == ({"null_query": 2}, 1, 1)


def _found(method: str, seed: int, top: int) -> Found:
    generator = np.random.default_rng(seed)
    examples = Examples(SHAPE)
    rows = [
        row_from_values(
            "q", HeadValues("dev", 9, 1, 0, {method: generator.uniform(size=16)}, 5, "x", "d"), Source("f", 0)
        )
        for _ in range(6)
    ]
    examples.add(pa.Table.from_pylist(rows, schema=HEAD_VALUES_SCHEMA))
    return find(examples, method, {}, Choice(top, None, 0))


def test_rivals_of_a_choice() -> None:
    chosen, other = _found("qrscore", 1, top=4), _found("core", 2, top=4)
    found = rivals(chosen, [other], SHAPE, Choice(4, None, 0))
    assert found["chosen"] == tuple(str(one.head) for one in chosen.chosen)
    assert found["core"] == tuple(str(one.head) for one in other.chosen)
    assert len(found["all"]) == 16
    assert len({found[f"random-{seed}"] for seed in range(5)}) > 1
    assert "any-depth" not in found
    layers = sorted(parse_head(head).layer for head in found["chosen"])
    assert all(sorted(parse_head(h).layer for h in found[f"random-same-layers-{seed}"]) == layers for seed in range(5))
    assert {len(found[name]) for name in found if name.startswith("top-")} <= {1, 2, 8, 16}
    assert found["top-2"] == found["chosen"][:2] and len(found["top-8"]) == 8
    for name, heads in found.items():
        if name.startswith("up-to-layer-"):
            assert max(parse_head(head).layer for head in heads) <= int(name.rsplit("-", 1)[1]) < max(layers)
            assert len(heads) == 4
    assert any(name.startswith("up-to-layer-") for name in found)


def test_other_head_sets_are_rivals_by_their_ids_and_so_is_the_choice_without_its_limit() -> None:
    chosen = _found("qrscore", 1, top=4)
    compared = [HeadSet(name="all", heads=("0-1", "2-2", "0-1")), HeadSet(name="all", heads=("3-3",))]
    found = rivals(chosen, [], SHAPE, Choice(4, 2, 0), compared)
    assert len(found["all"]) == 16, "a set that is called like a rival of ours does not take its place"
    assert [found[one.id] for one in compared] == [("0-1", "2-2", "0-1"), ("3-3",)]
    assert found["any-depth"] == tuple(str(one.head) for one in chosen.scores[:4])


def test_prompts_are_as_long_as_one_of_the_orders() -> None:
    trials = _trials([_query(0, [_trial("chosen", 0.5, order) for order in ("as_given", "reversed")])])
    assert trials.prompt_tokens == [50]
