"""Copied against plain documents: pairs, the difference of means and its place among control sets. No Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.contracts import DOCUMENT_SCHEMA
from pipelines.influence import demo_documents
from pipelines.influence.demo_documents import write_demo_documents
from pipelines.influence.separation import pair_rows, separation
from pipelines.python_docs import PythonDoc
from qrcore.errors import InputError


def _row(doc_id: str, influence: float, controls: list[float], noise: float | None = 1e-7) -> dict[str, Any]:
    return {
        "doc_id": doc_id, "influence": influence, "control_influence": controls, "noise": noise, "error": None,
    }  # fmt: skip


def test_a_pair_has_the_same_first_half_and_copies_it_or_not() -> None:
    rows = list(pair_rows(["one", "two", "three", "four", "alone"], "web"))
    assert [(row["doc_id"], row["text"]) for row in rows] == [
        ("plain-0000", "one\n\ntwo"),
        ("copied-0000", "one\n\none"),
        ("plain-0001", "three\n\nfour"),
        ("copied-0001", "three\n\nthree"),
    ]
    assert {row["domain"] for row in rows} == {"web"}


def test_the_difference_and_its_place_among_controls_by_hand() -> None:
    rows = [
        _row("copied-0000", 0.9, [0.5, 0.2, 1.0]),
        _row("plain-0000", 0.3, [0.4, 0.2, 0.1]),
        _row("copied-0001", 0.7, [0.3, 0.1, 0.8]),
        _row("plain-0001", 0.8, [0.0, 0.2, 0.1], noise=2e-7),
        _row("copied-0002", 9.9, [0.0, 0.0, 0.0]),  # whose partner failed
        {"doc_id": "plain-0002", "error": {"code": "empty_document"}},
    ]
    found = separation(rows)
    assert found.pairs == 2 and found.noise == pytest.approx(2e-7)
    assert found.difference.mean == pytest.approx((0.6 - 0.1) / 2)
    assert found.difference.low == pytest.approx(-0.1) and found.difference.high == pytest.approx(0.6)
    assert found.controls == pytest.approx([(0.1 + 0.3) / 2, (0.0 - 0.1) / 2, (0.9 + 0.7) / 2])
    assert found.percentile == pytest.approx(2 / 3)
    means = [(0.1 + 0.0 + 0.9) / 3, (0.3 - 0.1 + 0.7) / 3]
    assert found.beyond.mean == pytest.approx((0.6 - means[0] - 0.1 - means[1]) / 2)
    assert found.auc == pytest.approx(3 / 4)


def test_ties_count_half_and_without_pairs_there_is_nothing_to_say() -> None:
    rows = [_row("copied-0000", 0.5, [], None), _row("plain-0000", 0.5, [], None)]
    found = separation(rows)
    assert (found.auc, found.noise, found.controls, found.percentile) == (0.5, None, (), 0.0)
    with pytest.raises(InputError):
        separation(rows[:1])


def test_demo_documents_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = [PythonDoc(f"m.f{number}", (), "", f"number {number} " + "word " * 50) for number in range(40)]
    monkeypatch.setattr(demo_documents, "collect_documents", lambda: [*long, PythonDoc("m.s", (), "", "short")])
    uri = write_demo_documents(str(tmp_path), 5)
    table = pq.read_table(uri)
    assert table.schema.equals(DOCUMENT_SCHEMA, check_metadata=False)
    rows = table.to_pylist()
    assert len(rows) == 10 and len({row["text"] for row in rows}) == 10
    for plain, copied in zip(rows[::2], rows[1::2], strict=True):
        first, second = copied["text"].split("\n\n")
        assert first == second and plain["text"].startswith(f"{first}\n\nnumber")
    before = Path(uri).stat().st_mtime_ns
    assert write_demo_documents(str(tmp_path), 5) == uri and Path(uri).stat().st_mtime_ns == before
    assert len(pq.read_table(write_demo_documents(str(tmp_path), 3)).to_pylist()) == 6
