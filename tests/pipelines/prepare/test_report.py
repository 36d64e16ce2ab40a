"""The page of prepare without a run: numbers, errors and charts from the records alone."""

from __future__ import annotations

from datetime import UTC, datetime

from pipelines.prepare.report import Duplicates, Judged, PreparedResult, PrepareReport, render
from pipelines.report.distributions import distribution
from pipelines.report.records import ErrorExample, ErrorGroup, Run, SourceRow
from tests.pipelines.report_samples import NASTY

NOW = datetime(2026, 11, 25, tzinfo=UTC)


def report(failed: int) -> PrepareReport:
    example = ErrorExample(query_id=None, source=SourceRow(uri="in.jsonl", row=7), message=NASTY)
    return PrepareReport(
        run=Run(
            run_id="books-0123456789ab", job="prepare", name="books", status="committed", started_at=NOW,
            finished_at=NOW, seconds=2.5, output="out/books-0123456789ab", driver="d", resumed=False,
        ),
        recipe="documents",
        inputs=1,
        result=PreparedResult(
            source_rows=9, prepared=9 - failed, failed=failed, left_out=0, shards=1, shard_bytes=10, largest_shard=10
        ),
        errors=(ErrorGroup(code="bad_row", kind="input", count=failed, examples=(example,)),) if failed else (),
        candidates=distribution([3, 4, 5, 9]),
        characters=distribution([10, 20, 900]),
        longest=distribution([7, 7, 7]),
        duplicates=Duplicates(query_ids=0, examples=(), rows_with_repeated_texts=0, repeated_texts=0),
        judged=Judged(with_gold=1, without_gold=8, gold=1, gold_missing=0, queries_without_their_gold=0),
        config={"recipe": "documents"},
        provenance={"recipe": "documents"},
        unit_seconds=distribution([0.5, 1.5]),
    )  # fmt: skip


def test_charts_stand_where_values_differ() -> None:
    page = render(report(0))
    assert page.count("<svg") == 3  # the longest candidates are all of one length
    assert "Candidates per query" in page
    assert "2 units, each prepared in 1.00 s in the middle and 1.50 s at most" in page
    assert "3.6 source rows a second" in page and "Provenance" in page
    assert "None: every source row was prepared or left out on purpose." in page


def test_errors_are_told_with_their_place_and_escaped() -> None:
    page = render(report(2))
    assert "<b>bad_row</b>" in page
    assert "in.jsonl" in page
    assert NASTY not in page
    assert "&lt;script&gt;" in page
