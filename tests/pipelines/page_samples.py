"""The pages of the jobs beside rerank, from records made by hand: hostile text, long names, all that can be there."""

from __future__ import annotations

from functools import cache
from typing import Any

from pipelines.detection.page import detection_page, proof_page
from pipelines.evaluation.compare import ComparedQuery, ComparisonReport
from pipelines.evaluation.compare import render as render_comparison
from pipelines.evaluation.evaluate import Comparison, Evaluation, MeasuredRun, MeasuredValue
from pipelines.influence.page import influence_page
from pipelines.prepare.report import render as render_prepared
from pipelines.report.bundle_page import render_bundles
from pipelines.report.model import RankedDoc
from pipelines.report.parts import CommonReport
from tests.pipelines.detection.samples import LINE, findings, proof
from tests.pipelines.prepare.test_report import report as prepared
from tests.pipelines.report_samples import LONG_URI, NASTY, awkward
from tests.pipelines.test_bundle_report import QRELS, ROWS, report_of


@cache
def common() -> CommonReport:
    """What every report says, of a run with many units, errors and a price."""
    sample = awkward()
    distributions = sample["distributions"]
    pace = {
        "throughput": sample["throughput"],
        "cost": sample["cost"],
        "unit_seconds": distributions["unit_seconds"],
        "unit_wait": distributions["unit_wait"],
        "units": sample["units"],
    }
    provenance = {
        "code_version": "0.1.0",
        "model": {"id": NASTY, "weights_sha256": "cd" * 32},
        "config_hash": "12" * 32,
    }
    told = {key: sample[key] for key in ("run", "asked", "errors")}
    return CommonReport.model_validate({**told, "pace": pace, "provenance": provenance})


@cache
def select() -> str:
    """Bundles, some empty, with judgements."""
    told = common()
    report = report_of(ROWS, QRELS)
    return render_bundles(report.model_copy(update={"pace": told.pace, "asked": told.asked, "run": told.run}))


@cache
def detect() -> str:
    """A head set of a small model."""
    return detection_page(*findings("small"), LINE, common())


@cache
def prove() -> str:
    """Its proof."""
    return proof_page(proof("small"), LINE, common())


@cache
def influence() -> str:
    """Documents of two domains."""
    domains = [
        {
            "domain": name, "documents": 40_000, "selected": 8_000, "cut": 0.031, "mean_influence": 0.012,
            "control_means": [0.004, 0.013, 0.002], "largest_noise": 3e-7, "tokens_all": 812.4,
            "tokens_selected": 1201.9, "repetition_all": 0.08, "repetition_selected": 0.11, "length_correlation": 0.31,
            "repetition_correlation": -0.02, "kept_by_length": 0.62, "path": "commit/d/ranked/0.parquet",
            "edges": [-0.02 + 0.01 * step for step in range(13)],
            "counts": [3, 40, 900, 9_000, 14_000, 9_000, 4_000, 2_000, 700, 300, 50, 7],
        }
        for name in ("web", None, f"a_domain_with_a_rather_long_name {NASTY}")
    ]  # fmt: skip
    report = {
        "run": {
            "run_id": "influence-0123456789ab",
            "job": "influence",
            "name": "web",
            "output": LONG_URI,
            "tokens": 9**9,
        },
        "result": {"rows": 120_017, "scored": 120_000, "failed": 17},
        "failed": {"empty_document": 17},
        "domains": domains,
        "provenance": {
            "head_set": {"id": "embedded@7bc59557fcb3"},
            "settings": {"mask_mode": "uniform", "mask_scope": "all_rows"},
            "fraction": 0.2,
            "warnings": [f"heads were found for another model {NASTY}"],
        },
    }
    return influence_page(report, common())


@cache
def prepare() -> str:
    """Shards of long documents."""
    return render_prepared(prepared(2))


@cache
def compare() -> str:
    """Two runs that differ."""
    docs = [RankedDoc(doc_id=f"os.path.function_{i}", relevant=[True, False, None][i % 3]) for i in range(10)]
    docs[4] = RankedDoc(doc_id=NASTY + LONG_URI, relevant=True)

    def compared(number: int, a: float, b: float) -> ComparedQuery:
        return ComparedQuery(
            query_id=f"q-{number} {NASTY}", query=f"How do I split a path? {NASTY}" if number % 2 else None, a=a, b=b,
            first=tuple(docs), second=tuple(docs[::-1]),
        )  # fmt: skip

    measures = ("ndcg@10", "recall@10", "map")
    runs = tuple(
        MeasuredRun(
            name=name, uri=LONG_URI, kind="ranking", missing=3, missing_queries=("q1", NASTY, "q3"), failed=1,
            unjudged=0, unnamed=0, gold_missing=2,
            values=tuple(MeasuredValue(measure=one, mean=0.61, low=0.55, high=0.66) for one in measures),
        )
        for name in ("nightly-0123456789ab", "a-run-whose-name-is-much-longer-than-others-0123456789ab")
    )  # fmt: skip
    comparisons = tuple(
        Comparison(
            a=runs[0].name, b=runs[1].name, measure=one, difference=0.031, low=0.012, high=0.05, p=0.0012,
            p_holm=0.0036, wins=41, losses=22, ties=137,
        )
        for one in measures
    )  # fmt: skip
    evaluation = Evaluation(
        qrels=LONG_URI, queries=200, queries_without_gold=4, seed=0, rounds=10_000, runs=runs, comparisons=comparisons
    )
    differences: dict[str, Any] = {f"q{number}": (number % 41 - 17) / 40 for number in range(200)}
    return render_comparison(
        ComparisonReport(
            evaluation=evaluation, measure="ndcg@10", differences=differences,
            best_for_a=tuple(compared(number, 0.9, 0.2) for number in range(3)),
            best_for_b=tuple(compared(number, 0.1, 0.8) for number in range(3)),
        )
    )  # fmt: skip


PAGES = {
    "select": select,
    "detect": detect,
    "prove": prove,
    "influence": influence,
    "prepare": prepare,
    "compare": compare,
}
