"""What may be said of a trained model: sentences that follow from its findings by rules, whatever was found."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Final

from pipelines.report.html import fixed
from pipelines.training.facts import CardFacts, best_on_dev, dev_mean, dev_qualities
from pipelines.training.findings import (
    CausalCheck,
    Comparison,
    HeadTable,
    Interval,
    LengthPoint,
    VerdictQuality,
)
from pipelines.training.markdown import plain
from pipelines.training.ranking_study import ALL_HEADS, FIRST_STAGE, FUSED, HEADS, RANDOM
from qrcore.training.retrieval import RE_ASKING, LossWeights

#: A head retrieves as well as the chosen ones if it comes this near to the worst of them, in nDCG@10.
ALIKE: Final = 0.05
#: Quality has fallen with length where it is this much below the best at a smaller length, in nDCG@10.
FALLEN: Final = 0.05

NO_BREAK: Final = "\N{NO-BREAK SPACE}"

#: Share of right verdicts without looking.
_GUESSED: Final = 0.5
#: Ways to order a list, as subjects of a sentence with their verbs.
METHOD_NAMES: Final = {
    HEADS: ("the chosen heads", "are"),
    ALL_HEADS: ("all heads together", "are"),
    FIRST_STAGE: ("the first stage", "is"),
    FUSED: ("the first stage fused with the chosen heads", "is"),
    RANDOM: ("a random order", "is"),
}


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and sample standard deviation (n − 1) over seeds."""

    mean: float
    deviation: float


@dataclass(frozen=True, slots=True)
class LayerHeads:
    """The heads of one layer: the chosen ones, the others that retrieve as well, and the rest."""

    layer: int
    chosen: tuple[str, ...]
    alike: tuple[str, ...]
    rest: tuple[str, ...]

    @property
    def is_mixed(self) -> bool:
        """Whether at least as many heads do not retrieve as do."""
        return len(self.rest) >= len(self.chosen) + len(self.alike)


def spread(values: Sequence[float]) -> Spread:
    """Mean and standard deviation of at least two values."""
    return Spread(fmean(values), stdev(values))


def with_interval(value: Interval, sign: str = "") -> str:
    """A mean with its 95 % interval in brackets, which is not broken where a table's column is narrow."""
    return f"{fixed(value.mean, sign)} [{fixed(value.low, sign)},{NO_BREAK}{fixed(value.high, sign)}]"


def percent(share: float) -> str:
    """A share in whole per cent."""
    return f"{100 * share:.0f} %"


def listed(names: Iterable[str]) -> str:
    """Names as one would say them."""
    *most, last = map(plain, names)
    return f"{', '.join(most)} and {last}" if most else last


def layer_of(head: str) -> int:
    """The layer of a head that is written ``layer-head``."""
    return int(head.split("-")[0])


def retrieval_layer(heads: HeadTable) -> LayerHeads:
    """The layer that holds most of the chosen heads (the lowest such layer)."""
    layers = sorted(map(layer_of, heads.chosen))
    layer = max(layers, key=lambda one: (layers.count(one), -one))
    bar = min(heads.scores[head] for head in heads.chosen) - ALIKE
    own = [head for head in heads.scores if layer_of(head) == layer]
    others = [head for head in own if head not in heads.chosen]
    return LayerHeads(
        layer,
        chosen=tuple(head for head in own if head in heads.chosen),
        alike=tuple(head for head in others if heads.scores[head] >= bar),
        rest=tuple(head for head in others if heads.scores[head] < bar),
    )


def relation(difference: Interval) -> str:
    """``above``, ``below`` or ``not distinguishable from``; the last where the 95 % interval covers 0."""
    if difference.low <= 0.0 <= difference.high:
        return "not distinguishable from"
    return "above" if difference.mean > 0 else "below"


def compared(comparison: Comparison) -> str:
    """A comparison as a sentence."""
    subject, verb = METHOD_NAMES.get(comparison.better, (plain(comparison.better), "is"))
    other, _ = METHOD_NAMES.get(comparison.worse, (plain(comparison.worse), ""))
    sentence = f"{subject} {verb} {relation(comparison.difference)} {other}"
    return f"{sentence[:1].upper()}{sentence[1:]} ({with_interval(comparison.difference, '+')})."


def fall(points: Sequence[LengthPoint]) -> tuple[LengthPoint, LengthPoint] | None:
    """The first point at which quality has fallen, and the best one before it; None if there is none."""
    best: LengthPoint | None = None
    for point in sorted(points, key=lambda one: one.tokens):
        if best and best.heads.mean - point.heads.mean > FALLEN:
            return point, best
        best = point if best is None or point.heads.mean > best.heads.mean else best
    return None


def depth(deepest: int, layers: int) -> str:
    """How much of the model scoring needs."""
    above = layers - 1 - deepest
    if not above:
        return f"Scoring needs all {layers} layers."
    return f"Scoring runs the layers 0 to {deepest} of {layers}: {above} {'is' if above == 1 else 'are'} not needed."


def token_weights(weights: LossWeights) -> str:
    """What each kind of predicted token weighs in the loss."""
    return (
        f"A token's loss has weight {weights.index:g} where the token is the number of the document that answers, "
        f"{weights.beginning:g} where it begins the copied sentence, {weights.answer:g} in the rest of an answer and "
        f"where random tokens are copied, {weights.verdict:g} for yes or no, {weights.query:g} in a query, and "
        f"{weights.document:g} in a document of those samples in which documents are learned."
    )


