"""From stored rows to the report, by hand; the masks of the other split; pages, also in a browser."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.answers.settings import AnswererSettings
from pipelines.cluster import ClusterSettings
from pipelines.commit import CommittedObject, StoredUnit
from pipelines.flips.masks import CONTROL, audit_masks
from pipelines.flips.model import FlipFacts, FlipModel, Phase
from pipelines.flips.page import flips_page
from pipelines.flips.report import FlipCounts, FlipReport, Ranked
from pipelines.flips.rows import FLIP_FIELDS, flip_schema
from pipelines.flips.run import FlipFiles, FlipJob, FlipSettings
from pipelines.job import RunSettings
from pipelines.plan import Plan, PlannedFile, Unit, encode_schema
from pipelines.report.parts import committed_run
from pipelines.storage import Storage, StorageOptions
from pipelines.work import PoolSettings
from qrcore.contracts.answerer import AnswererIdentity
from qrcore.errors import InputError
from qrcore.heads import Head, ModelShape
from tests.pipelines.chromium import Browser, needs_browser
from tests.pipelines.test_report_browser import CHARTS, beyond, written
from tests.pipelines.unit_samples import footer_of

SHAPE = ModelShape(layers=2, query_heads=4, kv_heads=4)
MASKS = {"top-2": ("1-0", "1-1"), f"top-2{CONTROL}1": ("1-2", "1-3")}
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _said(mask: str, p_yes: float, first: str = "own", coherent: bool = True) -> dict[str, Any]:
    return {
        "first": first, "follow_up": 0, "mask": mask, "p_yes": p_yes, "p_no": 0.5, "logit_margin": 0.0, "entropy": 1.0,
        "coherent": coherent, "flipped": p_yes < 0.5,
    }  # fmt: skip


def _row(number: int, correct: bool, asked: list[dict[str, Any]], looking: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "query_id": f"q{number}",
        "part": "test",
        "answer": "a",
        "recall": float(correct),
        "correct": correct,
        "asked": asked,
        "looking": [{"follow_up": 0, "heads": list(looking)}] if looking else [],
        "prompt_tokens": 10,
        "source": {"uri": "s3://bucket/needles.parquet", "row": number},
    }


def _failed(number: int) -> dict[str, Any]:
    error = {"code": "no_needle", "kind": "input", "message": "none. Correct the row.", "stage": "validate"}
    return {"query_id": f"q{number}", "source": {"uri": "u", "row": number}, "error": error}


def _kept(number: int) -> dict[str, Any]:
    return {"query_id": f"q{number}", "part": "dev", "source": {"uri": "u", "row": number}}


def _plan(rows: int) -> Plan:
    return Plan(
        run_id="flips-0123456789ab", job="flips", name="flips", config_hash="c", input_hash="i",
        config={"masks.controls": 1}, provenance={"told": "a model is asked again", "warnings": []}, order="as_given",
        files=(PlannedFile(uri="u", size=1, etag="e", rows=rows, bytes=1, tokens=1),), skipped_files=(),
        units=(Unit(unit_id="u", file=0, start=0, stop=rows, bytes=1, tokens=1),),
        schema_ipc=encode_schema(flip_schema(())),
    )  # fmt: skip


def _stored(rows: list[Mapping[str, Any]]) -> StoredUnit:
    failed = sum("error" in row for row in rows)
    entry = CommittedObject(
        path="p", unit_id="u", size=1, sha256="s", rows=len(rows), scored=len(rows) - failed, failed=failed
    )
    table = pa.Table.from_pylist(list(map(dict, rows)), schema=pa.schema(list(FLIP_FIELDS)))
    return StoredUnit(
        Unit(unit_id="u", file=0, start=0, stop=len(rows), bytes=1, tokens=1),
        entry,
        footer_of(len(rows), failed),
        table,
    )


def _held_out() -> list[Mapping[str, Any]]:
    """Two right answers (one given up), a wrong one that it stands by; masked, it stands by everything."""
    control = f"top-2{CONTROL}1"

    def asked(own: float, first: str = "own") -> list[dict[str, Any]]:
        return [_said("none", own, first), _said("top-2", 0.9, first, coherent=False), _said(control, own, first)]

    return [
        _row(0, True, [*asked(0.8), *asked(0.1, "injected")]),
        _row(1, True, asked(0.2)),
        _row(2, False, asked(0.6)),
        _failed(3),
        _kept(4),
    ]


def _report(rows: list[Mapping[str, Any]], masks: Mapping[str, tuple[str, ...]] = MASKS) -> FlipReport:
    plan = _plan(len(rows))
    counts = FlipCounts(plan, SHAPE, masks)
    for start in range(0, len(rows), 2):
        counts.add(_stored(rows[start : start + 2]))
    run = committed_run(plan, "out/flips", "driver", NOW, NOW, resumed=False)
    ranking = [Ranked(head=f"{layer}-{head}", score=0.5, cases=(1, 1, 1, 1)) for layer in (0, 1) for head in range(4)]
    return counts.finish(run, ranking, {}, ("few rows",))


def test_counts_by_hand() -> None:
    report = _report(_held_out())
    result = report.result
    assert (result.rows, result.scored, result.failed, result.audited, result.correct) == (5, 4, 1, 3, 2)
    assert report.matrix == {"right": (1, 1), "wrong": (1, 0), "injected": (0, 1)}
    plain, masked = report.masks
    assert (plain.name, masked.name, masked.heads) == ("none", "top-2", ("1-0", "1-1"))
    values = {name: rate.value for name, rate in plain.rates.items()}
    # scores p_yes - p_no: right .3 -.3, wrong .1 -.4: three of four pairs are in order
    assert values == {
        "yes_correct": 0.5, "yes_wrong": 1.0, "yes_injected": 0.0, "auroc": 0.75, "accuracy": 0.5, "coherent": 1.0,
    }  # fmt: skip
    assert plain.rates["accuracy"].n == 4 and plain.change == {} and plain.control_sets == 0
    assert masked.rates["yes_correct"].value == 1.0 and masked.rates["coherent"].value == 0.0
    assert masked.change["yes_correct"].value == 0.5 and masked.change["yes_injected"].value == 1.0
    assert (masked.control_sets, masked.controls["yes_correct"].value) == (1, 0.5)
    assert masked.beyond["yes_correct"].value == 0.5 and masked.beyond["yes_wrong"].value == 0.0
    assert masked.controls_below["yes_correct"] == 1 and masked.controls_below["yes_wrong"] == 0
    assert masked.became == {"yes-yes": 1, "yes-no": 0, "no-yes": 1, "no-no": 0}
    assert plain.became == {"yes-yes": 1, "yes-no": 0, "no-yes": 0, "no-no": 1}


def test_heads_are_ranked_on_right_answers_alone() -> None:
    counts = FlipCounts(_plan(3), SHAPE, {})
    flips, stands = [_said("none", 0.1)], [_said("none", 0.9), _said("none", 0.1, "injected")]
    counts.add(
        _stored(
            [_row(0, True, flips, ("1-2", "0-1")), _row(1, True, stands, ("0-1",)), _row(2, False, flips, ("0-3",))]
        )
    )
    ranking = counts.ranking()
    assert len(ranking) == 8
    assert (ranking[0].head, ranking[0].score, ranking[0].cases) == ("1-2", 1.0, (1, 1, 0, 0))
    told = {one.head: (one.score, one.cases) for one in ranking}
    assert told["0-1"] == (0.5, (1, 0, 0, 1)) and told["0-3"] == (0.5, (0, 1, 1, 0))
    assert FlipCounts(_plan(1), SHAPE, {}).ranking() == ()


def test_masks_of_the_other_split_are_clipped_and_have_their_controls() -> None:
    ranking = [
        Head(1, 2),
        Head(0, 1),
        *(Head(layer, head) for layer in (0, 1) for head in range(4) if (layer, head) not in ((1, 2), (0, 1))),
    ]
    masks = audit_masks(ranking, SHAPE, (2, 5, 20), {"own": ("0-0", "0-0")}, 3, 0)
    named = [name for name in masks if CONTROL not in name]
    assert named == ["top-2", "top-5", "top-8", "own"]
    assert masks["top-2"] == ("1-2", "0-1") and len(masks["top-8"]) == 8 and masks["own"] == ("0-0",)
    for name in ("top-2", "own"):
        controls = [heads for other, heads in masks.items() if other.startswith(f"{name}{CONTROL}")]
        assert len(controls) == 3 and all(not set(heads) & set(masks[name]) for heads in controls)
        assert all(len(heads) == len(masks[name]) for heads in controls)
    assert not [name for name in masks if name.startswith(("top-5/", "top-8/"))], "no model has so many others"


def test_the_page_tells_matrix_changes_and_that_the_protocol_is_our_reading() -> None:
    page = flips_page(_report(_held_out()))
    for text in (
        "our reading of the abstract", "Warning: few rows", "Flip matrix", "a wrong answer put in its place", "2 of 3",
        ">sets<", "No becomes Yes", "Against control sets", "no_needle",
    ):  # fmt: skip
        assert text in page, text
    assert page.count("<svg") == 7
    assert "No row of this split could be asked again" in flips_page(_report([_failed(0), _kept(1)]))
    bare = [_row(0, True, [_said("none", 0.8)])]
    assert "Before and after" not in flips_page(_report(bare, {}))


@needs_browser
@pytest.mark.parametrize("width", [375, 1440])
def test_the_page_fits_and_its_charts_can_be_read(browser: Browser, tmp_path: Path, width: int) -> None:
    masks = {f"a-rather-long-name-of-heads-{n}@0123456789ab": heads for n, heads in enumerate(MASKS.values())} | MASKS
    ways = [(first, mask) for first in ("own", "injected") for mask in ("none", *masks)]
    rows = [
        _row(n, n % 3 > 0, [_said(mask, (n + len(mask)) % 7 / 6, first) for first, mask in ways]) for n in range(20)
    ]
    page = written(tmp_path, flips_page(_report(rows, masks)))
    browser.open(page, width, "light")
    assert [url for url in browser.requests if not url.startswith("data:")] == [page.as_uri()]
    assert beyond(browser, width) == []
    charts = browser.evaluate(CHARTS)
    assert len(charts) == 7
    for chart in charts:
        assert chart["axes"] and chart["ticks"] and not chart["cut"] and not chart["meeting"], chart


def _job(phase: Phase) -> FlipJob:
    run = RunSettings((), "o", "flips", False, 1, 1, PoolSettings(), ClusterSettings(None), StorageOptions(), {}, {})
    model = FlipModel(AnswererSettings("embedded-gqa"), ("{options}",))
    return FlipJob(FlipSettings(run, model, (2,), {}, 1, 0), phase, (), NOW)


FACTS = FlipFacts(AnswererIdentity(None, "w", "s", "p", "float32", "cpu", 100), SHAPE, ("own@1", ("0-0",)), {})


def test_side_files_of_a_fit_hold_scores_of_all_heads_and_the_masks_of_the_other_split(tmp_path: Path) -> None:
    rows = [_row(n, True, [_said("none", 0.9 if n else 0.1)], ("1-2",)) for n in range(9)]
    files = FlipFiles(_plan(9), _job(Phase("dev", fit=True, masks={})), FACTS)
    units = [_stored(rows[:4]), _stored(rows[4:])]
    assert list(files.watch(units)) == units and files.warnings == ()
    paths = files.write(Storage(str(tmp_path), StorageOptions()), str(tmp_path), "driver", False, {})
    names = ["errors.jsonl", "report.json", "report.html", "head_scores.parquet"]
    assert [Path(path).name for path in paths] == names
    report = json.loads((tmp_path / "commit" / "driver" / "report.json").read_text())
    assert report["pace"]["throughput"]["prompt_tokens"] == 14_400 and len(report["pace"]["units"]) == 2
    assert "How it ran" in (tmp_path / "commit" / "driver" / "report.html").read_text()
    assert list(report["next_masks"]) == ["top-2", f"top-2{CONTROL}1", "own", f"own{CONTROL}1"]
    scores = pq.read_table(tmp_path / "commit" / "driver" / "head_scores.parquet").to_pylist()
    assert len(scores) == 8 and scores[-1] == {
        "layer": 1, "head": 2, "score": pytest.approx(1 / 9), "case_1": 1, "case_2": 0, "case_3": 0, "case_4": 8,
    }  # fmt: skip


def test_what_makes_an_audit_say_little_is_told_and_a_fit_without_right_answers_refused(tmp_path: Path) -> None:
    files = FlipFiles(_plan(1), _job(Phase("dev", fit=True, masks={})), FACTS)
    list(files.watch([_stored([_row(0, True, [_said("none", 0.9, coherent=False)], ("1-2",))])]))
    assert [text.split(":")[0] for text in files.warnings] == [
        "only 1 right answers to ask about again",
        "the model stands by every right answer",
        "neither word is among the five likeliest tokens in most verdicts",
    ]
    files = FlipFiles(_plan(1), _job(Phase("dev", fit=True, masks={})), FACTS)
    list(files.watch([_stored([_row(0, False, [_said("none", 0.9)], ("1-2",))])]))
    with pytest.raises(InputError, match="none of 1 is"):
        files.write(Storage(str(tmp_path), StorageOptions()), str(tmp_path), "driver", False, {})
