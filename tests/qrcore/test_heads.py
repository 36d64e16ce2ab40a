"""Heads, head sets as artifacts, and their fit to a model."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrcore import heads
from qrcore.errors import HeadSetError
from qrcore.heads import (
    Head,
    HeadSet,
    ModelShape,
    all_heads,
    compare_head_sets,
    head_set_from_list,
    kv_heads,
    load_head_set,
    parse_head,
    published_names,
    read_head_set,
    resolve_heads,
    unique_heads,
)
from qrcore.prompts import PLAIN

SHAPE = ModelShape(layers=4, query_heads=8, kv_heads=2, head_dim=16, vocab_size=512, rope={"rope_theta": 1e4})
FULL = HeadSet(
    name="mine",
    heads=("3-1", "0-7"),
    scores=(0.5, 0.25),
    intervals=((0.4, 0.6), (0.1, 0.4)),
    model_id="org/model",
    revision="abc",
    weights_sha256="0" * 64,
    shape=SHAPE,
    method="qrhead",
    method_settings={"top": 2, "nested": {"a": [1, 2]}},
    detection_data="lme",
    dataset_sha256="1" * 64,
    detection_queries=("0123456789abcdef",),
    examples=70,
    prompt=PLAIN,
    null_query="N/A",
    calibration_weight=1.0,
    query_span="official",
    order="reversed",
    dtype="float32",
    prompt_tokens={"p50": 900},
    truncation="first 400 words",
    contamination="its own test queries",
    code_version="0.1.0",
    source="here",
    notes="none",
)


@given(layer=st.integers(0, 999), head=st.integers(0, 999))
def test_a_head_is_written_and_read_back(layer: int, head: int) -> None:
    assert parse_head(f" {Head(layer, head)} ") == Head(layer, head)


@pytest.mark.parametrize("text", ["", "3", "3-", "-1", "3-1-2", "3_1", "a-b", "3--1", "3.0-1", "3-1,4-0"])
def test_what_is_no_head_is_refused(text: str) -> None:
    with pytest.raises(HeadSetError, match="layer-head"):
        parse_head(text)


def test_a_list_keeps_order_and_repetition() -> None:
    assert head_set_from_list("3-1, 4-0,3-1").head_list == (Head(3, 1), Head(4, 0), Head(3, 1))
    assert unique_heads(head_set_from_list("3-1,4-0,3-1").head_list) == (Head(3, 1), Head(4, 0))


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(HeadSetError, match="at least one head"):
        head_set_from_list(" , ")


def test_depth_reaches_the_deepest_head() -> None:
    assert head_set_from_list("0-7,2-0,1-1").depth == 3


def test_all_heads_are_every_head_once() -> None:
    every = all_heads(SHAPE).head_list
    assert len(every) == len(set(every)) == 32
    assert (every[0], every[-1], all_heads(SHAPE).depth) == (Head(0, 0), Head(3, 7), 4)


def test_json_round_trip_keeps_everything() -> None:
    assert read_head_set(FULL.model_dump_json(), "x") == FULL
    assert read_head_set(FULL.model_dump_json(), "x").id == FULL.id
    assert read_head_set('{"name": "short", "heads": ["1-2"]}', "x").head_list == (Head(1, 2),)


def test_the_id_names_the_content() -> None:
    name, digits = FULL.id.split("@")
    assert name == "mine"
    assert len(digits) == 12 and set(digits) <= set("0123456789abcdef")
    ids = {FULL.model_copy(update={field: None}).id for field in HeadSet.model_fields if field not in ("name", "heads")}
    assert len(ids | {FULL.id}) == len(HeadSet.model_fields) - 2 + 1
    assert FULL.model_copy(update={"heads": ("0-7", "3-1")}).id != FULL.id


def test_a_field_that_is_not_recorded_leaves_the_id_alone() -> None:
    old = {"name": "mine", "heads": ("3-1",)}
    assert HeadSet(**old).id == HeadSet(**old, dataset_sha256=None, method_settings={}).id
    # As of 0.1; runs are named by it.
    assert HeadSet(**old).id == "mine@6dd642ef51e1"


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"heads": []}, "heads"),
        ({"heads": ["1"]}, "layer-head"),
        ({"name": ""}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": "x" * 129}, "name"),
        ({"layers": 3}, "layers"),
        ({"query_span": "all"}, "query_span"),
        ({"order": "best"}, "order"),
        ({"shape": {"layers": 4}}, "shape"),
        ({"prompt": {"name": "p"}}, "prompt"),
    ],
)
def test_a_malformed_file_is_refused_with_the_place(change: dict[str, Any], place: str) -> None:
    text = json.dumps({"name": "mine", "heads": ["1-2"], **change})
    with pytest.raises(HeadSetError, match=place) as caught:
        read_head_set(text, "some.json")
    assert "some.json" in str(caught.value)


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(HeadSetError, match=r"some\.json"):
        read_head_set("1-2", "some.json")


def test_a_head_set_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        FULL.name = "other"


@pytest.mark.parametrize("field", ["layers", "query_heads", "kv_heads", "head_dim", "vocab_size"])
def test_every_recorded_number_must_be_the_models(field: str) -> None:
    FULL.check_fits(SHAPE)
    other = SHAPE.model_copy(update={field: getattr(SHAPE, field) * 2})
    with pytest.raises(HeadSetError, match=rf"{field} \d+ \(model: {getattr(other, field)}\)"):
        FULL.check_fits(other)


def test_other_rotary_positions_are_another_model() -> None:
    with pytest.raises(HeadSetError, match=r"rope .*10000.0.* \(model: .*500000"):
        FULL.check_fits(SHAPE.model_copy(update={"rope": {"rope_theta": 500000.0}}))


def test_numbers_that_were_not_recorded_are_not_compared() -> None:
    recorded = ModelShape(layers=4, query_heads=8, kv_heads=2)
    FULL.model_copy(update={"shape": recorded}).check_fits(SHAPE)


@pytest.mark.parametrize("head", ["4-0", "0-8"])
def test_heads_outside_the_model_are_refused_by_name(head: str) -> None:
    with pytest.raises(HeadSetError, match=f"layers 0-3 and heads 0-7; got {head}"):
        head_set_from_list(f"0-0,{head},3-7").check_fits(SHAPE)


def test_what_the_argument_may_be(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(FULL.model_dump_json(), encoding="utf-8")
    assert resolve_heads(None, FULL, SHAPE) is FULL
    assert resolve_heads("mine", FULL, SHAPE) is FULL
    assert resolve_heads(FULL, None, SHAPE) is FULL
    assert resolve_heads(str(file), None, SHAPE) == FULL
    assert resolve_heads("all", FULL, SHAPE) == all_heads(SHAPE)
    assert resolve_heads("3-1,0-7", FULL, SHAPE).heads == ("3-1", "0-7")
    assert resolve_heads([Head(3, 1), (0, 7)], FULL, SHAPE).heads == ("3-1", "0-7")  # type: ignore[list-item]


def test_whatever_is_chosen_must_fit() -> None:
    for chosen in (None, "9-0", [Head(9, 0)], head_set_from_list("9-0")):
        with pytest.raises(HeadSetError, match="9-0"):
            resolve_heads(chosen, head_set_from_list("9-0"), SHAPE)


def test_names_that_can_be_chosen_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "published_names", lambda: ("first-set", "second-set"))
    with pytest.raises(HeadSetError, match="one of first-set, second-set; got 'third-set'"):
        resolve_heads("third-set", None, SHAPE)
    with pytest.raises(HeadSetError, match=r"ships none.*first-set, second-set"):
        resolve_heads(None, None, SHAPE)


def test_what_two_sets_share() -> None:
    found = compare_head_sets(head_set_from_list("3-1,0-7,1-1,0-7"), head_set_from_list("1-1,2-2,3-1"))
    assert found.both == (Head(1, 1), Head(3, 1))
    assert (found.only_first, found.only_second) == ((Head(0, 7),), (Head(2, 2),))
    assert found.jaccard == 0.5


def test_query_heads_share_key_value_heads() -> None:
    heads = head_set_from_list("3-1,3-3,0-7,3-4").head_list
    assert kv_heads(heads, SHAPE) == (Head(0, 1), Head(3, 0), Head(3, 1))


def test_every_published_name_opens() -> None:
    folder = resources.files("qrcore") / "headsets"
    files = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".json")) if folder.is_dir() else []
    assert [f"{name}.json" for name in published_names()] == files
    for name in published_names():
        head_set = load_head_set(name)
        assert head_set.name == name
        assert head_set.source, "a published list says where it was published"
        assert len(head_set.scores or head_set.heads) == len(head_set.heads)
        if head_set.shape:
            head_set.check_fits(head_set.shape)
