"""The choice of heads, on planted scores, and the head set that is written."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest

from pipelines.training import head_study
from pipelines.training.head_study import head_table, remove_head_set, write_head_set, write_taught_head_set
from pipelines.training.judged import JudgedSet
from qrcore import load_scorer
from qrcore.errors import ConfigError, InputError
from qrcore.heads import Head, all_heads, head_set_from_list
from qrcore.models import ModelShape, open_model
from qrcore.shipped import embedded_folder
from tests.pipelines.training.collection import DEV_IDS, TEST_IDS, PlantedScorer, plain_rows, planted, read

SHAPE = ModelShape(layers=2, query_heads=3, kv_heads=3)
SECOND = 1 / math.log2(3)
THIRD = 1 / math.log2(4)


def lists_named(name: str, ids: tuple[str, ...] = (*DEV_IDS, *TEST_IDS)) -> JudgedSet:
    return JudgedSet(name, tuple(planted(query_id, f"{name} gold", "b", "c") for query_id in ids), ranked=False)


def plant(monkeypatch: pytest.MonkeyPatch, ranks: dict[str, dict[str, int]]) -> list[object]:
    """Heads that put the gold of a list at the given rank (else third); returns what was loaded."""
    loaded: list[object] = []

    def by_head(query: str, doc_id: str, head: Head) -> float:
        if not doc_id.endswith("gold"):
            return {"b": 2.0, "c": 1.0}[doc_id]
        return 3.5 - ranks.get(doc_id.removesuffix(" gold"), {}).get(str(head), 3)

    def open_planted(folder: str, heads: object = None, device: str = "auto") -> PlantedScorer:
        loaded.append(heads)
        chosen = all_heads(SHAPE) if heads == "all" else head_set_from_list(",".join(map(str, heads)))  # type: ignore[call-overload]
        return PlantedScorer(by_head, chosen)

    monkeypatch.setattr(head_study, "open_scorer", open_planted)
    return loaded


def test_heads_come_best_first_and_of_one_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, {"a": {"1-1": 1, "0-2": 2, "0-0": 2}})
    table = head_table("model", [lists_named("a")], top=2)
    assert list(table.scores)[:3] == ["1-1", "0-0", "0-2"]
    assert table.scores["1-1"] == 1.0
    assert table.scores["0-2"] == pytest.approx(SECOND)
    assert table.scores["1-0"] == pytest.approx(THIRD)
    assert table.chosen == ("1-1", "1-0"), "not the two best of all, which stand in two layers"
    assert head_table("model", [lists_named("a")], top=1).chosen == ("1-1",)
    assert table.queries == len(DEV_IDS), "test queries serve no choice"
    assert table.draws["0-1"] == 0
    assert {head: table.draws[head] for head in table.chosen} == dict.fromkeys(table.chosen, 20)
    assert sum(table.draws.values()) == 2 * table.draw_count == 40


def test_the_layer_is_chosen_by_its_best_heads_together(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, {"a": {"1-1": 1, "0-2": 1, "0-0": 2}})
    table = head_table("model", [lists_named("a")], top=2)
    assert table.chosen == ("0-2", "0-0")
    assert list(table.scores)[:2] == ["0-2", "1-1"], "the table itself is of all heads"


def test_lists_weigh_alike_whatever_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, {"large": {"0-0": 1, "0-1": 2}, "small": {"0-1": 1}})
    table = head_table("model", [lists_named("large"), lists_named("small", DEV_IDS[:1])], top=1)
    assert table.scores["0-0"] == pytest.approx((1 + THIRD) / 2)
    assert table.scores["0-1"] == pytest.approx((SECOND + 1) / 2)
    assert table.chosen == ("0-1",)
    assert table.by_list["large"]["0-0"] == 1.0
    assert table.by_list["small"]["0-0"] == pytest.approx(THIRD)
    assert table.queries == len(DEV_IDS) + 1


def test_transfer_is_zero_where_lists_choose_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = plant(monkeypatch, {"a": {"0-0": 1, "0-1": 2}, "b": {"0-0": 2, "0-1": 1}})
    table = head_table("model", [lists_named("a"), lists_named("b")], top=2)
    assert table.transfer == {"a": 0.0, "b": 0.0}
    assert loaded == ["all"], "nothing was scored again"


def test_transfer_is_what_is_lost_by_choosing_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = plant(monkeypatch, {"a": {"0-0": 1, "1-1": 2}, "b": {"1-1": 1}})
    table = head_table("model", [lists_named("a"), lists_named("b")], top=1)
    assert table.transfer["a"] == pytest.approx(SECOND - 1)
    assert table.transfer["b"] == pytest.approx(THIRD - 1)
    assert set(loaded[1:]) == {(Head(0, 0),), (Head(1, 1),)}


def test_one_list_has_nothing_to_transfer_from(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, {"a": {"0-0": 1}})
    assert head_table("model", [lists_named("a")], top=1).transfer == {}


def test_draws_tell_an_unsure_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, {"a": {"0-0": 1}, "b": {"1-0": 1}})
    judged = JudgedSet("ab", (*lists_named("a", DEV_IDS[:3]).lists, *lists_named("b", DEV_IDS[3:]).lists), ranked=False)
    table = head_table("model", [judged], top=1, draws=20)
    assert table.draws["0-0"] + table.draws["1-0"] == 20
    assert 3 <= table.draws["0-0"] <= 17
    assert head_table("model", [judged], top=1, draws=20).draws == table.draws


def test_what_cannot_be_chosen_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, {})
    with pytest.raises(ConfigError, match="expected 1 to 3 heads"):
        head_table("model", [lists_named("a")], top=4)
    with pytest.raises(InputError, match="expected dev queries"):
        head_table("model", [lists_named("a", TEST_IDS)], top=1)


def test_heads_of_a_real_model_equal_its_scorer(tmp_path: Path) -> None:
    judged = read(tmp_path, plain_rows())
    table = head_table("embedded", [judged], top=2)
    scorer = load_scorer("embedded", heads=next(iter(table.scores)))
    values = []
    for entry in judged.part("dev"):
        ranking = [d.doc_id for d in scorer.rank(entry.query, entry.documents).documents]
        values.append(1 / math.log2(ranking.index(f"d{entry.query_id[1:]}") + 2))
    assert max(table.scores.values()) == pytest.approx(sum(values) / len(values))


def test_the_head_set_that_is_written_is_the_one_that_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(embedded_folder(), folder)
    plant(monkeypatch, {"a": {"1-1": 1, "1-2": 2, "1-0": 3}})
    table = head_table(str(folder), [lists_named("a")], top=2)
    written = write_head_set(str(folder), table)
    assert written.heads == ("1-1", "1-2")
    assert written.scores == (1.0, round(SECOND, 4))
    assert (written.detection_data, written.examples) == ("a", len(DEV_IDS))
    scorer = load_scorer(str(folder))
    assert scorer.heads == written
    assert scorer.identity.weights_sha256 == written.weights_sha256
    assert open_model(str(folder)).shape == written.shape


def test_taught_heads_are_a_head_set_until_heads_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    shutil.copytree(embedded_folder(), folder)
    taught = write_taught_head_set(str(folder), ("1-0", "1-1"), name="mine")
    assert (taught.name, taught.heads, taught.method, taught.scores) == ("mine", ("1-0", "1-1"), "taught", None)
    assert "not measured" in str(taught.notes)
    assert load_scorer(str(folder)).heads == taught
    plant(monkeypatch, {"a": {"1-1": 1, "1-2": 2, "1-0": 3}})
    measured = write_head_set(str(folder), head_table(str(folder), [lists_named("a")], top=2), name="mine")
    frame = {"prompt", "null_query", "calibration_weight", "query_span", "order", "dtype", "weights_sha256", "shape"}
    assert measured.model_dump(include=frame) == taught.model_dump(include=frame), "measured and used alike"
    remove_head_set(str(folder))
    assert open_model(str(folder)).head_set is None
