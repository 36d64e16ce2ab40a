"""Rows of answer as a worker writes them, and reports made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pipelines.answers.rows import answer_schema
from pipelines.commit import CommittedObject, StoredUnit
from pipelines.plan import Plan, PlannedFile, Unit, encode_schema
from pipelines.report.answers import AnswerCounts, AnswerReport
from pipelines.report.records import Run
from qrcore.answers import score_answer
from qrcore.records import DETECTION_QUERY
from tests.pipelines.report_samples import START

VARIANTS = ("cafe", "full", "filter", "random_order", "oracle")
RUN = Run(
    run_id="answer-0123456789ab",
    job="answer",
    name="answer",
    status="committed",
    started_at=START,
    finished_at=START,
    seconds=5.0,
    output="s3://runs/answer-0123456789ab",
    driver="d",
    resumed=False,
)


def plan_of(variants: Sequence[str], judge: str | None = None) -> Plan:
    """A plan of one unit whose run answers in these variants."""
    provenance = {"told": "answers of a model", "variants": list(variants), "judge": judge, "warnings": ["a warning"]}
    return Plan(
        run_id=RUN.run_id,
        job="answer",
        name="answer",
        config_hash="12",
        input_hash="34",
        config={"method": "cafe"},
        provenance=provenance,
        order="as_given",
        files=(PlannedFile(uri="in.parquet", size=10, etag="e", rows=6, bytes=9, tokens=3),),
        skipped_files=(),
        units=(Unit(unit_id="u", file=0, start=0, stop=6, bytes=1, tokens=1),),
        schema_ipc=encode_schema(answer_schema(())),
    )


def said(text: str, gold: Sequence[str] | None, documents: Sequence[str], **more: Any) -> dict[str, Any]:
    """What a variant said."""
    scores = score_answer(text, gold)._asdict() if gold else {}
    told = {"answer": text, "ended": True, "prompt_tokens": 100 * len(documents), "new_tokens": len(text.split())}
    return {**told, **scores, "documents": list(documents), "steered": None, "judged": None, **more}


def answered(
    query_id: str, gold: Sequence[str] | None, own: dict[str, Any], *flags: str, **others: dict[str, Any]
) -> dict[str, Any]:
    """A row with the run's own answer and those of other variants, by name."""
    return {
        "query_id": query_id,
        "query": f"what of {query_id}?",
        **own,
        "gold": gold,
        "flags": list(flags),
        "baselines": [{"name": name, **one} for name, one in others.items()],
        "source": {"uri": "in.parquet", "row": 0},
    }


def failed(query_id: str, code: str = "no_candidates") -> dict[str, Any]:
    """A row without an answer."""
    error = {"code": code, "kind": "input", "message": "<b>none</b>", "stage": "validate"}
    return {"query_id": query_id, "source": {"uri": "in.parquet", "row": 5}, "error": error}


def report_of(
    rows: Sequence[dict[str, Any]], variants: Sequence[str] = VARIANTS, qrels: Any = None, **more: Any
) -> AnswerReport:
    """The report of these rows, which come in two units."""
    plan = plan_of(variants, more.pop("judge", None))
    counts = AnswerCounts(plan, "qrels.tsv" if qrels is not None else None, qrels, **more)
    entry = CommittedObject(path="p", unit_id="u", size=1, sha256="s", rows=6, scored=5, failed=1)
    middle = len(rows) // 2
    for half in (rows[:middle], rows[middle:]):
        counts.add(StoredUnit(plan.units[0], entry, {}, pa.Table.from_pylist(list(half), schema=answer_schema(()))))
    return counts.finish(RUN)


def cafe_rows(count: int) -> list[dict[str, Any]]:
    """Rows of a run of cafe, of which the last failed and the one before is one that heads were found on."""
    rows = []
    for number in range(count):
        gold, name = [f"salt {number % 3}"], f"q{number}"
        ids = [f"{name}/{place}" for place in range(8)]
        right, wrong = f"It is salt {number % 3}.", "I do not know <i>this</i>, " + "really " * (number % 5)
        own = said(right if number % 4 else wrong, gold, ids[:3], steered=ids[1:3])
        others = {
            "full": said(right if number % 2 else wrong, gold, ids),
            "filter": said(right if number % 3 else wrong, gold, ids[:3]),
            "random_order": said(right, gold, ids[:3], steered=ids[:1]),
            "oracle": {"error": failed(name, "nothing_relevant")["error"]}
            if number == 1
            else said(right, gold, ids[2:3]),
        }
        rows.append(answered(name, gold, own, *([DETECTION_QUERY] if number == count - 2 else []), **others))
    return [*rows[:-1], failed("bad")]
