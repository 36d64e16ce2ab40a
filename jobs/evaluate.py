"""``qrbatch evaluate`` and ``qrbatch compare``: their configuration, and what is shown."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pydantic import Field
from rich.console import Console
from rich.table import Table

from jobs.config import StorageConfig
from jobs.rerank import with_endpoint
from jobs.settings import Section, setting

if TYPE_CHECKING:
    from pipelines.evaluation.compare import ComparisonReport
    from pipelines.evaluation.evaluate import EvaluateSettings, Evaluation


class EvaluateConfig(Section):
    """Everything that evaluating and comparing can be told."""

    runs: tuple[str, ...] = setting(
        ...,
        "Committed runs of rerank or of select, TREC run files, or Parquet with query_id, doc_id and rank.",
        affects_output=True,
        flag="--input",
        uri=True,
        min_length=1,
    )
    qrels: str = setting(
        ..., "Judgements (Parquet, TREC or BEIR's tsv).", affects_output=True, flag="--qrels", uri=True
    )
    output: str = setting(..., "Folder for what is found.", affects_output=False, flag="--output", uri=True)
    measures: tuple[str, ...] | None = setting(
        None, "ndcg@K, recall@K, any@K, all@K, map, mrr, precision@K; empty: the usual ones.", affects_output=True
    )
    seed: int = setting(0, "Of the bootstrap and the randomisation test.", affects_output=True, ge=0)
    rounds: int = setting(10_000, "Rounds of both.", affects_output=True, gt=0)
    trec: bool = setting(False, "Write runs and judgements as TREC files, too.", affects_output=True)
    detection_queries: bool = setting(
        False,
        "Measure queries that a run's heads were found on, too; their number is kept with the result.",
        affects_output=True,
        flag="--allow-detection-queries",
    )
    examples: int = setting(6, "Queries shown on either side of a comparison.", affects_output=True, ge=0)
    storage: StorageConfig = Field(default_factory=StorageConfig)


class CompareConfig(EvaluateConfig):
    """Everything that comparing can be told."""

    runs: tuple[str, ...] = setting(
        ...,
        "Two committed runs of rerank or of select, TREC run files, or Parquet with query_id, doc_id and rank.",
        affects_output=True,
        flag="RUN_A RUN_B",
        uri=True,
        expected="two runs",
        min_length=2,
        max_length=2,
    )


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Measure runs; raises errors of :mod:`qrcore.errors`."""
    from pipelines.evaluation.evaluate import evaluate as measure_runs

    return measure_runs(pipeline_settings(config))


def compare(config: CompareConfig) -> ComparisonReport:
    """Compare two runs; raises errors of :mod:`qrcore.errors`."""
    from pipelines.evaluation.compare import compare as compare_runs

    return compare_runs(pipeline_settings(config), config.examples)


def pipeline_settings(config: EvaluateConfig) -> EvaluateSettings:
    """The pipeline's settings for this configuration."""
    from pipelines.evaluation.evaluate import EvaluateSettings
    from pipelines.storage import StorageOptions

    return EvaluateSettings(
        runs=config.runs,
        qrels=config.qrels,
        output=config.output,
        measures=config.measures,
        seed=config.seed,
        rounds=config.rounds,
        trec=config.trec,
        detection_queries=config.detection_queries,
        storage=StorageOptions(**with_endpoint(config.storage, os.environ).model_dump()),
    )


def show_evaluation(console: Console, evaluation: Evaluation) -> None:
    """Means with intervals, what is missing, and the tests between runs."""
    table = Table(box=None, pad_edge=False)
    table.add_column("measure")
    for run in evaluation.runs:
        table.add_column(run.name, justify="right", overflow="fold")
    for row in zip(*(run.values for run in evaluation.runs), strict=True):
        table.add_row(row[0].measure, *(f"{one.mean:.4f} [{one.low:.4f}, {one.high:.4f}]" for one in row))
    console.print(f"{evaluation.queries} judged queries; means with 95 % intervals", highlight=False)
    console.print(table)
    for run in evaluation.runs:
        if run.missing:
            listed = ", ".join(run.missing_queries) + (", …" if run.missing > len(run.missing_queries) else "")
            console.print(
                f"{run.name}: missing, counted as zero: {run.missing} ({listed})", highlight=False, markup=False
            )
        if run.found_on:
            console.print(
                f"{run.name}: {run.found_on} of these queries are such that its heads were found on: no evidence",
                highlight=False,
                markup=False,
            )
    for one in evaluation.comparisons:
        console.print(
            f"{one.measure}: {one.a} − {one.b} = {one.difference:+.4f} [{one.low:+.4f}, {one.high:+.4f}], "
            f"p {one.p:.4f}, by Holm {one.p_holm:.4f}; {one.wins} won, {one.losses} lost, {one.ties} equal",
            highlight=False,
            markup=False,
        )
