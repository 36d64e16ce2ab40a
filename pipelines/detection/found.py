"""From the rows of all examples to scores of heads, a head set, and what speaks for it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.detection.choice import Choice
from pipelines.detection.rows import head_score_rows
from pipelines.identity import content_hash
from qrcore.detection import HeadScore, Stability, choose_heads, head_scores, stability
from qrcore.errors import InputError
from qrcore.heads import Head, HeadSet, ModelShape
from qrcore.records import Order, ScorerIdentity

Floats = npt.NDArray[np.float64]

#: Fewer examples than this choose heads by luck.
FEW_EXAMPLES = 8
_QUANTILES = (5, 50, 95)
_READ = [
    "query_id",
    "relevant",
    "relevant_elsewhere",
    "methods",
    "prompt_tokens",
    "content_sha256",
    "query_digest",
    "error",
]


@dataclass(slots=True)
class Examples:
    """Values of all heads on the examples seen so far, unit by unit in plan order.

    ``relevant`` documents are candidates of their queries, ``relevant_elsewhere`` in no list; ``unmet``: judged queries
    of which no row has come yet.
    """

    shape: ModelShape
    values: dict[str, list[Floats]] = field(default_factory=dict)
    prompt_tokens: list[int] = field(default_factory=list)
    contents: list[str] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)
    kept_back: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    relevant: int = 0
    relevant_elsewhere: int = 0
    unmet: set[str] = field(default_factory=set)

    def add(self, rows: pa.Table) -> None:
        """Take in the rows of one unit."""
        for row in rows.select(_READ).to_pylist():
            self.unmet.discard(row["query_id"])
            self.relevant += row["relevant"] or 0
            self.relevant_elsewhere += row["relevant_elsewhere"] or 0
            if row["error"] is not None:
                code = row["error"]["code"]
                self.errors[code] = self.errors.get(code, 0) + 1
            elif row["methods"] is None:
                self.kept_back += 1
            else:
                self.prompt_tokens.append(row["prompt_tokens"])
                self.contents.append(row["content_sha256"])
                self.queries.append(row["query_digest"])
                for entry in row["methods"]:
                    self.values.setdefault(entry["method"], []).append(np.array(entry["values"]))

    @property
    def judged_without_row(self) -> int:
        """How many judged queries no row asks."""
        return len(self.unmet)

    @property
    def heads(self) -> tuple[Head, ...]:
        """The order of the values."""
        return tuple(Head(layer, head) for layer in range(self.shape.layers) for head in range(self.shape.query_heads))

    @property
    def sha256(self) -> str:
        """Of all texts and judgements that were used, whatever files they came from, in whatever order."""
        return content_hash(sorted(self.contents))

    def of(self, method: str) -> Floats:
        """Values ``[example, head]`` of one method. Raises :class:`InputError` if no example could be used."""
        if not self.prompt_tokens:
            counted = ", ".join(f"{count} {code}" for code, count in sorted(self.errors.items())) or "no rows"
            raise InputError(
                f"examples: expected at least one with a relevant candidate, got none ({counted}; {self.kept_back} "
                "kept for proving the choice). Check that the qrels judge these query_ids and doc_ids."
            )
        values = np.stack(self.values[method])
        if np.isnan(values).all():
            raise InputError(
                f"method {method}: expected a trial in which the model answers with the needle, got none of "
                f"{len(values)}. Choose by the unconditional mean, or use trials that this model succeeds in (shorter "
                "haystacks, the answer prefix that it was trained with)."
            )
        return values

    def says_something(self, method: str) -> bool:
        """Whether any example has a value of this method."""
        return any(not np.isnan(one).all() for one in self.values.get(method, ()))


@dataclass(frozen=True, slots=True)
class Found:
    """One method's answer: every head's score best first, the chosen ones, and how stable the choice is."""

    method: str
    settings: Mapping[str, Any]
    scores: tuple[HeadScore, ...]
    chosen: tuple[HeadScore, ...]
    stability: Stability | None


def find(examples: Examples, method: str, settings: Mapping[str, Any], choice: Choice) -> Found:
    """Scores, choice and stability of one method, over the examples that it says something of.

    Raises :class:`InputError` or :class:`ConfigError`.
    """
    heads, values = examples.heads, examples.of(method)
    values = values[~np.isnan(values).all(axis=1)]
    scores = head_scores(heads, values, choice.seed)
    chosen = choose_heads(scores, choice.top, choice.max_layer)
    allowed = [place for place, head in enumerate(heads) if choice.max_layer is None or head.layer <= choice.max_layer]
    stable = stability([heads[place] for place in allowed], values[:, allowed], choice.top, choice.seed)
    return Found(method, settings, scores, chosen, stable)


@dataclass(frozen=True, slots=True)
class Origin:
    """What a head set is to be remembered by, beside its scores."""

    name: str
    model_id: str
    facts: ScorerIdentity
    shape: ModelShape
    dataset_id: str
    order: Order
    null_query: str
    calibration_weight: float
    query_span: str
    code_version: str
    contamination: str | None


def head_set(found: Found, examples: Examples, origin: Origin, notes: str | None = None) -> HeadSet:
    """The chosen heads as an artifact; ``notes``: what is to be known of the choice."""
    facts = origin.facts
    quantiles = np.percentile(examples.prompt_tokens, _QUANTILES)
    return HeadSet(
        name=origin.name,
        heads=tuple(str(one.head) for one in found.chosen),
        scores=tuple(one.score for one in found.chosen),
        intervals=tuple((one.low, one.high) for one in found.chosen),
        model_id=origin.model_id,
        revision=facts.revision,
        weights_sha256=facts.weights_sha256,
        shape=origin.shape,
        method=found.method,
        method_settings=dict(found.settings),
        detection_data=origin.dataset_id,
        dataset_sha256=examples.sha256,
        detection_queries=tuple(sorted(examples.queries)),
        examples=len(examples.prompt_tokens),
        prompt=facts.prompt,  # type: ignore[arg-type]
        null_query=origin.null_query,
        calibration_weight=origin.calibration_weight,
        query_span=origin.query_span,  # type: ignore[arg-type]
        order=origin.order,
        dtype=facts.dtype,
        prompt_tokens={f"p{share}": int(value) for share, value in zip(_QUANTILES, quantiles, strict=True)},
        truncation="none",
        contamination=origin.contamination,
        code_version=origin.code_version,
        notes=notes,
    )


def head_score_table(found: Sequence[Found], origin: Origin) -> bytes:
    """All scores of all methods as a Parquet object, best first method by method."""
    rows = [
        {
            "model_id": origin.model_id,
            "revision": origin.facts.revision,
            "method": one.method,
            "dataset_id": origin.dataset_id,
            "layer": score.head.layer,
            "head": score.head.head,
            "score": score.score,
            "std": score.std,
            "examples": score.examples,
            "low": score.low,
            "high": score.high,
        }
        for one in found
        for score in one.scores
    ]
    sink = io.BytesIO()
    pq.write_table(head_score_rows(rows), sink, compression="zstd")
    return sink.getvalue()


def overlaps(found: Sequence[Found]) -> list[list[float]]:
    """Share of chosen heads that methods have in common, ``[method][method]``."""
    chosen = [{score.head for score in one.chosen} for one in found]
    return [[len(one & other) / len(one) for other in chosen] for one in chosen]


def warnings(found: Found, examples: Examples) -> tuple[str, ...]:
    """What a user should know before relying on the choice."""
    said = []
    if len(examples.prompt_tokens) < FEW_EXAMPLES:
        best = found.chosen[0]
        said.append(
            f"{len(examples.prompt_tokens)} examples are few: the best head's score is {best.score:.3f} "
            f"[{best.low:.3f}, {best.high:.3f}]. Give at least {FEW_EXAMPLES}"
        )
    if found.chosen[0].low <= 0.0 <= found.chosen[0].high:
        said.append("the interval of the best head's score includes 0")
    return tuple(said)
