"""Find heads on labelled examples: what this job adds to the steps of a run.

All heads of every example of one part of the queries are read once; the commit writes scores of heads, the head set
and its evidence. The queries of the other part are left for proving the choice (:mod:`pipelines.prove`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa

from pipelines.commit import StoredUnit
from pipelines.detection.causal import Masks, mask_sets
from pipelines.detection.choice import Choice
from pipelines.detection.copying import Copying, CopySettings, KeyValueTask
from pipelines.detection.found import Examples, Found, Origin, find, head_score_table, head_set
from pipelines.detection.page import RunLine, detection_page
from pipelines.detection.report import detection_report
from pipelines.detection.rivals import rivals
from pipelines.detection.rows import HEAD_VALUES_SCHEMA
from pipelines.identity import code_version, content_hash
from pipelines.inputs import FileSurvey
from pipelines.job import Observer, RunResult, RunSettings
from pipelines.labels import Qrels, load_qrels
from pipelines.needle_columns import needle_fields
from pipelines.plan import Plan
from pipelines.prove import ProveSettings
from pipelines.report.parts import CommonParts
from pipelines.run import run_job
from pipelines.scorers import ScorerSettings, on_requested_device, scorer_identity, scorer_record
from pipelines.side_files import ErrorLines, read_side_file
from pipelines.splits import Part
from pipelines.storage import Storage, join
from pipelines.work import UnitWorker
from qrcore.heads import HeadSet, ModelShape
from qrcore.records import Order, ScorerIdentity

JOB: Final = "detect"
HEAD_SET_FILE: Final = "headset.json"
HEAD_SCORES_FILE: Final = "head_scores.parquet"
REPORT_FILE: Final = "report.json"
PAGE_FILE: Final = "report.html"


@dataclass(frozen=True, slots=True)
class DetectSettings:
    """Everything that finding heads is told.

    ``scorer`` reads all heads; ``methods`` with their settings, of which ``method`` chooses and the others are
    compared with it; ``order=auto``: the one that the choosing method's authors use, else as given; ``part``: the
    queries to find heads on, None for all; ``dataset_id`` and ``contamination`` are kept with the head set;
    ``copying``: that rows are needle trials, and how heads are seen to copy; ``controls``: sets of other heads that the
    causal check of needle trials masks, 0 for no check; ``compare``: further sets to prove the choice against.
    """

    run: RunSettings
    scorer: ScorerSettings
    method: str
    methods: Mapping[str, Mapping[str, Any]]
    choice: Choice
    order: Literal["auto", "as_given", "reversed", "shuffled"]
    part: Part | None
    qrels: str
    dataset_id: str
    contamination: str | None
    copying: Copying | None = None
    controls: int = 20
    compare: tuple[HeadSet, ...] = ()


@dataclass(frozen=True, slots=True)
class DetectFacts:
    """What loading the model told, in which order documents stand in prompts, and what is to be known of the sets that
    the choice is compared with."""

    scorer: ScorerIdentity
    shape: ModelShape
    order: Order
    warnings: tuple[str, ...] = ()


def run(settings: DetectSettings, observer: Observer) -> RunResult:
    """Plan, work and commit; run again after any interruption to go on where it stopped.

    Raises errors of :mod:`qrcore.errors`: :class:`InputError` if no example can be used,
    :class:`IncompleteRunError` where the same command resumes.
    """
    qrels = load_qrels(settings.qrels, settings.run.storage)
    scorer = _reading_all_heads(settings)
    return run_job(DetectJob(replace(settings, scorer=scorer), qrels), settings.run, observer)


def _reading_all_heads(settings: DetectSettings) -> ScorerSettings:
    depth = "full" if settings.copying else "heads"
    return replace(on_requested_device(settings.scorer, settings.run.pool), heads="all", depth=depth)


def found_head_set(result: RunResult, settings: RunSettings) -> HeadSet:
    """The head set of a committed run."""
    content = read_side_file(result.run_uri, result.manifest.side_files, HEAD_SET_FILE, settings.storage)
    return HeadSet.model_validate(content)


def proof_settings(settings: DetectSettings, result: RunResult) -> ProveSettings:
    """How the choice of a committed run is proved: on the queries of the other part or, if it saw all, on all."""
    findings = read_side_file(result.run_uri, result.manifest.side_files, REPORT_FILE, settings.run.storage)
    found = found_head_set(result, settings.run)
    return ProveSettings(
        run=replace(settings.run, name=f"{settings.run.name}-proof"),
        scorer=_reading_all_heads(settings),
        sets={name: tuple(heads) for name, heads in findings["rivals"].items()},
        order=findings["order"],
        part="test" if settings.part else None,
        qrels=load_qrels(settings.qrels, settings.run.storage),
        found=found,
        masks=_masks(settings, found),
        answer_prefix=settings.copying.answer_prefix if isinstance(settings.copying, CopySettings) else "auto",
        pairs=settings.copying.building if isinstance(settings.copying, KeyValueTask) else None,
    )


def _masks(settings: DetectSettings, found: HeadSet) -> Masks:
    if not settings.controls or found.shape is None:
        return {}
    return mask_sets(found.heads, found.shape, settings.controls, settings.choice.seed)


@dataclass(frozen=True, slots=True)
class DetectJob:
    """See :class:`pipelines.job.Job`."""

    settings: DetectSettings
    qrels: Qrels
    name: str = JOB
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def probe(self) -> Callable[[], DetectFacts]:
        method = self.settings.copying.loaded if self.settings.copying else self.settings.method
        return partial(_probe, self.settings.scorer, method, self.settings.order, self.settings.compare)

    def identity(self, facts: DetectFacts) -> dict[str, Any]:
        compared = [one.id for one in self.settings.compare]
        own = {"order": facts.order, "qrels": content_hash(self.qrels), "compare": compared}
        return scorer_identity(self.settings.run.affecting_output, facts.scorer) | own

    def order(self, surveys: Sequence[FileSurvey], facts: DetectFacts) -> str:
        return facts.order

    def provenance(self, facts: DetectFacts, order: str) -> dict[str, Any]:
        found = {"method": self.settings.method, "part": self.settings.part or "all"}
        return scorer_record(replace(self.settings.scorer, order=order), facts.scorer) | {"detection": found}

    def output_schema(self, surveys: Sequence[FileSurvey]) -> tuple[pa.Schema, tuple[str, ...]]:
        if not self.settings.copying:
            return HEAD_VALUES_SCHEMA, ()
        fields = needle_fields(surveys)
        schema = pa.schema([*HEAD_VALUES_SCHEMA, *fields], metadata=HEAD_VALUES_SCHEMA.metadata)
        return schema, tuple(field.name for field in fields)

    def worker(self, facts: DetectFacts, plan: Plan) -> Callable[[], UnitWorker]:
        scorer = replace(
            self.settings.scorer, order=facts.order, revision=facts.scorer.revision, dtype=facts.scorer.dtype
        )
        copying = self.settings.copying
        read = {name: one for name, one in self.settings.methods.items() if not copying or name not in copying.methods}
        return partial(_worker, scorer, read, self.settings.part, copying, self.qrels)

    def side_files(self, plan: Plan, facts: DetectFacts) -> DetectionSideFiles:
        return DetectionSideFiles(CommonParts(plan, self.started_at), self.settings, facts, self.qrels)


def _probe(settings: ScorerSettings, method: str, order: str, compare: Sequence[HeadSet]) -> DetectFacts:
    from pipelines.actors import open_scorer  # torch, which the driver does not need
    from qrcore.loading import load_method
    from qrcore.matching import check_origin
    from qrcore.models import open_model

    usual: Any = load_method(method).needs.order or "as_given" if order == "auto" else order
    source = open_model(settings.model, settings.revision)
    for one in compare:
        one.check_fits(source.shape)
    warnings = tuple(warning for one in compare for warning in check_origin(one, source, "warn"))
    return DetectFacts(open_scorer(replace(settings, order=usual)).identity, source.shape, usual, warnings)


def _worker(
    scorer: ScorerSettings,
    methods: Mapping[str, Mapping[str, Any]],
    part: Part | None,
    copying: Copying | None,
    qrels: Qrels,
) -> UnitWorker:
    from pipelines.detection.copy_worker import CopyValueWorker  # torch
    from pipelines.detection.key_value_worker import KeyValueWorker
    from pipelines.detection.worker import DetectorSettings, HeadValueWorker

    if isinstance(copying, KeyValueTask):
        return KeyValueWorker(scorer, part, copying)
    settings = DetectorSettings(scorer, methods, part)
    return CopyValueWorker(settings, copying, qrels) if copying else HeadValueWorker(settings, qrels)


class DetectionSideFiles:
    """See :class:`pipelines.job.SideFileWriter`."""

    def __init__(self, common: CommonParts, settings: DetectSettings, facts: DetectFacts, qrels: Qrels) -> None:
        self._common = common
        self._settings = settings
        self._facts = facts
        self._examples = Examples(facts.shape, unmet=set(qrels))
        self._errors = ErrorLines()

    def watch(self, units: Iterable[StoredUnit]) -> Iterator[StoredUnit]:
        """The same units, taken note of."""
        for stored in units:
            self._common.add(stored)
            self._examples.add(stored.answers)
            self._errors.add(stored)
            yield stored

    def write(
        self, storage: Storage, run_uri: str, driver: str, resumed: bool, write_s: Mapping[str, float]
    ) -> list[str]:
        """Put errors.jsonl, the head set, scores of all heads and the report; their paths within the run."""
        chosen, *others = self._found()
        origin = self._origin()
        artifact = head_set(chosen, self._examples, origin, self._said())
        common = self._common.finish(run_uri, driver, write_s, resumed=resumed)
        report = common.model_dump(mode="json") | detection_report(artifact, chosen, others, self._examples)
        report["order"] = self._facts.order
        report["copying"] = self._copying()
        report["rivals"] = rivals(chosen, others, self._facts.shape, self._settings.choice, self._settings.compare)
        report["warnings"] += [*filter(None, [self._said()]), *self._facts.warnings]
        contents = {
            HEAD_SET_FILE: artifact.model_dump_json(indent=1, exclude_none=True).encode(),
            HEAD_SCORES_FILE: head_score_table([chosen, *others], origin),
            REPORT_FILE: json.dumps(report, indent=1).encode(),
            PAGE_FILE: detection_page(report, artifact, self._line(run_uri), common).encode(),
        }
        folder = f"commit/{driver}"
        for name, data in contents.items():
            storage.create(join(run_uri, folder, name), data)
        return [self._errors.write(storage, run_uri, folder), *(f"{folder}/{name}" for name in contents)]

    @property
    def warnings(self) -> tuple[str, ...]:
        """See :class:`pipelines.job.SideFileWriter`; those of the choice stand in the report."""
        return ()

    def _line(self, run_uri: str) -> RunLine:
        plan = self._common.plan
        return RunLine(plan.run_id, JOB, plan.name, run_uri, sum(self._examples.prompt_tokens))

    def _found(self) -> list[Found]:
        settings = self._settings
        chosen = settings.copying.method(self._succeeded) if settings.copying else settings.method
        others = [name for name in settings.methods if name != chosen and self._examples.says_something(name)]
        return [find(self._examples, name, settings.methods[name], settings.choice) for name in (chosen, *others)]

    @property
    def _succeeded(self) -> int:
        """Trials in which the model gave the answer, where there are any."""
        copying = self._settings.copying
        values = self._examples.values.get(copying.conditional, ()) if copying else ()
        return sum(not np.isnan(one).all() for one in values)

    @property
    def _trials(self) -> int:
        return len(self._examples.prompt_tokens)

    def _said(self) -> str | None:
        copying = self._settings.copying
        return copying.said(self._succeeded, self._trials) if copying else None

    def _copying(self) -> dict[str, Any] | None:
        """How the trials went, where there are any."""
        copying = self._settings.copying
        if not copying:
            return None
        counted = {"trials": self._trials, "succeeded": self._succeeded}
        return {**copying.record, **counted, "chosen_by": copying.method(self._succeeded)}

    def _origin(self) -> Origin:
        settings = self._settings
        return Origin(
            name=settings.run.name,
            model_id=settings.scorer.model,
            facts=self._facts.scorer,
            shape=self._facts.shape,
            dataset_id=settings.dataset_id,
            order=self._facts.order,
            null_query=settings.scorer.null_query,
            calibration_weight=settings.scorer.calibration_weight,
            query_span=settings.scorer.query_span,
            code_version=code_version()["version"],
            contamination=settings.contamination,
        )
