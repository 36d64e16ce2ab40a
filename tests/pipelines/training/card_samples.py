"""Findings made by hand, as a training run would hand them to its card and its curves."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pipelines.training.facts import CardFacts, SeedFacts, TrainingText
from pipelines.training.findings import (
    AnswerQuality,
    CausalCheck,
    Comparison,
    Findings,
    HeadTable,
    Interval,
    LengthPoint,
    ListQuality,
    MaskedHeads,
    VerdictQuality,
)
from qrcore.training.model import ModelShape
from qrcore.training.progress import Progress
from qrcore.training.teaching import TaughtHeads

LISTS = {"xquad-10": 66, "nq-10": 175, "hotpotqa-10": 301}
BASELINES = {"xquad-10": "BM25", "nq-10": "BM25", "hotpotqa-10": "first stage"}
SCORES = {
    "2-0": 0.91, "2-3": 0.89, "2-1": 0.88, "2-2": 0.87, "2-5": 0.83, "1-4": 0.61, "2-4": 0.5, "2-6": 0.45, "2-7": 0.44,
    "3-1": 0.47, "0-0": 0.41,
}  # fmt: skip


def around(mean: float, half: float = 0.02) -> Interval:
    return Interval(mean, mean - half, mean + half)


def quality(name: str, part: str, method: str, mean: float, too_long: int = 0) -> ListQuality:
    return ListQuality(name, part, method, LISTS[name], too_long, around(mean), around(mean - 0.1), {})


def qualities(heads: float) -> tuple[ListQuality, ...]:
    found = []
    for name, baseline in BASELINES.items():
        means = {"random": 0.45, baseline: 0.9, "all heads": heads - 0.05, "heads": heads}
        means |= {"fused": heads + 0.01} if baseline == "first stage" else {}
        found += [quality(name, "test", method, mean, 3 * (name == "nq-10")) for method, mean in means.items()]
        found += [quality(name, "dev", "heads", heads + 0.005)]
    return tuple(found)


COMPARISONS = (
    Comparison("xquad-10", "test", "heads", "BM25", Interval(0.004, -0.01, 0.018)),
    Comparison("nq-10", "test", "heads", "BM25", Interval(-0.067, -0.102, -0.034)),
    Comparison("nq-10", "test", "heads", "all heads", Interval(0.045, 0.021, 0.068)),
    Comparison("hotpotqa-10", "test", "heads", "first stage", Interval(0.03, 0.0, 0.06)),
    Comparison("hotpotqa-10", "test", "fused", "first stage", Interval(0.05, 0.02, 0.08)),
    Comparison("nq-10", "dev", "heads", "BM25", Interval(-0.9, -0.91, -0.89)),
)

HEADS = HeadTable(
    scores=SCORES,
    chosen=("2-0", "2-3", "2-1", "2-2"),
    queries=312,
    detection_queries=(),
    by_list={name: {head: score - 0.01 * place for head, score in SCORES.items()} for place, name in enumerate(LISTS)},
    draws={"2-0": 20, "2-3": 20, "2-1": 19, "2-2": 18, "2-5": 3},
    draw_count=20,
    transfer={"xquad-10": -0.004, "nq-10": 0.001, "hotpotqa-10": -0.031},
)

LENGTHS = tuple(
    LengthPoint(tokens, queries, tokens / 215, Interval(mean, mean - half, min(1.0, mean + half)), random)
    for tokens, queries, mean, half, random in (
        (512, 98, 0.972, 0.02, 0.62), (1024, 124, 0.965, 0.022, 0.46), (2048, 124, 0.957, 0.03, 0.31),
        (3072, 124, 0.919, 0.041, 0.24), (4000, 101, 0.842, 0.06, 0.2),
    )
)  # fmt: skip

CAUSAL = CausalCheck(
    queries=100,
    intact=MaskedHeads((), 0.71, -0.83),
    chosen=MaskedHeads(HEADS.chosen, 0.22, -2.61),
    controls=tuple(
        MaskedHeads((f"2-{4 + n % 4}", "3-0", "3-1", "3-2"), 0.6 + 0.01 * n, -1.2 + 0.01 * n) for n in range(20)
    ),
    percentile=1.0,
    drop=Interval(0.475, 0.39, 0.56),
)

ANSWERS = (
    AnswerQuality(
        "xquad-10", "test", 66, 1.0, Interval(0.727, 0.62, 0.833), Interval(0.851, 0.8, 0.9),
        (("Who wrote *Hamlet*?", "[3] hamlet was written by william shakespeare | <end>"),),
    ),
)  # fmt: skip

VERDICTS = VerdictQuality("xquad-10", "dev", 34, Interval(0.9, 0.82, 0.97))

STAGES = (
    Progress("induction-128", 0, 870, 1_735_421, 1_735_421, 870, 392.0, 0.684, 0.921),
    Progress("retrieval-2048", 1, 2449, 12_501_306, 14_236_727, 3319, 2443.8, 1.768, 0.858, 0.405, 0.0, 0.713),
    Progress("re-ask", 2, 300, 1_701_402, 15_938_129, 3619, 2975.6, 1.697, 0.87, 0.431, 0.96, 0.75),
)


def findings(seed: int = 0, heads: float = 0.95) -> Findings:
    return Findings(seed, f"{seed:02d}" * 32, HEADS, qualities(heads), COMPARISONS, LENGTHS, CAUSAL, ANSWERS, VERDICTS)


def seed_facts(seed: int = 0, found: Findings | None = None) -> SeedFacts:
    return SeedFacts(seed, 15_938_129, 3619, 2975.6, "2 virtual cores | Intel Xeon", STAGES, found)


def card_facts(*seeds: SeedFacts, shipped: int = 0, notes: Sequence[str] = ()) -> CardFacts:
    return CardFacts(
        name="embedded",
        parameters=2_262_720,
        file_bytes=4_545_000,
        shape=ModelShape(layers=4, heads=8, kv_heads=4),
        vocabulary=4096,
        prompt="`<s><user>`, blocks `[i] title` and text, then the query",
        limit_tokens=4096,
        texts=(
            TrainingText("gutenberg", "public domain in the USA", characters=12_002_493),
            TrainingText("questions to Wikipedia paragraphs", "CC BY-SA 4.0", characters=2_200_000, questions=11_784),
        ),
        seeds=seeds or (seed_facts(0, findings()),),
        shipped=shipped,
        taught=TaughtHeads(layer=2, heads=4),
        notes=tuple(notes),
    )


def replaced(found: Findings, **changes: object) -> CardFacts:
    """The facts of one seed whose findings differ in `changes`."""
    return card_facts(seed_facts(found.seed, dataclasses.replace(found, **changes)))  # type: ignore[arg-type]
