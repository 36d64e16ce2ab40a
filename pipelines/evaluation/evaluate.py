"""``evaluate`` and ``compare``: read runs, measure them, put what was found."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from pipelines.evaluation.measuring import BUNDLE_MEASURES, RANKING_MEASURES, Values, check_measures, measure
from pipelines.evaluation.readings import Reading, read_reading
from pipelines.evaluation.tests_of_difference import holm, mean_interval, randomisation_test
from pipelines.labels import Qrels, load_qrels
from pipelines.measures import paired_bootstrap
from pipelines.report.records import Record
from pipelines.storage import Storage, StorageOptions, absolute, join
from pipelines.trec import write_qrels, write_run
from qrcore.errors import InputError

_NAMED = 20


class MeasuredValue(Record):
    """A mean over the judged queries with its 95 % bootstrap interval."""

    measure: str
    mean: float
    low: float
    high: float


class MeasuredRun(Record):
    """One run against the judgements."""

    name: str
    uri: str
    kind: str = Field(description="ranking or bundle")
    values: tuple[MeasuredValue, ...]
    missing: int = Field(description="judged queries that the run lacks; they count as zero")
    missing_queries: tuple[str, ...] = Field(description="the first of them")
    failed: int = Field(description="of these, queries whose row failed")
    unjudged: int = Field(description="queries of the run without judgements; they do not count")
    unnamed: int = Field(description="rows of the run without a query_id")
    found_on: int = Field(
        default=0, description="judged queries that the heads of the run were found on; measured because that was asked"
    )
    gold_missing: int = Field(description="relevant documents that stand nowhere in the run's list of their query")


class Comparison(Record):
    """Two runs on one measure: a minus b over the judged queries."""

    a: str
    b: str
    measure: str
    difference: float
    low: float
    high: float
    p: float = Field(description="paired randomisation test, two-sided")
    p_holm: float = Field(description="the same, corrected by Holm over all pairs of runs on this measure")
    wins: int
    losses: int
    ties: int


class Evaluation(Record):
    """Everything that ``evaluation.json`` says."""

    schema_version: str = "1.0"
    qrels: str
    queries: int = Field(description="judged queries: what every mean is over")
    queries_without_gold: int = Field(description="of these, queries without a relevant document")
    seed: int
    rounds: int
    runs: tuple[MeasuredRun, ...]
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True, slots=True)
class EvaluateSettings:
    """What evaluating is told. ``measures``: None takes the usual ones for what is measured; ``detection_queries``:
    whether queries that a run's heads were found on may be measured."""

    runs: tuple[str, ...]
    qrels: str
    output: str
    measures: tuple[str, ...] | None
    seed: int
    rounds: int
    trec: bool
    storage: StorageOptions
    detection_queries: bool = False


@dataclass(frozen=True, slots=True)
class Measured:
    """A run as read, and its values by measure and query."""

    uri: str
    reading: Reading
    values: Values


def evaluate(settings: EvaluateSettings) -> Evaluation:
    """Measure every run and every pair; put evaluation.json, per_query.parquet and, if asked, TREC files.

    Raises errors of :mod:`qrcore.errors`.
    """
    qrels, measured = measure_all(settings)
    evaluation = evaluation_of(settings, qrels, measured)
    storage = Storage(settings.output, settings.storage)
    folder = absolute(settings.output)
    storage.replace(join(folder, "evaluation.json"), evaluation.model_dump_json(indent=1).encode())
    storage.replace(join(folder, "per_query.parquet"), _per_query(measured))
    if settings.trec:
        _export(storage, folder, qrels, measured)
    return evaluation


def measure_all(settings: EvaluateSettings) -> tuple[Qrels, list[Measured]]:
    """Judgements, and every run with its values. Raises :class:`InputError` where kinds of run are mixed."""
    check_measures(settings.measures or ())
    qrels = load_qrels(settings.qrels, settings.storage)
    readings = [(uri, read_reading(uri, settings.storage)) for uri in settings.runs]
    if len({reading.kind for _, reading in readings}) > 1:
        raise InputError(
            "runs: expected rankings only or bundles only, got both. Evaluate them apart: their measures differ."
        )
    if not settings.detection_queries:
        for uri, reading in readings:
            _check_not_found_on(uri, reading, qrels)
    usual = BUNDLE_MEASURES if readings[0][1].kind == "bundle" else RANKING_MEASURES
    names = settings.measures or usual
    named = _distinct([reading.name for _, reading in readings])
    measured = [
        Measured(uri, _renamed(reading, name), measure(reading, qrels, names))
        for (uri, reading), name in zip(readings, named, strict=True)
    ]
    if not measured[0].values:
        raise InputError(
            f"measures: none of {', '.join(names)} is for a {readings[0][1].kind}. Use {', '.join(usual)}."
        )
    return qrels, measured


