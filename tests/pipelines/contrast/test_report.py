"""What the report counts, by hand; the page of it, also in a browser; the files beside the rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.contrast.files import ContrastFiles
from pipelines.contrast.model import TuningSettings
from pipelines.contrast.page import contrast_page
from pipelines.contrast.report import ContrastCounts, ContrastReport
from pipelines.contrast.rows import TUNING_SCHEMA
from pipelines.report.parts import committed_run
from pipelines.storage import Storage, StorageOptions
from tests.pipelines.chromium import Browser, needs_browser
from tests.pipelines.contrast.samples import answer_row, failed_row, plan_of, stored_unit
from tests.pipelines.test_report_browser import CHARTS, beyond, written

RIGHT = {"exact_match": 1.0, "sub_em": 1.0, "token_f1": 1.0}
WRONG = {"exact_match": 0.0, "sub_em": 0.0, "token_f1": 0.0}
UGLY = "<b>" + "Donaudampfschifffahrtsgesellschaft" * 6


def _negative(**changes: Any) -> dict[str, Any]:
    good = {
        "answer": "wool", "support": 0.25, "faithful": "salt", "faithful_from": "gold", "faithful_support": 0.75,
        "left_out": None,
    }  # fmt: skip
    return good | changes


def _rows() -> list[Mapping[str, Any]]:
    controls = [
        {"answer": "a", "steps": 5, "tokens_changed": 1, **RIGHT},
        {"answer": "b", "steps": 10, "tokens_changed": 0, **WRONG},
    ]
    return [
        answer_row(0, controls=controls, negative=_negative()),
        answer_row(
            1, answer=UGLY, plain={"answer": f"{UGLY}?", **RIGHT}, tokens_changed=4, ended=False, mean_alpha=1.5,
            controls=controls, negative=_negative(left_out="same_answer"), **WRONG,
        ),
        answer_row(
            2, answer="x", plain={"answer": "y", **WRONG}, tokens_changed=10, controls=controls,
            negative=_negative(faithful_from="plain", support=0.5), **RIGHT,
        ),
        failed_row(3),
        answer_row(
            4, exact_match=None, sub_em=None, token_f1=None, gold=None,
            controls=[{"answer": "a", "steps": 1, "tokens_changed": 1}] * 2, negative=_negative(left_out="empty"),
        ),
    ]  # fmt: skip


def _report(rows: list[Mapping[str, Any]], *, examples: bool = True, **provenance: Any) -> ContrastReport:
    plan = plan_of(len(rows), **provenance)
    counts = ContrastCounts(plan, examples)
    for start in range(0, len(rows), 2):
        counts.add(stored_unit(rows[start : start + 2]))
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return counts.finish(committed_run(plan, "out/contrast-0123456789ab", "driver", now, now, resumed=False))


def test_counts_by_hand() -> None:
    report = _report(_rows())
    assert (report.result.rows, report.result.scored, report.result.failed) == (5, 4, 1)
    assert (report.result.ended, report.result.changed) == (3, 2)
    changed = report.changed
    assert (changed.steps, changed.tokens, changed.share) == (40, 14, 0.35)
    assert changed.control_shares == (pytest.approx(4 / 16), pytest.approx(1 / 31))
    assert changed.per_answer.max == 1.0 and changed.mean_alpha.max == 1.5
    ways = {way.name: way for way in report.ways}
    assert list(ways) == ["plain", "contrast", "control sets"]
    assert ways["contrast"].gain is None and ways["contrast"].measures["token_f1"].n == 3
    # contrast: .5 0 1; plain: .5 1 0; control sets: .5 each
    assert ways["contrast"].measures["token_f1"].mean == pytest.approx(0.5)
    gain = ways["plain"].gain
    assert gain is not None and gain["token_f1"].mean == pytest.approx(0.0)
    assert (gain["token_f1"].low, gain["token_f1"].high) == (-1.0, 1.0)
    assert ways["control sets"].measures["exact_match"].mean == pytest.approx(0.5)
    beyond_controls = ways["control sets"].gain
    assert beyond_controls is not None and beyond_controls["exact_match"].mean == pytest.approx(1 / 3 - 1 / 2)
    assert [(one.query_id, one.tokens_changed) for one in report.examples] == [("q2", 10), ("q1", 4)]
    tuning = report.tuning
    assert tuning is not None and (tuning.pairs, tuning.left_out) == (2, {"same_answer": 1, "empty": 1})
    assert tuning.faithful_from == {"gold": 1, "plain": 1}
    assert tuning.masked_support is not None and tuning.masked_support.mean == pytest.approx(0.375)
    assert report.errors[0].code == "context_too_long"


def test_the_page_says_what_the_report_does_and_escapes_texts() -> None:
    page = contrast_page(_report(_rows()))
    assert page.count("<svg") == 3 and "&lt;b&gt;" in page and "<b>Donau" not in page
    for text in (
        "14</strong> of 40 steps",
        "2 answers of 4",
        "contrast − plain",
        "2 pairs",
        "1 say the same",
        "35.0 %",
    ):
        assert text in page, text
    assert "What is sold" not in contrast_page(_report(_rows(), examples=False))


def test_a_report_of_nothing_but_errors_and_one_without_extras_are_pages_too() -> None:
    page = contrast_page(_report([failed_row(0)], warnings=["the heads are of another model"]))
    assert "No row was answered" in page and "<svg" not in page and "another model" in page
    bare = _report([answer_row(0, plain=None, gold=None, exact_match=None, steps=1, new_tokens=1)])
    assert bare.result.changed is None and bare.ways == () and bare.tuning is None
    assert "answers changed" not in contrast_page(bare)


@needs_browser
@pytest.mark.parametrize("width", [375, 1440])
def test_the_page_fits_and_its_charts_can_be_read(browser: Browser, tmp_path: Path, width: int) -> None:
    control = {"answer": "a", "steps": 5, "tokens_changed": 1, **RIGHT}
    rows = [answer_row(10 + n, tokens_changed=n % 7, mean_alpha=0.1 * n, controls=[control] * 2) for n in range(30)]
    page = written(tmp_path, contrast_page(_report([*_rows(), *rows])))
    browser.open(page, width, "light")
    assert [url for url in browser.requests if not url.startswith("data:")] == [page.as_uri()]
    assert beyond(browser, width) == []
    for chart in browser.evaluate(CHARTS):
        assert chart["bars"] and chart["axes"] and not chart["cut"] and not chart["meeting"], chart


def test_side_files_hold_the_samples_of_all_units(tmp_path: Path) -> None:
    files = ContrastFiles(plan_of(5), datetime.now(UTC), ("known",), TuningSettings(), examples=True)
    rows = _rows()
    units = [stored_unit(rows[:2]), stored_unit(rows[2:3]), stored_unit(rows[3:])]
    assert list(files.watch(units)) == units and files.warnings == ("known",)
    paths = files.write(Storage(str(tmp_path), StorageOptions()), str(tmp_path), "driver", True, {})
    assert [Path(path).name for path in paths] == [
        "errors.jsonl", "report.json", "report.html", "tuning.parquet", "tuning.jsonl",
    ]  # fmt: skip
    folder = tmp_path / "commit" / "driver"
    table = pq.read_table(folder / "tuning.parquet")
    assert table.schema.equals(TUNING_SCHEMA, check_metadata=True)
    assert [(one["query_id"], one["control_token"]) for one in table.to_pylist()] == [
        ("q0", "[POS]"), ("q0", "[NEG]"), ("q2", "[POS]"), ("q2", "[NEG]"),
    ]  # fmt: skip
    lines = [json.loads(line) for line in (folder / "tuning.jsonl").read_text().splitlines()]
    assert lines[1]["messages"][0]["content"] == "[NEG] Salt is sold.\n\nWhat is sold at market 0?"
    assert [line["messages"][1]["content"] for line in lines] == ["salt", "wool", "salt", "wool"]
    assert [json.loads(line)["query_id"] for line in (folder / "errors.jsonl").read_text().splitlines()] == ["q3"]
    told = json.loads((folder / "report.json").read_text())
    assert told["result"]["failed"] == 1 and told["run"]["resumed"] is True
    assert len(told["pace"]["units"]) == 3 and "How it ran" in (folder / "report.html").read_text()


def test_without_samples_there_are_no_files_of_them(tmp_path: Path) -> None:
    files = ContrastFiles(plan_of(1), datetime.now(UTC), (), None, examples=True)
    list(files.watch([stored_unit([answer_row(0)])]))
    paths = files.write(Storage(str(tmp_path), StorageOptions()), str(tmp_path), "driver", False, {})
    assert not [path for path in paths if "tuning" in path]