def shipped(facts: CardFacts) -> str:
    """Which seed is shipped, and why."""
    best, mean = best_on_dev(facts.seeds, facts.chosen_on), dev_mean(facts.shipped_run.findings, facts.chosen_on)
    if best is None:
        return f"Seed {facts.shipped} is shipped; no run was measured on dev queries."
    if mean is None:
        return f"Seed {facts.shipped} is shipped; it was not measured on dev queries."
    where = f"on the dev queries of {listed(_chosen_on(facts))}"
    if best != facts.shipped:
        return f"Seed {facts.shipped} is shipped although the heads of seed {best} have a higher mean nDCG@10 {where}."
    if len(facts.seeds) == 1:
        return f"Its heads have a mean nDCG@10 of {fixed(mean)} {where} (each list alike)."
    return f"Seed {best} is shipped: its heads have the highest mean nDCG@10 {where} ({fixed(mean)}, each list alike)."


def choices(facts: CardFacts) -> str:
    """On which queries the heads, and the seed, were chosen."""
    found = facts.shipped_run.findings
    if found is None:
        return "No choice was made on dev queries."
    on_heads, on_seed = list(found.head_table.by_list), _chosen_on(facts)
    both = f"chosen on dev queries of {listed(on_heads)}"
    if len(facts.seeds) == 1 or best_on_dev(facts.seeds, facts.chosen_on) != facts.shipped:
        return f"Heads were {both}."
    if set(on_seed) == set(on_heads):
        return f"Heads and seed were {both}."
    return f"Heads were {both}, the seed on dev queries of {listed(on_seed)}."


def _chosen_on(facts: CardFacts) -> list[str]:
    return [one.name for one in dev_qualities(facts.shipped_run.findings, facts.chosen_on)]


def purity(layer: LayerHeads, helping: Collection[str]) -> str:
    """Whether the retrieval layer holds heads to compare with; ``helping``: heads that were taught something else."""
    size = len(layer.chosen) + len(layer.alike) + len(layer.rest)
    alike = f"{len(layer.alike)} come{'s' if len(layer.alike) == 1 else ''}" if layer.alike else "none comes"
    named = f" ({', '.join(layer.alike)})" if layer.alike else ""
    does = "holds" if layer.is_mixed else "does **not** hold"
    others = [head for head in layer.rest if head in helping]
    taught = f" ({len(others)} of which had another lesson: {', '.join(others)})" if others else ""
    return (
        f"Layer {layer.layer} has {size} heads, of which {_are(layer.chosen)} chosen. Of the others, {alike} within "
        f"{ALIKE} of the worst chosen one{named}. That makes {_count([*layer.chosen, *layer.alike], 'retrieval head')} "
        f"and {_count(layer.rest, 'other')}{taught}: the layer {does} at least as many non-retrieval heads as "
        f"retrieval heads."
    )


def taught_and_chosen(chosen: Sequence[str], taught: Collection[str], helping: Collection[str]) -> str:
    """What the chosen heads were taught; nothing where no head was taught anything."""
    if not taught and not helping:
        return ""
    kinds = {
        "taught to retrieve": [head for head in chosen if head in taught],
        "taught something else": [head for head in chosen if head in helping and head not in taught],
        "not taught": [head for head in chosen if head not in taught and head not in helping],
    }
    said = (f"{', '.join(own)} {'was' if len(own) == 1 else 'were'} {kind}" for kind, own in kinds.items() if own)
    return f"Of the chosen heads, {'; '.join(said)}."


def causal(check: CausalCheck) -> str:
    """What masking shows."""
    said = {
        "above": "they matter more than other heads do.",
        "below": "they matter less than other heads do.",
        "not distinguishable from": "not distinguishable from masking other heads.",
    }
    return (
        f"Masking the chosen heads costs more log-probability of the right index than masking "
        f"{percent(check.percentile)} of the {_count(check.controls, 'control set')}. The share of right indices falls "
        f"by {with_interval(check.drop)} more than with the controls: {said[relation(check.drop)]}"
    )


def verdicts(found: VerdictQuality) -> str:
    """How often the model stands by right answers, and only by these, against guessing."""
    share = found.accuracy
    return (
        f"Verdicts: asked “{RE_ASKING}” after the answering sentence, and after the first sentence of a document that "
        f"does not answer, for {found.queries:,} {plain(found.part)} queries of {plain(found.name)}. Half the right "
        f"verdicts are yes. It is right in {with_interval(share)} of the cases: {relation(beyond_guessing(share))} "
        f"guessing, which gives 0.5."
    )


def beyond_guessing(share: Interval) -> Interval:
    """How far a share of right verdicts lies above guessing."""
    return Interval(share.mean - _GUESSED, share.low - _GUESSED, share.high - _GUESSED)


def along_length(points: Sequence[LengthPoint]) -> str:
    """Quality against length, to be read aloud."""
    ordered = sorted(points, key=lambda point: point.tokens)
    said = (f"{with_interval(one.heads)} at {one.tokens:,} tokens (random {fixed(one.random)})" for one in ordered)
    return ", ".join(said)


def _are(things: Sequence[object]) -> str:
    return f"{len(things)} {'is' if len(things) == 1 else 'are'}"


def _count(things: Sequence[object], word: str) -> str:
    return f"{len(things)} {word}{'' if len(things) == 1 else 's'}"
