"""Compare ways to choose heads: ``python -m tests.benchmarks.head_study --lists FOLDER --work FOLDER``.

Heads are found on the dev queries of one collection, and copying heads on needles in plain text; then every way to
choose ranks the test queries of all collections, through the same jobs that users run. ``FOLDER`` is what
:mod:`tests.benchmarks.head_lists` wrote. Results: ``head_study.json`` and ``head_study.md`` in ``--results``.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from jobs.detect import Detected, detect, pipeline_settings
from jobs.detect_config import DetectConfig
from jobs.needles import NeedlesConfig, needles
from jobs.settings import validate
from pipelines import detect as finding
from pipelines import prove as proving
from pipelines.detection.rivals import ALL, CHOSEN, RANDOM
from pipelines.detection.trials import FIRST_STAGE
from pipelines.side_files import read_side_file
from pipelines.training.causal_study import causal_check
from pipelines.training.judged import read_judged_set
from qrcore.heads import HeadSet
from qrcore.models import open_model
from qrcore.shipped import EMBEDDED_MODELS
from tests.benchmarks.embedded_lists import COLLECTIONS
from tests.benchmarks.head_lists import NAMES

RESULTS: Final = Path(__file__).parent / "results"
#: Heads are found here, and on the second one to see whether they are the same.
FOUND_ON: Final = "nq_pool"
ALSO_FOUND_ON: Final = "hotpotqa"
TOP: Final = 4
HAYSTACKS: Final = 2
#: Questions that the model answers with heads held back, 22 times each.
MASKED_QUESTIONS: Final = 40

_COPY: Final = "copy"
_ELSEWHERE: Final = f"qrscore on {ALSO_FOUND_ON}"
_SHOWN: Final = (FIRST_STAGE, ALL, _COPY, "core", "ndcg", _ELSEWHERE, CHOSEN)


class Lines:
    """Says which run begins and how it goes on; see :class:`pipelines.job.Observer`."""

    def stage(self, message: str) -> None:
        print(f"  {message}", flush=True)

    def planned(self, plan: Any, done: frozenset[str]) -> None:
        print(f"  {plan.run_id}: {len(plan.units)} units, {len(done)} done before", flush=True)

    def unit_done(self, footer: dict[str, Any]) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Study:
    """Where things are, and which model is studied."""

    lists: Path
    texts: str
    work: Path
    model: str

    def detect(self, name: str, shards: str, qrels: str, method: str) -> Detected:
        """Find heads and prove them on the other queries of the same lists."""
        print(f"finding heads by {method} on {name}", flush=True)
        return detect(self.config(name, shards, qrels, method), Lines())

    def config(self, name: str, shards: str, qrels: str, method: str) -> DetectConfig:
        """The configuration of one detection."""
        values = {
            "name": f"{method}-{name}",
            "input": {"uris": [shards]},
            "output": {"uri": str(self.work / "runs")},
            "qrels": qrels,
            "dataset_id": name,
            "model": {"id": self.model},
            "methods": {"method": method, "top": TOP},
            "units": {"max_rows": 16},
        }
        return validate(DetectConfig, values)

    def of_collection(self, name: str, method: str = "qrscore") -> DetectConfig:
        """The configuration of a detection on one collection."""
        folder = self.lists / name
        return self.config(name, str(folder / "lists.parquet"), str(folder / "qrels.parquet"), method)

    def copying(self) -> Detected:
        """Copying heads, of needles in plain text, with the causal check."""
        values = {
            "input": {"uris": [self.texts]},
            "output": {"uri": str(self.work / "needles")},
            "model": {"id": self.model},
            "trials": {"haystacks": HAYSTACKS},
        }
        made = needles(validate(NeedlesConfig, values), Lines().stage)
        return self.detect("needles", made.trials_uri, made.qrels_uri, _COPY)

    def retrieving(self, chosen: Sequence[str]) -> dict[str, Any] | None:
        """What the model still answers with its retrieval heads held back; None for a model that was not taught to
        name the document that answers."""
        if self.model not in EMBEDDED_MODELS:
            return None
        print("asking the model with heads held back", flush=True)
        folders = [self.lists / name for name in (FOUND_ON, ALSO_FOUND_ON)]
        sets = [read_judged_set(one.name, [str(one / "lists.parquet")], str(one / "qrels.parquet")) for one in folders]
        found = causal_check(open_model(self.model).path, sets, chosen, max_queries=MASKED_QUESTIONS)
        return asdict(found) if found else None

    def prove(self, name: str, found: Detected, sets: dict[str, tuple[str, ...]]) -> dict[str, Any]:
        """Every set on the test queries of one collection: the content of the proof's report."""
        print(f"ranking {name}", flush=True)
        settings = pipeline_settings(self.of_collection(name), os.environ)
        proof = replace(
            finding.proof_settings(settings, found.found),
            run=replace(settings.run, name=f"study-{name.replace('_', '-')}"),
            sets=sets,
            masks={},
            further_orders=(),
        )
        result = proving.run(proof, Lines())
        report: dict[str, Any] = read_side_file(
            result.run_uri, result.manifest.side_files, proving.REPORT_FILE, settings.run.storage
        )
        return report


