"""Score documents by the influence of retrieval heads: what this job adds to the steps of a run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import pyarrow as pa

from pipelines.commit import StoredUnit
from pipelines.contracts import DOCUMENTS, RowContract
from pipelines.influence.model import InfluenceFacts, InfluenceModel
from pipelines.influence.page import influence_page
from pipelines.influence.ranking import RankingSettings, rank_documents
from pipelines.influence.rows import INFLUENCE_SCHEMA
from pipelines.inputs import FileSurvey
from pipelines.job import Observer, RunResult, RunSettings
from pipelines.plan import Plan
from pipelines.report.parts import CommonParts, CommonReport
from pipelines.run import run_job
from pipelines.side_files import ErrorLines
from pipelines.storage import Storage, join
from pipelines.work import UnitWorker

JOB: Final = "influence"
REPORT_FILE: Final = "report.json"
PAGE_FILE: Final = "report.html"


@dataclass(frozen=True, slots=True)
class InfluenceJobSettings:
    """Everything that scoring is told; ``fraction``: the share of each domain that is selected."""

    run: RunSettings
    model: InfluenceModel
    fraction: float


def run(settings: InfluenceJobSettings, observer: Observer) -> RunResult:
    """Plan, work and commit; run again after any interruption to go on where it stopped."""
    model = settings.model
    if model.device == "auto":
        model = replace(model, device="cuda" if settings.run.pool.gpus_per_actor else "cpu")
    return run_job(InfluenceJob(replace(settings, model=model)), settings.run, observer)


@dataclass(frozen=True, slots=True)
class InfluenceJob:
    """See :class:`pipelines.job.Job`."""

    settings: InfluenceJobSettings
    name: str = JOB
    contract: RowContract = DOCUMENTS
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def probe(self) -> Callable[[], InfluenceFacts]:
        return partial(_probe, self.settings.model)

    def identity(self, facts: InfluenceFacts) -> dict[str, Any]:
        config = {
            key: value for key, value in self.settings.run.affecting_output.items() if not key.startswith("model.")
        }
        return {
            "config": config,
            "head_set": facts.head_set_id,
            "weights": facts.weights_sha256,
            "setup": facts.setup_sha256,
            "dtype": facts.dtype,
            "device": facts.device.split(":")[0],
        }

    def order(self, surveys: Sequence[FileSurvey], facts: InfluenceFacts) -> str:
        return "as_given"

    def provenance(self, facts: InfluenceFacts, order: str) -> dict[str, Any]:
        return {
            "told": self._told(facts),
            "model": {
                "id": self.settings.model.model,
                "revision": facts.revision,
                "weights_sha256": facts.weights_sha256,
                "setup_sha256": facts.setup_sha256,
            },
            "head_set": {"id": facts.head_set_id, "heads": list(facts.heads)},
            "controls": [list(heads) for heads in facts.controls],
            "settings": facts.settings,
            "fraction": self.settings.fraction,
            "max_tokens": facts.max_tokens,
            "dtype": facts.dtype,
            "device": facts.device,
            "warnings": list(facts.warnings),
        }

    def _told(self, facts: InfluenceFacts) -> str:
        controls = len(facts.controls)
        return (
            f"documents read by {self.settings.model.model} with {len(facts.heads)} heads masked ({facts.head_set_id}; "
            f"{facts.settings['mask_mode']}), beside {controls} control set{'' if controls == 1 else 's'}, "
            f"{facts.dtype} on {facts.device}"
        )

    def output_schema(self, surveys: Sequence[FileSurvey]) -> tuple[pa.Schema, tuple[str, ...]]:
        return INFLUENCE_SCHEMA, ()

    def worker(self, facts: InfluenceFacts, plan: Plan) -> Callable[[], UnitWorker]:
        model = self.settings.model
        # Probing has compared the weights; hashing them again in every actor would read them all once more.
        return partial(_worker, replace(model, revision=facts.revision, dtype=facts.dtype))

    def side_files(self, plan: Plan, facts: InfluenceFacts) -> InfluenceFiles:
        return InfluenceFiles(CommonParts(plan, self.started_at), self.settings)


def _probe(model: InfluenceModel) -> InfluenceFacts:
    from pipelines.influence.worker import probe  # torch

    return probe(model)


def _worker(model: InfluenceModel) -> UnitWorker:
    from pipelines.influence.worker import InfluenceWorker  # torch

    return InfluenceWorker(model)


class InfluenceFiles:
    """Ranks, errors and the report; see :class:`pipelines.job.SideFileWriter`."""

    def __init__(self, common: CommonParts, settings: InfluenceJobSettings) -> None:
        self._common = common
        self._plan = common.plan
        self._settings = settings
        self._errors = ErrorLines()
        self._failed: Counter[str] = Counter()
        self._tokens = 0

    def watch(self, units: Iterable[StoredUnit]) -> Iterator[StoredUnit]:
        """The same units, taken note of."""
        for stored in units:
            self._common.add(stored)
            self._errors.add(stored)
            self._failed.update(stored.footer["errors"])
            self._tokens += stored.footer["prompt_tokens"]
            yield stored

    def write(
        self, storage: Storage, run_uri: str, driver: str, resumed: bool, write_s: Mapping[str, float]
    ) -> list[str]:
        """Rank, and put ranks, errors.jsonl and the report; their paths within the run."""
        folder = f"commit/{driver}"
        ranking = RankingSettings(run_uri, f"{folder}/ranked", self._settings.run.storage, self._settings.fraction)
        domains = rank_documents(ranking, [unit.unit_id for unit in self._plan.units])
        common = self._common.finish(run_uri, driver, write_s, resumed=resumed)
        report = self._report(domains, common)
        errors = self._errors.write(storage, run_uri, folder)
        contents = {
            REPORT_FILE: json.dumps(report, indent=1).encode(),
            PAGE_FILE: influence_page(report, common).encode(),
        }
        for name, data in contents.items():
            storage.create(join(run_uri, folder, name), data)
        return [errors, *(f"{folder}/{name}" for name in contents), *(domain["path"] for domain in domains)]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is not known or not right of the head set and the model."""
        return tuple(self._plan.provenance["warnings"])

    def _report(self, domains: Sequence[dict[str, Any]], common: CommonReport) -> dict[str, Any]:
        failed, told = sum(self._failed.values()), common.model_dump(mode="json")
        return {
            "schema_version": "1.1",
            **told,
            "run": {**told["run"], "tokens": self._tokens},
            "result": {"rows": self._plan.rows, "scored": self._plan.rows - failed, "failed": failed},
            "failed": dict(sorted(self._failed.items())),
            "domains": list(domains),
            "config": self._plan.config,
        }
