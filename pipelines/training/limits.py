"""What a user should know before relying on a trained model: the limits that follow from its findings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from pipelines.report.html import fixed
from pipelines.training.claims import (
    FALLEN,
    METHOD_NAMES,
    beyond_guessing,
    fall,
    percent,
    relation,
    retrieval_layer,
    with_interval,
)
from pipelines.training.findings import Comparison, Findings, LengthPoint, ListQuality
from pipelines.training.markdown import plain
from pipelines.training.ranking_study import BM25, FIRST_STAGE, FUSED, HEADS

#: More than this lost by choosing heads on other collections is a limit, in nDCG@10.
TRANSFER_LOSS: Final = 0.02
#: A head that is among the best in a smaller share of the draws was chosen by luck.
STABLE_SHARE: Final = 0.8
#: Fewer queries than this give wide intervals.
FEW_QUERIES: Final = 200

_BASELINES: Final = (BM25, FIRST_STAGE)


def limits(findings: Findings | None, seeds: int, max_tokens: int) -> list[str]:
    """Everything that a user should know before relying on the model, each a sentence or two."""
    return [*_ranking_limits(findings, max_tokens), *_head_limits(findings), *_answer_limits(findings)] + (
        ["One seed was trained: how much the numbers depend on it is not known."] if seeds == 1 else []
    )


def _ranking_limits(findings: Findings | None, max_tokens: int) -> Iterator[str]:
    tested = [one for one in findings.qualities if (one.part, one.method) == ("test", HEADS)] if findings else []
    if findings is None or not tested:
        yield "Ranking quality was not measured on test queries."
    if findings is not None:
        yield from _not_above(findings.comparisons)
        yield from _too_few_or_long(tested, max_tokens)
    yield _length_limit(findings.lengths if findings else ())


def _not_above(comparisons: Sequence[Comparison]) -> Iterator[str]:
    tested = [one for one in comparisons if one.part == "test"]
    for method, beats in (
        (HEADS, "The chosen heads were not shown to be above"),
        (FUSED, "Fusion with the chosen heads was not shown to be above"),
    ):
        for baseline in _BASELINES:
            found = {one.name: relation(one.difference) for one in tested if _is_of(one, method, baseline)}
            said = [f"{plain(name)} ({how.removesuffix(' from')})" for name, how in found.items() if how != "above"]
            if said:
                yield f"{beats} {METHOD_NAMES.get(baseline, (baseline,))[0]}: {', '.join(said)}."


def _is_of(comparison: Comparison, method: str, baseline: str) -> bool:
    return (comparison.better, comparison.worse) == (method, baseline)


def _too_few_or_long(tested: Sequence[ListQuality], max_tokens: int) -> Iterator[str]:
    few = [f"{plain(one.name)} ({one.queries})" for one in tested if one.queries < FEW_QUERIES]
    if few:
        yield f"Fewer than {FEW_QUERIES} test queries, and so wide intervals: {', '.join(few)}."
    long = [f"{one.too_long} of {one.queries} of {plain(one.name)}" for one in tested if one.too_long]
    if long:
        yield f"Test lists beyond {max_tokens:,} tokens, which count in the order in which they were given: " + (
            f"{', '.join(long)}."
        )


def _length_limit(points: Sequence[LengthPoint]) -> str:
    if not points:
        return "Quality against the length of the prompt was not measured."
    fallen = fall(points)
    if fallen is None:
        longest = max(point.tokens for point in points)
        return f"No fall by more than {FALLEN} in mean nDCG@10 was seen up to {longest:,} tokens, the longest measured."
    point, best = fallen
    apart = "do not overlap" if point.heads.high < best.heads.low else "overlap"
    return (
        f"Mean nDCG@10 is {with_interval(best.heads)} with {best.tokens:,} prompt tokens and "
        f"{with_interval(point.heads)} with {point.tokens:,}; the intervals {apart}. Keep prompts shorter."
    )


def _head_limits(findings: Findings | None) -> Iterator[str]:
    if findings is None or not findings.head_table.chosen:
        yield "No heads were chosen by measurement."
        return
    heads = findings.head_table
    if not retrieval_layer(heads).is_mixed:
        yield "The retrieval layer holds fewer heads that do not retrieve than heads that do."
    lost = [f"{plain(name)} ({fixed(value, '+')})" for name, value in heads.transfer.items() if value < -TRANSFER_LOSS]
    if lost:
        yield (
            f"Heads chosen on the other lists lose more than {TRANSFER_LOSS} in mean nDCG@10 on {', '.join(lost)}; no "
            f"interval was computed."
        )
    rare = [head for head in heads.chosen if heads.draws.get(head, 0) < STABLE_SHARE * heads.draw_count]
    if rare:
        yield f"The choice is not stable: {', '.join(rare)} stood among the best in too few of the draws."
    if findings.causal is None:
        yield "Whether the answers depend on the chosen heads was not measured."
    elif relation(findings.causal.drop) != "above":
        yield "Masking the chosen heads was not shown to cost more right indices than masking other heads."


def _answer_limits(findings: Findings | None) -> Iterator[str]:
    if findings is None or not findings.answers:
        yield "Its own answers were not measured."
        return
    for one in findings.answers:
        yield (
            f"Its own answers to {plain(one.name)} ({one.part}) name a wrong document, or none, in "
            f"{percent(1 - one.index.mean)} of the cases."
        )
    if findings.verdicts and relation(beyond_guessing(findings.verdicts.accuracy)) != "above":
        yield "Its verdicts on answers were not shown to be better than guessing."
