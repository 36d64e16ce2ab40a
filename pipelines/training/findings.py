"""What is measured of a trained model: plain records, from which the model card is written."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over queries and the bounds of its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ListQuality:
    """nDCG@10 and recall@1 of one way to order the lists of one name; only queries with a relevant document count.

    ``method``: ``random``, ``first stage`` or, where lists have none, ``BM25`` over their documents, ``heads``,
    ``all heads`` or ``fused`` (first stage and heads by reciprocal rank, k = 60). ``per_query``: nDCG@10 by query, for
    paired comparisons. ``too_long``: lists beyond the model's limit, which count in the order in which they were
    given.
    """

    name: str
    part: str
    method: str
    queries: int
    too_long: int
    ndcg_10: Interval
    recall_1: Interval
    per_query: dict[str, float]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Mean difference in nDCG@10 of two methods over the same queries, with the 95 % interval of a paired bootstrap."""

    name: str
    part: str
    better: str
    worse: str
    difference: Interval


@dataclass(frozen=True, slots=True)
class HeadTable:
    """Mean nDCG@10 on dev lists of every head alone (``layer-head``), best first, and the heads that were chosen.

    ``detection_queries``: the queries that told, as :func:`qrcore.matching.query_digest` writes them. ``by_list``: the
    same as ``scores`` for each list name. ``draws``: how often each head is among the best, over ``draw_count``
    random halves of the dev queries. ``transfer``: for each list name, nDCG@10 there of heads chosen on the other
    lists less that of heads chosen on it.
    """

    scores: dict[str, float]
    chosen: tuple[str, ...]
    queries: int
    detection_queries: tuple[str, ...]
    by_list: dict[str, dict[str, float]]
    draws: dict[str, int]
    draw_count: int
    transfer: dict[str, float]


@dataclass(frozen=True, slots=True)
class LengthPoint:
    """Quality of lists that were filled with other documents up to about ``tokens`` prompt tokens."""

    tokens: int
    queries: int
    documents: float
    heads: Interval
    random: float


@dataclass(frozen=True, slots=True)
class MaskedHeads:
    """Teacher-forced accuracy of the document's index, and mean log-probability of it, with ``heads`` masked."""

    heads: tuple[str, ...]
    index_accuracy: float
    index_log_probability: float


@dataclass(frozen=True, slots=True)
class CausalCheck:
    """Whether the chosen heads matter: they masked, against as many other heads of the same or later layers masked.

    ``percentile``: share of control sets that hurt the index's log-probability less than the chosen heads.
    ``drop``: loss in index accuracy by masking the chosen heads, less the mean loss over the control sets, with the
    95 % interval of a bootstrap over queries.
    """

    queries: int
    intact: MaskedHeads
    chosen: MaskedHeads
    controls: tuple[MaskedHeads, ...]
    percentile: float
    drop: Interval


@dataclass(frozen=True, slots=True)
class AnswerQuality:
    """Free greedy answers: share that begin with ``[i]``, share with the right ``i``, mean token F1 of what follows
    with the answering sentence; ``examples``: queries with the answers given."""

    name: str
    part: str
    queries: int
    begins: float
    index: Interval
    copy_f1: Interval
    examples: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class VerdictQuality:
    """Share of right verdicts, yes or no, on given answers: a right and a wrong one for each of ``queries`` queries, so
    that guessing gives one half."""

    name: str
    part: str
    queries: int
    accuracy: Interval


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that was measured of one trained model; ``lists_sha256``: of the judged lists, see
    :func:`~pipelines.training.study.lists_hash`."""

    seed: int
    weights_sha256: str
    head_table: HeadTable
    qualities: tuple[ListQuality, ...]
    comparisons: tuple[Comparison, ...]
    lengths: tuple[LengthPoint, ...]
    causal: CausalCheck | None
    answers: tuple[AnswerQuality, ...]
    verdicts: VerdictQuality | None = None
    lists_sha256: str = ""
