"""Findings and proofs of models of several sizes, as their runs would report them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.detection.causal import CHOSEN as MASKED
from pipelines.detection.causal import CONTROL, INTACT, MaskedTrials, causal_findings
from pipelines.detection.choice import Choice
from pipelines.detection.comparison import Trials, by_place, compare_sets, draws
from pipelines.detection.found import Examples, Origin, find, head_set
from pipelines.detection.page import RunLine
from pipelines.detection.report import detection_report
from pipelines.detection.rivals import rivals
from pipelines.detection.rows import HEAD_VALUES_SCHEMA, HeadValues, row_from_values
from pipelines.detection.trials import FIRST_STAGE, TRIALS_SCHEMA
from pipelines.prove import _set_record
from pipelines.rows import Source
from qrcore.causal import CopyAccuracy
from qrcore.heads import HeadSet, ModelShape
from qrcore.prompts import EMBEDDED
from qrcore.records import ScorerIdentity

LINE = RunLine("detect-0123456789ab", "detect", "detect", "s3://bucket/heads/detect-0123456789ab", 123_456)
SIZES = {"small": (4, 8, 4, 30), "medium": (32, 32, 16, 40), "large": (80, 64, 32, 20), "few": (2, 2, 1, 1)}


def origin(shape: ModelShape) -> Origin:
    facts = ScorerIdentity(
        head_set_id="all@0", heads=(), prompt=asdict(EMBEDDED), prompt_sha256=EMBEDDED.hash, revision="a" * 40,
        weights_sha256="b" * 64, setup_sha256="c" * 64, layers=shape.layers, kept_layers=shape.layers, dtype="float32",
        device="cpu", max_tokens=4096,
    )  # fmt: skip
    return Origin(
        name="detect", model_id="org/a-model-with-a-long-name", facts=facts, shape=shape, dataset_id="nq-dev",
        order="shuffled", null_query="N/A", calibration_weight=1.0, query_span="official", code_version="0.1.0",
        contamination=None,
    )  # fmt: skip


def findings(size: str) -> tuple[dict[str, Any], HeadSet]:
    """The report of a run that found heads in the middle layers, and the head set."""
    layers, heads, top, count = SIZES[size]
    shape = ModelShape(layers=layers, query_heads=heads, kv_heads=max(1, heads // 4))
    generator = np.random.default_rng(7)
    middle = np.exp(-(((np.arange(layers) - 0.45 * layers) / (0.12 * layers + 0.5)) ** 2))[:, None]
    level = (middle * generator.exponential(0.15, size=(layers, heads)) - 0.02).ravel()
    examples = Examples(shape)
    rows = []
    for number in range(count):
        drawn = level + generator.normal(scale=0.05, size=len(level))
        values = {"qrscore": drawn, "ndcg": drawn + generator.normal(scale=0.1, size=len(level)), "core": drawn**2}
        answer = HeadValues(
            "dev", 50, 1, 0, values, int(generator.integers(500, 4000)), f"sha-{number}", f"digest-{number}"
        )
        rows.append(row_from_values(f"q{number}", answer, Source("f", number)))
    examples.add(pa.Table.from_pylist(rows, schema=HEAD_VALUES_SCHEMA))
    examples.kept_back = 2 * count
    chosen, *others = (find(examples, name, {}, Choice(top, None, 0)) for name in ("qrscore", "ndcg", "core"))
    artifact = head_set(chosen, examples, origin(shape))
    report = detection_report(artifact, chosen, others, examples)
    return report | {"rivals": rivals(chosen, others, shape, Choice(top, None, 0)), "order": "shuffled"}, artifact


def proof(size: str, queries: int = 60) -> dict[str, Any]:
    """The report of a run that proved them."""
    sets = findings(size)[0]["rivals"]
    generator = np.random.default_rng(3)
    levels = {name: 0.5 + 0.3 * generator.random() for name in sets} | {"chosen": 0.8, FIRST_STAGE: 0.5}
    rows = []
    for number in range(queries):
        hard = generator.normal(scale=0.1)
        trials = [_trial(name, "shuffled", level + hard, generator) for name, level in levels.items()]
        trials += [_trial("chosen", order, 0.78 + hard, generator) for order in ("as_given", "reversed")]
        row = {"query_id": f"q{number}", "trials": trials, "prompt_tokens": 3000}
        rows.append({**dict.fromkeys(TRIALS_SCHEMA.names), **row})
    trials_of_all = Trials()
    trials_of_all.add(pa.Table.from_pylist(rows, schema=TRIALS_SCHEMA))
    qualities = compare_sets(trials_of_all, "shuffled") if queries else []
    return {
        "queries": queries,
        "seen_by_the_choice": False,
        "kept_back": 40,
        "failed": {"nothing_relevant": 3},
        "order": "shuffled",
        "sets": [_set_record(sets.get(one.name, ()), one) for one in qualities],
        "random": [asdict(one) for one in draws(qualities)],
        "places": [asdict(one) for one in by_place(trials_of_all)],
        "causal": causal(controls=20 if size != "few" else 3, answered=size != "medium") if queries else None,
        "warnings": [],
    }


def causal(controls: int, answered: bool, trials: int = 30) -> dict[str, Any]:
    """What masking the chosen heads costs: much; others: little."""
    generator = np.random.default_rng(5)
    masks = {INTACT: (), MASKED: ("1-0", "1-2")} | {f"{CONTROL}-{n}": (f"2-{n}", "3-0") for n in range(controls)}
    found = MaskedTrials()
    for number in range(trials):
        for name in masks:
            level = 0.35 if name == MASKED else 0.9
            copied = float(np.clip(level + generator.normal(scale=0.1), 0, 1))
            found.note(name, f"t{number}", CopyAccuracy(copied, bool(generator.random() < level) if answered else None))
    findings = causal_findings(masks, found)
    assert findings is not None
    return asdict(findings)


def _trial(name: str, order: str, level: float, generator: np.random.Generator) -> dict[str, Any]:
    value = float(np.clip(level + generator.normal(scale=0.1), 0, 1))
    return {
        "head_set": name,
        "order": order,
        "ndcg_10": value,
        "above_longest": bool(generator.random() < level),
        "gold_place": float(generator.random()),
    }