def _check_not_found_on(uri: str, reading: Reading, qrels: Qrels) -> None:
    seen = sorted(reading.found_on & qrels.keys())
    if seen:
        raise InputError(
            f"run {uri}: expected queries that its heads have not seen, got {len(seen)} judged ones that they were "
            f"found on ({', '.join(seen[:3])}{', …' if len(seen) > 3 else ''}), which says nothing of other queries. "
            "Leave them out of the judgements, or say that you mean it (--allow-detection-queries)."
        )


def _distinct(names: Sequence[str]) -> list[str]:
    return [name if names.count(name) == 1 else f"{name} ({place})" for place, name in enumerate(names, start=1)]


def _renamed(reading: Reading, name: str) -> Reading:
    return replace(reading, name=name)


def evaluation_of(settings: EvaluateSettings, qrels: Qrels, measured: Sequence[Measured]) -> Evaluation:
    """The record of what was measured."""
    return Evaluation(
        qrels=settings.qrels,
        queries=len(qrels),
        queries_without_gold=sum(not any(grade > 0 for grade in judged.values()) for judged in qrels.values()),
        seed=settings.seed,
        rounds=settings.rounds,
        runs=tuple(_measured_run(one, qrels, settings) for one in measured),
        comparisons=tuple(_comparisons(measured, settings)),
    )


def _measured_run(one: Measured, qrels: Qrels, settings: EvaluateSettings) -> MeasuredRun:
    reading = one.reading
    missing = [query_id for query_id in qrels if query_id not in reading.rankings]
    values = []
    for name, by_query in one.values.items():
        interval = mean_interval(by_query, settings.seed, settings.rounds)
        values.append(MeasuredValue(measure=name, mean=interval.mean, low=interval.low, high=interval.high))
    return MeasuredRun(
        name=reading.name,
        uri=one.uri,
        kind=reading.kind,
        values=tuple(values),
        missing=len(missing),
        missing_queries=tuple(missing[:_NAMED]),
        failed=len(set(missing) & set(reading.failed)),
        unjudged=len(reading.rankings.keys() - qrels.keys()),
        unnamed=reading.unnamed,
        found_on=len(reading.found_on & qrels.keys()),
        gold_missing=sum(_gold_missing(qrels[query_id], reading, query_id) for query_id in qrels),
    )


def _gold_missing(judged: dict[str, int], reading: Reading, query_id: str) -> int:
    gold = {doc_id for doc_id, relevance in judged.items() if relevance > 0}
    return len(gold - set(reading.rankings.get(query_id, ())))


def _comparisons(measured: Sequence[Measured], settings: EvaluateSettings) -> list[Comparison]:
    pairs = list(combinations(measured, 2))
    found = []
    for name in measured[0].values if pairs else ():
        tested = [randomisation_test(a.values[name], b.values[name], settings.seed, settings.rounds) for a, b in pairs]
        for (a, b), p, p_holm in zip(pairs, tested, holm(tested), strict=True):
            found.append(_comparison(a, b, name, p, p_holm, settings))
    return found


def _comparison(a: Measured, b: Measured, name: str, p: float, p_holm: float, settings: EvaluateSettings) -> Comparison:
    first, second = a.values[name], b.values[name]
    interval = paired_bootstrap(first, second, settings.seed, settings.rounds)
    return Comparison(
        a=a.reading.name,
        b=b.reading.name,
        measure=name,
        difference=interval.mean,
        low=interval.low,
        high=interval.high,
        p=p,
        p_holm=p_holm,
        wins=sum(first[query_id] > second[query_id] for query_id in first),
        losses=sum(first[query_id] < second[query_id] for query_id in first),
        ties=sum(first[query_id] == second[query_id] for query_id in first),
    )


def _per_query(measured: Sequence[Measured]) -> bytes:
    rows: list[dict[str, Any]] = [
        {"run": one.reading.name, "query_id": query_id, "measure": name, "value": value}
        for one in measured
        for name, by_query in one.values.items()
        for query_id, value in by_query.items()
    ]
    schema = pa.schema(
        [("run", pa.string()), ("query_id", pa.string()), ("measure", pa.string()), ("value", pa.float64())]
    )
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink)
    return sink.getvalue()


def _export(storage: Storage, folder: str, qrels: Qrels, measured: Sequence[Measured]) -> None:
    for one in measured:
        lines = "".join(write_run(one.reading.rankings.items(), "qrbatch"))
        storage.replace(join(folder, "trec", f"{one.reading.name.replace(' ', '-')}.run"), lines.encode())
    storage.replace(join(folder, "trec", "qrels.txt"), "".join(write_qrels(qrels)).encode())
