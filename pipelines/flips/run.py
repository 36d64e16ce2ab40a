"""Audit second thoughts: heads are ranked on one part of the rows and masked on the other, in a run for each."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.commit import StoredUnit
from pipelines.flips.masks import audit_masks
from pipelines.flips.model import NONE, OWN_HEADS, FlipFacts, FlipModel, Phase
from pipelines.flips.page import flips_page
from pipelines.flips.report import FlipCounts, FlipReport, Ranked
from pipelines.flips.rows import WRONG_ANSWER, flip_schema
from pipelines.inputs import FileSurvey
from pipelines.job import Observer, RunResult, RunSettings
from pipelines.needle_columns import PLACE_FIELDS, are_needle_trials
from pipelines.plan import Plan
from pipelines.report.parts import committed_run
from pipelines.run import run_job
from pipelines.schemas import is_text
from pipelines.side_files import ErrorLines, read_side_file
from pipelines.storage import Storage, join
from pipelines.work import UnitWorker
from qrcore.errors import ConfigError, InputError
from qrcore.heads import parse_head

JOB: Final = "flips"
REPORT_FILE: Final = "report.json"
PAGE_FILE: Final = "report.html"
HEAD_SCORES_FILE: Final = "head_scores.parquet"
_FEW: Final = 8
_RESOLVED_BY_PROBE: Final = frozenset({"model.id", "model.revision", "model.dtype", "model.device", "model.prompt"})


@dataclass(frozen=True, slots=True)
class FlipSettings:
    """Everything that the audit is told. ``sizes``: how many of the ranked heads are masked; ``compared``: further
    sets of heads by name; ``controls``: sets of other heads for each, drawn with ``seed``."""

    run: RunSettings
    model: FlipModel
    sizes: tuple[int, ...]
    compared: Mapping[str, tuple[str, ...]]
    controls: int
    seed: int


def run_fit(settings: FlipSettings, observer: Observer) -> RunResult:
    """Rank heads on the fit split; run again after any interruption to go on where it stopped.

    Raises :class:`InputError` where no answer on it is right: then nothing tells heads apart.
    """
    return _run(settings, Phase("dev", fit=True, masks={}), (), observer)


def run_audit(settings: FlipSettings, fitted: RunResult, observer: Observer) -> RunResult:
    """Mask the heads that a committed fit ranked, on the held-out split."""
    found = read_side_file(fitted.run_uri, fitted.manifest.side_files, REPORT_FILE, settings.run.storage)
    masks = {name: tuple(heads) for name, heads in found["next_masks"].items()}
    ranking = tuple(Ranked.model_validate(one) for one in found["ranking"])
    held_out = replace(settings, run=replace(settings.run, name=f"{settings.run.name}-held-out"))
    return _run(held_out, Phase("test", fit=False, masks=masks), ranking, observer)


def _run(settings: FlipSettings, phase: Phase, ranking: tuple[Ranked, ...], observer: Observer) -> RunResult:
    answerer = settings.model.answerer
    if answerer.device == "auto":
        answerer = replace(answerer, device="cuda" if settings.run.pool.gpus_per_actor else "cpu")
    settings = replace(settings, model=replace(settings.model, answerer=answerer))
    return run_job(FlipJob(settings, phase, ranking, datetime.now(UTC)), settings.run, observer)


@dataclass(frozen=True, slots=True)
class FlipJob:
    """See :class:`pipelines.job.Job`. ``ranking``: of the fit, for the report of the held-out split."""

    settings: FlipSettings
    phase: Phase
    ranking: tuple[Ranked, ...]
    started_at: datetime
    name: str = JOB

    def probe(self) -> Callable[[], FlipFacts]:
        return partial(_probe, self.settings.model)

    def identity(self, facts: FlipFacts) -> dict[str, Any]:
        affecting = self.settings.run.affecting_output
        return {
            "config": {name: value for name, value in affecting.items() if name not in _RESOLVED_BY_PROBE},
            "answerer": {**asdict(facts.answerer), "device": facts.answerer.device.split(":")[0]},
            "compared": self.settings.compared,
            "own": facts.own,
            "phase": asdict(self.phase),
        }

    def order(self, surveys: Sequence[FileSurvey], facts: FlipFacts) -> str:
        return "as_given"

    def provenance(self, facts: FlipFacts, order: str) -> dict[str, Any]:
        settings, phase = self.settings, self.phase
        doing = "heads are ranked" if phase.fit else f"{len(phase.masks)} sets of heads are masked"
        misled = ", after a misleading passage" if settings.model.misleading else ""
        return {
            "told": f"{settings.model.answerer.model} answers and is asked again{misled}; {doing} on the "
            f"{'fit' if phase.fit else 'held-out'} split, {facts.answerer.dtype} on {facts.answerer.device}",
            "model": {"id": settings.model.answerer.model, **asdict(facts.answerer)},
            "asking": {name: value for name, value in asdict(settings.model).items() if name != "answerer"},
            "settings": facts.settings,
            "own_head_set": facts.own[0] if facts.own else None,
            "part": phase.part,
            "warnings": [],
        }

    def output_schema(self, surveys: Sequence[FileSurvey]) -> tuple[pa.Schema, tuple[str, ...]]:
        known = [survey for survey in surveys if survey.schema is not None]
        for survey in known:
            if not are_needle_trials([survey]):
                raise ConfigError(
                    f"{survey.file.uri}: expected needle rows, with needle_doc_id (string), needle_start and "
                    "needle_end (integers), got none. Make some with qrbatch needles, or add the columns."
                )
        carried = (*PLACE_FIELDS, *((WRONG_ANSWER,) if any(map(_names_wrong_answers, known)) else ()))
        return flip_schema(carried), tuple(field.name for field in carried)

    def worker(self, facts: FlipFacts, plan: Plan) -> Callable[[], UnitWorker]:
        model = self.settings.model
        answerer = replace(model.answerer, revision=facts.answerer.revision, dtype=facts.answerer.dtype)
        return partial(_worker, replace(model, answerer=answerer), self.phase, plan.output_schema)

    def side_files(self, plan: Plan, facts: FlipFacts) -> FlipFiles:
        return FlipFiles(plan, self, facts)


def _names_wrong_answers(survey: FileSurvey) -> bool:
    schema = survey.schema
    if schema is None or WRONG_ANSWER.name not in schema.names:
        return False
    kind = schema.field(WRONG_ANSWER.name).type
    if not is_text(kind):
        raise InputError(
            f"{survey.file.uri}: column {WRONG_ANSWER.name!r} has type {kind}, expected string. Cast or drop it."
        )
    return True


def _probe(model: FlipModel) -> FlipFacts:
    from pipelines.flips.worker import probe  # torch

    return probe(model)


def _worker(model: FlipModel, phase: Phase, schema: pa.Schema) -> UnitWorker:
    from pipelines.flips.worker import FlipWorker  # torch

    return FlipWorker(model, phase, schema)


class FlipFiles:
    """Errors, scores of heads and the report; see :class:`pipelines.job.SideFileWriter`."""

    def __init__(self, plan: Plan, job: FlipJob, facts: FlipFacts) -> None:
        self._plan, self._job, self._facts = plan, job, facts
        self._errors = ErrorLines()
        self._counts = FlipCounts(plan, facts.shape, job.phase.masks)

    def watch(self, units: Iterable[StoredUnit]) -> Iterator[StoredUnit]:
        """The same units, taken note of."""
        for stored in units:
            self._errors.add(stored)
            self._counts.add(stored)
            yield stored

    def write(
        self, storage: Storage, run_uri: str, driver: str, resumed: bool, write_s: Mapping[str, float]
    ) -> list[str]:
        """Put errors.jsonl, the report and, of a fit, the scores of all heads; their paths within the run."""
        folder = f"commit/{driver}"
        run = committed_run(self._plan, run_uri, driver, self._job.started_at, datetime.now(UTC), resumed=resumed)
        fit = self._job.phase.fit
        ranking = self._ranking() if fit else self._job.ranking
        masks = self._next_masks(ranking) if fit else {}
        report = self._counts.finish(run, ranking, masks, self.warnings)
        contents = {REPORT_FILE: report.model_dump_json(indent=1).encode(), PAGE_FILE: flips_page(report).encode()}
        if fit:
            contents[HEAD_SCORES_FILE] = head_score_file(report)
        for name, data in contents.items():
            storage.create(join(run_uri, folder, name), data)
        return [self._errors.write(storage, run_uri, folder), *(f"{folder}/{name}" for name in contents)]

    def _ranking(self) -> tuple[Ranked, ...]:
        ranking = self._counts.ranking()
        if not ranking:
            raise InputError(
                f"fit: expected rows of the fit split that the model answers right, none of {self._counts.audited} is. "
                "Give more rows, easier ones, or a lower asking.correct_recall."
            )
        return ranking

    def _next_masks(self, ranking: Sequence[Ranked]) -> dict[str, tuple[str, ...]]:
        settings = self._job.settings
        heads = [parse_head(one.head) for one in ranking]
        own = {OWN_HEADS: self._facts.own[1]} if self._facts.own else {}
        return audit_masks(
            heads, self._facts.shape, settings.sizes, own | dict(settings.compared), settings.controls, settings.seed
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes the audit say less than it seems to."""
        counts, found = self._counts, []
        right = len([one for one in counts.entries.get(NONE, ()) if one.correct])
        flips = sum(not one.stands for one in counts.entries.get(NONE, ()) if one.correct)
        if right < _FEW:
            found.append(f"only {right} right answers to ask about again: shares of them say little")
        if right and flips in (0, right):
            verdict = "stands by" if not flips else "gives up"
            found.append(f"the model {verdict} every right answer: no ranking can tell heads that go with giving up")
        entries = counts.entries.get(NONE, ())
        if entries and sum(one.coherent for one in entries) < len(entries) / 2:
            found.append("neither word is among the five likeliest tokens in most verdicts: the model does not answer")
        return tuple(found)


def head_score_file(report: FlipReport) -> bytes:
    """The ranking as Parquet: ``layer``, ``head``, ``score`` and rows in each of the four cases."""
    rows = [
        {
            "layer": parse_head(one.head).layer,
            "head": parse_head(one.head).head,
            "score": one.score,
            **{f"case_{number}": count for number, count in enumerate(one.cases, start=1)},
        }
        for one in report.ranking
    ]
    counts = [pa.field(f"case_{number}", pa.int64()) for number in range(1, 5)]
    schema = pa.schema([("layer", pa.int16()), ("head", pa.int16()), ("score", pa.float32()), *counts])
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink, compression="zstd")
    return sink.getvalue()
