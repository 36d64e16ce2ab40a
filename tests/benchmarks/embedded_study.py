"""Ranking quality of an embedded model: ``python -m tests.benchmarks.embedded_study --lists FOLDER [--model NAME]``.

Prints nDCG@10 and recall@1 with 95 % intervals of every way to order the lists that
:mod:`tests.benchmarks.embedded_lists` wrote, and which differences are distinguishable. ``--part test`` needs
``--log``, where the reading of test queries is noted before and after.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from pipelines.splits import Part
from pipelines.storage import StorageOptions
from pipelines.training.claims import relation
from pipelines.training.findings import Comparison, Interval, ListQuality
from pipelines.training.judged import JudgedSet
from pipelines.training.ranking_study import comparisons, list_qualities
from pipelines.training.readings import Reading, check_log, log_read, log_reading
from pipelines.training.study import EvaluationSettings, lists_hash, read_judged_sets
from qrcore.models import open_model, weights_sha256


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lists", required=True)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--part", choices=("dev", "test"), default="dev")
    parser.add_argument("--log", help="JSON-lines file of readings of test queries")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if given.part == "dev":
        _study(given.model, read_judged_sets(EvaluationSettings(given.lists), StorageOptions()), "dev")
        return
    check_log(given.log)
    sets = read_judged_sets(EvaluationSettings(given.lists), StorageOptions())
    reading = _reading(given.model, sets)
    log_reading(given.log, reading)
    log_read(given.log, reading, _study(given.model, sets, "test"))


def _reading(model: str, sets: dict[str, JudgedSet]) -> Reading:
    source = open_model(model)
    heads = source.head_set.heads if source.head_set else ()
    return Reading(Path(model).name, None, weights_sha256(source.path), lists_hash(sets), heads)


def _study(model: str, sets: dict[str, JudgedSet], part: Part) -> list[ListQuality]:
    measured = []
    for judged in sets.values():
        found = list_qualities(model, judged, part)
        measured += found
        for line in (*map(_quality_line, found), *map(_comparison_line, comparisons(found))):
            print(line, flush=True)
    return measured


def _quality_line(one: ListQuality) -> str:
    too_long = f"  ({one.too_long} too long)" if one.too_long else ""
    return (
        f"{one.name:16} {one.method:12} n={one.queries:<4} nDCG@10 {_interval(one.ndcg_10)}  "
        f"recall@1 {_interval(one.recall_1)}{too_long}"
    )


def _comparison_line(one: Comparison) -> str:
    return f"{one.name:16} {one.better} {relation(one.difference)} {one.worse}: {_interval(one.difference)}"


def _interval(value: Interval) -> str:
    return f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"


if __name__ == "__main__":
    main()
