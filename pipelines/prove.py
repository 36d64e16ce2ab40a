"""Prove a choice of heads on queries that it was not made on: what this job adds to the steps of a run.

Called after :mod:`pipelines.detect` on the same inputs, with the sets that the choice is compared with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import pyarrow as pa

from pipelines.commit import StoredUnit
from pipelines.detection.causal import MaskedTrials, Masks, causal_findings
from pipelines.detection.comparison import SetQuality, Trials, by_place, compare_sets, draws
from pipelines.detection.page import RunLine, proof_page
from pipelines.detection.rivals import CHOSEN
from pipelines.detection.trials import TRIALS_SCHEMA
from pipelines.identity import content_hash
from pipelines.inputs import FileSurvey
from pipelines.job import Observer, RunResult, RunSettings
from pipelines.labels import Qrels
from pipelines.needle_columns import PLACE_FIELDS, are_needle_trials
from pipelines.plan import Plan
from pipelines.report.parts import CommonParts
from pipelines.run import run_job
from pipelines.scorers import ScorerSettings, probe, scorer_identity, scorer_record
from pipelines.side_files import ErrorLines
from pipelines.splits import Part
from pipelines.storage import Storage, join
from pipelines.work import UnitWorker
from qrcore.heads import HeadSet, parse_head
from qrcore.matching import length_warnings
from qrcore.records import Order, ScorerIdentity

JOB: Final = "prove"
REPORT_FILE: Final = "report.json"
PAGE_FILE: Final = "report.html"
#: Where documents stand matters to some heads: the chosen set is read in all of these.
ORDERS: Final[tuple[Order, ...]] = ("as_given", "reversed", "shuffled")


@dataclass(frozen=True, slots=True)
class ProveSettings:
    """The chosen set and its rivals by name, the order of documents that the choice was made in, the queries to rank
    (None for all: then they are the ones that the choice was made on, and the report says so).

    ``masks``: heads to hold back, by name, where rows are needle trials, see
    :func:`~pipelines.detection.causal.mask_sets`; ``answer_prefix``: what is given of their answers; ``found``: the
    head set that is proved; ``further_orders``: the chosen set is read in these, too; ``pairs``: rows are key-value
    trials of the method that is built with this, which are answered and not ranked.
    """

    run: RunSettings
    scorer: ScorerSettings
    sets: Mapping[str, tuple[str, ...]]
    order: Order
    part: Part | None
    qrels: Qrels
    found: HeadSet
    masks: Masks = field(default_factory=dict)
    answer_prefix: str = "auto"
    further_orders: tuple[Order, ...] = ORDERS
    pairs: Mapping[str, Any] | None = None

    @property
    def orders(self) -> dict[Order, tuple[str, ...]]:
        """Which sets are read in which order of the documents."""
        if self.pairs is not None:
            return {}
        return {self.order: tuple(self.sets)} | {
            order: (CHOSEN,) for order in self.further_orders if order != self.order
        }


def run(settings: ProveSettings, observer: Observer) -> RunResult:
    """Plan, work and commit, as every run. Raises errors of :mod:`qrcore.errors`."""
    return run_job(ProveJob(settings), settings.run, observer)


@dataclass(frozen=True, slots=True)
class ProveJob:
    """See :class:`pipelines.job.Job`."""

    settings: ProveSettings
    name: str = JOB
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def probe(self) -> Callable[[], ScorerIdentity]:
        return partial(probe, self.settings.scorer)

    def identity(self, facts: ScorerIdentity) -> dict[str, Any]:
        settings = self.settings
        named = {"sets": settings.sets, "masks": settings.masks}
        own: dict[str, Any] = {
            kind: {name: list(heads) for name, heads in sets.items()} for kind, sets in named.items()
        }
        own |= {"order": settings.order, "orders": sorted(settings.orders), "answer_prefix": settings.answer_prefix}
        own |= {"pairs": dict(settings.pairs)} if settings.pairs is not None else {}
        return scorer_identity(settings.run.affecting_output, facts) | own | {"qrels": content_hash(settings.qrels)}

    def order(self, surveys: Sequence[FileSurvey], facts: ScorerIdentity) -> str:
        return self.settings.order

    def provenance(self, facts: ScorerIdentity, order: str) -> dict[str, Any]:
        sets = {name: list(heads) for name, heads in self.settings.sets.items()}
        return scorer_record(replace(self.settings.scorer, order=order), facts) | {"sets": sets}

    def output_schema(self, surveys: Sequence[FileSurvey]) -> tuple[pa.Schema, tuple[str, ...]]:
        if not self.settings.masks or not are_needle_trials(surveys):
            return TRIALS_SCHEMA, ()
        schema = pa.schema([*TRIALS_SCHEMA, *PLACE_FIELDS], metadata=TRIALS_SCHEMA.metadata)
        return schema, tuple(field.name for field in PLACE_FIELDS)

    def worker(self, facts: ScorerIdentity, plan: Plan) -> Callable[[], UnitWorker]:
        settings = self.settings
        scorer = replace(settings.scorer, revision=facts.revision, dtype=facts.dtype)
        # Rows that are no trials carry no needle columns; then nothing is masked.
        masks = settings.masks if plan.carried else {}
        answering = (settings.answer_prefix, settings.pairs)
        return partial(
            _worker, scorer, dict(settings.sets), settings.orders, settings.part, masks, answering, settings.qrels
        )

    def side_files(self, plan: Plan, facts: ScorerIdentity) -> ProofSideFiles:
        return ProofSideFiles(CommonParts(plan, self.started_at), self.settings)


def _worker(
    scorer: ScorerSettings,
    sets: Mapping[str, tuple[str, ...]],
    orders: Mapping[Order, tuple[str, ...]],
    part: Part | None,
    masks: Masks,
    answering: tuple[str, Mapping[str, Any] | None],
    qrels: Qrels,
) -> UnitWorker:
    from pipelines.detection.trials import TrialSettings, TrialWorker  # torch

    return TrialWorker(TrialSettings(scorer, sets, orders, part, masks, *answering), qrels)


class ProofSideFiles:
    """See :class:`pipelines.job.SideFileWriter`."""

    def __init__(self, common: CommonParts, settings: ProveSettings) -> None:
        self._common = common
        self._settings = settings
        self._tokens = 0
        self._trials = Trials()
        self._masked = MaskedTrials()
        self._errors = ErrorLines()

    def watch(self, units: Iterable[StoredUnit]) -> Iterator[StoredUnit]:
        """The same units, taken note of."""
        for stored in units:
            self._common.add(stored)
            self._trials.add(stored.answers)
            self._masked.add(stored.answers)
            self._tokens += stored.footer["prompt_tokens"]
            self._errors.add(stored)
            yield stored

    def write(
        self, storage: Storage, run_uri: str, driver: str, resumed: bool, write_s: Mapping[str, float]
    ) -> list[str]:
        """Put errors.jsonl and the report; their paths within the run."""
        folder = f"commit/{driver}"
        common = self._common.finish(run_uri, driver, write_s, resumed=resumed)
        report = common.model_dump(mode="json") | proof_report(self._settings, self._trials, self._masked)
        line = RunLine(self._common.plan.run_id, JOB, self._common.plan.name, run_uri, self._tokens)
        report["warnings"] = list(self.warnings)
        contents = {
            REPORT_FILE: json.dumps(report, indent=1).encode(),
            PAGE_FILE: proof_page(report, line, common).encode(),
        }
        for name, data in contents.items():
            storage.create(join(run_uri, folder, name), data)
        return [self._errors.write(storage, run_uri, folder), *(f"{folder}/{name}" for name in contents)]

    @property
    def warnings(self) -> tuple[str, ...]:
        """See :class:`pipelines.job.SideFileWriter`."""
        found = self._settings.found
        return length_warnings(found.id, found.prompt_tokens, self._trials.prompt_tokens)


def proof_report(settings: ProveSettings, trials: Trials, masked: MaskedTrials) -> dict[str, Any]:
    """The sets with their qualities, the chosen one's by order and place, what masking it costs in needle trials, and
    what was not ranked."""
    causal = causal_findings(settings.masks, masked)
    qualities = compare_sets(trials, settings.order) if trials.queries else []
    return {
        "queries": trials.queries,
        "seen_by_the_choice": settings.part is None,
        "kept_back": trials.kept_back,
        "failed": dict(sorted(trials.errors.items())),
        "order": settings.order,
        "sets": [_set_record(settings.sets.get(one.name, ()), one) for one in qualities],
        "random": [asdict(one) for one in draws(qualities)],
        "places": [asdict(one) for one in by_place(trials)],
        "causal": asdict(causal) if causal else None,
    }


def _set_record(heads: Sequence[str], quality: SetQuality) -> dict[str, Any]:
    """A set's quality with its heads and the layers that it needs run (0 for the first stage)."""
    layers = max((parse_head(head).layer + 1 for head in heads), default=0)
    return {"heads": list(heads), "layers": layers, **asdict(quality)}