def main(arguments: Sequence[str] | None = None) -> None:
    """Find, rank, write and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lists", type=Path, required=True)
    parser.add_argument("--texts", default=str(COLLECTIONS / "text" / "text.parquet"), help="for haystacks")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    started = time.monotonic()
    study = Study(given.lists.resolve(), given.texts, given.work.resolve(), given.model)
    results = run(study)
    results["minutes"] = round((time.monotonic() - started) / 60, 1)
    name = "head_study" if given.model == "embedded" else f"head_study_{Path(given.model).name.replace('-', '_')}"
    (given.results / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (given.results / f"{name}.md").write_text(table(results), encoding="utf-8")
    print(table(results))


def run(study: Study) -> dict[str, Any]:
    """All numbers of the study as plain values."""
    copying = study.copying()
    found = detect(study.of_collection(FOUND_ON), Lines())
    elsewhere = detect(study.of_collection(ALSO_FOUND_ON), Lines())
    sets = _sets(found, copying, elsewhere)
    names = [name for name in NAMES if (study.lists / name / "lists.parquet").exists()]
    return {
        "model": found.head_set.model_id,
        "weights_sha256": found.head_set.weights_sha256,
        "found_on": FOUND_ON,
        "examples": found.head_set.examples,
        "sets": {name: list(heads) for name, heads in sets.items()},
        "stability": found.findings["methods"]["qrscore"]["stability"],
        "causal": copying.proof["causal"] if copies(copying.head_set) else None,
        "best_copying_head": [copying.head_set.heads[0], (copying.head_set.scores or (0.0,))[0]],
        "retrieving": study.retrieving(found.head_set.heads),
        "collections": {name: study.prove(name, found, sets) for name in names},
    }


def _sets(found: Detected, copying: Detected, elsewhere: Detected) -> dict[str, tuple[str, ...]]:
    rivals = found.findings["rivals"]
    kept = [CHOSEN, "ndcg", "core", ALL, *(name for name in rivals if name.startswith(f"{RANDOM}-"))]
    sets = {name: tuple(rivals[name]) for name in kept}
    copying_heads = {_COPY: copying.head_set.heads} if copies(copying.head_set) else {}
    return sets | copying_heads | {_ELSEWHERE: elsewhere.head_set.heads}


def copies(found: HeadSet) -> bool:
    """Whether the best of these heads surely copies; else the four best are a draw by chance, and no set to compare."""
    return bool(found.intervals) and found.intervals[0][0] > 0.0


def table(results: dict[str, Any]) -> str:
    """The study as Markdown: nDCG@10 by collection, and what masking the copying heads costs."""
    names = ["collection", "n", "random", *(_title(name, results) for name in _SHOWN), "chosen − first stage"]
    lines = [_row(names), _row(["---", *["--:"] * (len(names) - 1)])]
    lines += [_row(_cells(name, report)) for name, report in results["collections"].items()]
    return "\n".join([*lines, "", *_copying_lines(results), *_retrieving_lines(results["retrieving"])])


def _title(name: str, results: dict[str, Any]) -> str:
    return f"qrscore on {results['found_on']} (chosen)" if name == CHOSEN else name


def _cells(name: str, report: dict[str, Any]) -> list[str]:
    sets = {one["name"]: one for one in report["sets"]}
    draws = next((one for one in report["random"] if one["name"] == RANDOM), None)
    minus = sets[FIRST_STAGE]["chosen_minus"]
    return [
        name,
        str(report["queries"]),
        f"{draws['mean']:.3f} ± {draws['deviation']:.3f}" if draws else "",
        *(f"{sets[shown]['ndcg_10']['mean']:.3f}" if shown in sets else "none" for shown in _SHOWN),
        f"{minus['mean']:+.3f} [{minus['low']:+.3f}, {minus['high']:+.3f}]",
    ]


def _retrieving_lines(check: dict[str, Any] | None) -> list[str]:
    if check is None:
        return []
    drop = check["drop"]
    return [
        f"right documents named: intact {check['intact']['index_accuracy']:.3f}, retrieval heads masked "
        f"{check['chosen']['index_accuracy']:.3f}; that is {drop['mean']:+.3f} [{drop['low']:+.3f}, "
        f"{drop['high']:+.3f}] beyond {len(check['controls'])} control sets; the right index is less likely than with "
        f"{check['percentile']:.0%} of them ({check['queries']} questions)."
    ]


def _copying_lines(results: dict[str, Any]) -> list[str]:
    causal = results["causal"]
    if causal is None:
        head, score = results["best_copying_head"]
        return [f"No copying heads: the best, {head}, copies in {score:.3f} of the steps, and its interval holds 0."]
    said = []
    for kind, what in (("copied", "needle tokens copied right"), ("answered", "documents named right")):
        if effect := causal[kind]:
            drop = effect["drop"]
            said.append(
                f"{what}: intact {causal['intact'][kind]['mean']:.3f}, copying heads masked "
                f"{causal['chosen'][kind]['mean']:.3f}; that is {drop['mean']:+.3f} [{drop['low']:+.3f}, "
                f"{drop['high']:+.3f}] beyond {len(causal['controls'])} control sets, more than with "
                f"{effect['percentile']:.0%} of them ({causal['trials']} trials)."
            )
    return said


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
