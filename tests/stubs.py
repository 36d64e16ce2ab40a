"""A job without a model: its workers score by rule, and do to their own process what a query tells them.

Everything else is the real thing: plan, Ray Data, create-only objects, marks, commit. Queries it obeys:
``kill`` SIGKILLs the worker; ``kill-once:FILE`` does so the first time; ``kill-driver:FILE`` takes the process whose
number stands in FILE down first, once; ``cuda`` raises what a lost GPU raises; ``sleep:S`` takes S seconds;
``until:FILE`` waits for a file, and then a moment;
``oom`` is a row that does not fit.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs.config import RerankConfig
from jobs.rerank import pipeline_settings
from jobs.settings import merge, validate
from pipelines.commit import StoredUnit
from pipelines.inputs import FileSurvey
from pipelines.job import RunResult, RunSettings
from pipelines.metrics import UnitMetrics, unit_metrics
from pipelines.plan import Plan
from pipelines.rows import (
    Source,
    carried_columns,
    duplicate_query_id,
    query_id_of,
    read_input_rows,
    request_from_row,
    row_from_answer,
    table_from_rows,
)
from pipelines.run import run_job
from pipelines.schemas import RANKING_FIELDS, carried_fields, ranking_schema
from pipelines.side_files import ErrorLines
from pipelines.storage import Storage
from pipelines.units import UnitRows
from qrcore.errors import ScoreError
from qrcore.records import RankedDocument, Ranking, RankRequest

_OWN = [field.name for field in RANKING_FIELDS]


@dataclass(frozen=True)
class StubJob:
    """See :class:`pipelines.job.Job`. ``in_constructor``: what a worker does before it is ready."""

    label: str = "stub"
    in_constructor: str = ""
    name: str = "stub"

    def probe(self) -> Callable[[], str]:
        return partial(_facts, self.label)

    def identity(self, facts: str) -> dict[str, Any]:
        return {"facts": facts}

    def order(self, surveys: Sequence[FileSurvey], facts: str) -> str:
        return "as_given"

    def provenance(self, facts: str, order: str) -> dict[str, Any]:
        return {"model": {"id": facts}}

    def output_schema(self, surveys: Sequence[FileSurvey]) -> tuple[pa.Schema, tuple[str, ...]]:
        carried = carried_fields([(s.file.uri, s.schema) for s in surveys if s.schema is not None], "all")
        return ranking_schema(carried), tuple(field.name for field in carried)

    def worker(self, facts: str, plan: Plan) -> Callable[[], StubWorker]:
        return partial(StubWorker, plan.output_schema, self.in_constructor)

    def side_files(self, plan: Plan, facts: str) -> StubSideFiles:
        return StubSideFiles()


def _facts(label: str) -> str:
    return label


class StubWorker:
    """See :class:`pipelines.work.UnitWorker`."""

    def __init__(self, schema: pa.Schema, in_constructor: str) -> None:
        if in_constructor:
            obey(in_constructor)
        self._schema = schema

    def answer(self, unit: UnitRows) -> tuple[pa.Table, UnitMetrics]:
        started = time.time()
        rows = read_input_rows(unit.table)
        answers = [_answer(row, unit.first_row + place in unit.duplicates) for place, row in enumerate(rows)]
        out = [
            row_from_answer(query_id_of(row), answer, Source(unit.uri, unit.first_row + place))
            for place, (row, answer) in enumerate(zip(rows, answers, strict=True))
        ]
        errors = [answer for answer in answers if isinstance(answer, ScoreError)]
        table = table_from_rows(out, carried_columns(unit.table, self._schema, _OWN), self._schema)
        return table, unit_metrics(
            len(rows), errors, sum(a.prompt_tokens for a in answers if isinstance(a, Ranking)), started
        )


def _answer(row: Any, doubled: bool) -> Ranking | ScoreError:
    request = row if isinstance(row, ScoreError) else duplicate_query_id(row) if doubled else request_from_row(row)
    if not isinstance(request, RankRequest):
        return request
    try:
        obey(request.query)
    except ScoreError as error:
        return error
    # The longest text first: a rule that needs no model and that a check can know.
    ranks = [document.rank or place for place, document in enumerate(request.documents, start=1)]
    order = sorted(
        range(len(ranks)), key=lambda p: (-len(request.documents[p].text), ranks[p], request.documents[p].doc_id)
    )
    documents = tuple(
        RankedDocument(
            doc_id=request.documents[place].doc_id,
            rank=rank,
            score=float(len(request.documents[place].text)),
            input_rank=ranks[place],
            input_score=request.documents[place].score,
        )
        for rank, place in enumerate(order, start=1)
    )
    return Ranking(request.query_id, documents, sum(len(d.text) for d in request.documents) // 4)


def obey(text: str) -> None:
    """Do to this process what a query says."""
    word, _, argument = text.partition(":")
    if word == "kill" or (word == "kill-once" and _first_time(argument)):
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == "kill-driver":
        if _first_time(argument + ".done"):
            os.kill(int(Path(argument).read_text()), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == "cuda":
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    elif word == "sleep":
        time.sleep(float(argument))
    elif word == "until":
        while not Path(argument).exists():
            time.sleep(0.05)
        time.sleep(0.1)
    elif word == "oom":
        raise ScoreError("oom", "memory: expected this prompt to fit, and it did not.", stage="score")


def _first_time(path: str) -> bool:
    try:
        Path(path).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


class StubSideFiles:
    """See :class:`pipelines.job.SideFileWriter`."""

    warnings: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._errors = ErrorLines()
        self._totals = {"rows": 0, "scored": 0, "failed": 0}

    def watch(self, units: Any) -> Any:
        stored: StoredUnit
        for stored in units:
            self._errors.add(stored)
            for name in self._totals:
                self._totals[name] += getattr(stored.entry, name)
            yield stored

    def write(self, storage: Storage, run_uri: str, driver: str, resumed: bool, write_s: Any) -> list[str]:
        folder = f"commit/{driver}"
        content = json.dumps({"result": self._totals | {"resumed": resumed}}).encode()
        storage.create(f"{run_uri}/{folder}/report.json", content)
        return [self._errors.write(storage, run_uri, folder), f"{folder}/report.json"]


class Quiet:
    """An observer that keeps what it is told. ``at_unit`` is called with the number of units done so far."""

    def __init__(self, at_unit: Callable[[int], None] | None = None) -> None:
        self.stages: list[str] = []
        self.footers: list[dict[str, Any]] = []
        self.plan: Plan | None = None
        self._at_unit = at_unit

    def stage(self, message: str) -> None:
        self.stages.append(message)

    def planned(self, plan: Plan, done: frozenset[str]) -> None:
        self.plan = plan

    def unit_done(self, footer: dict[str, Any]) -> None:
        self.footers.append(footer)
        if self._at_unit:
            self._at_unit(len(self.footers))


def stub_settings(inputs: str, output: str, **changes: Any) -> RunSettings:
    base = {
        "name": "stub",
        "input": {"uris": [inputs]},
        "output": {"uri": output},
        "units": {"max_rows": 4},
        "actors": {"count": 1, "cpus": 0.5},
    }
    return pipeline_settings(validate(RerankConfig, merge(base, changes))).run


def run_stub(settings: RunSettings, job: StubJob | None = None, observer: Quiet | None = None) -> RunResult:
    return run_job(job or StubJob(), settings, observer or Quiet())
