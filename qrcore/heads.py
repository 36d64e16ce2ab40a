"""Attention heads, sets of heads as artifacts, and their fit to a model."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from qrcore.errors import HeadSetError
from qrcore.prompts import PromptFormat
from qrcore.records import Order

_HEAD_PATTERN: Final = re.compile(r"(\d+)-(\d+)")
_LIST_PATTERN: Final = re.compile(r"[\d\s,-]*")


class Head(NamedTuple):
    """A query head of a layer, both counted from 0; written ``layer-head`` as in the paper."""

    layer: int
    head: int

    def __str__(self) -> str:
        return f"{self.layer}-{self.head}"


def parse_head(text: str) -> Head:
    """``"13-18"`` as a :class:`Head`; raises :class:`HeadSetError`."""
    match = _HEAD_PATTERN.fullmatch(text.strip())
    if match is None:
        raise HeadSetError(f'head: expected "layer-head" such as "13-18", got {text!r}. Correct the list of heads.')
    return Head(int(match[1]), int(match[2]))


class ModelShape(BaseModel):
    """The numbers of a decoder that a head set depends on; ``rope``: the settings of its rotary positions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: int
    query_heads: int
    kv_heads: int
    head_dim: int | None = None
    vocab_size: int | None = None
    rope: dict[str, Any] | None = None


class HeadSet(BaseModel):
    """A named, fixed list of heads with the model it belongs to and how it was found.

    Fields that were not recorded (published lists) are None. A head listed twice counts twice in scores.
    ``intervals``: bounds of the 95 % interval of each score; ``dataset_sha256``: of inputs and judgements;
    ``detection_queries``: the queries that heads were found on, as :func:`qrcore.matching.query_digest` writes them;
    ``prompt_tokens``: quantiles of the prompts that heads were found with, such as ``{"p50": 1200}``; ``truncation``:
    how texts were cut for it; ``contamination``: data that the choice has seen, and that prove nothing of it any more.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    heads: tuple[str, ...] = Field(min_length=1)
    scores: tuple[float, ...] | None = None
    intervals: tuple[tuple[float, float], ...] | None = None
    model_id: str | None = None
    revision: str | None = None
    weights_sha256: str | None = None
    shape: ModelShape | None = None
    method: str | None = None
    method_settings: dict[str, Any] = Field(default_factory=dict)
    detection_data: str | None = None
    dataset_sha256: str | None = None
    detection_queries: tuple[str, ...] | None = None
    examples: int | None = None
    prompt: PromptFormat | None = None
    null_query: str | None = None
    calibration_weight: float | None = None
    query_span: Literal["official", "query"] | None = None
    order: Order | None = None
    dtype: str | None = None
    prompt_tokens: dict[str, int] | None = None
    truncation: str | None = None
    contamination: str | None = None
    code_version: str | None = None
    source: str | None = None
    notes: str | None = None

    @field_validator("heads")
    @classmethod
    def _heads_parse(cls, heads: tuple[str, ...]) -> tuple[str, ...]:
        for head in heads:
            parse_head(head)
        return heads

    @property
    def head_list(self) -> tuple[Head, ...]:
        """The heads in order, repeated ones repeated."""
        return tuple(parse_head(head) for head in self.heads)

    @property
    def depth(self) -> int:
        """How many layers a model must run for this set: the deepest head's layer + 1."""
        return max(head.layer for head in self.head_list) + 1

    @property
    def id(self) -> str:
        """``name@`` and 12 hexadecimal digits of the content's SHA-256."""
        # What is not recorded does not count: fields that come later leave the ids of older sets alone.
        content = json.dumps(self.model_dump(mode="json", exclude_none=True, exclude_defaults=True), sort_keys=True)
        return f"{self.name}@{hashlib.sha256(content.encode()).hexdigest()[:12]}"

    def check_fits(self, shape: ModelShape) -> None:
        """Raise :class:`HeadSetError` unless every head exists and every recorded number equals the model's."""
        recorded = self.shape.model_dump(exclude_none=True) if self.shape else {}
        actual = shape.model_dump()
        wrong = [f"{key} {value} (model: {actual[key]})" for key, value in recorded.items() if actual[key] != value]
        if wrong:
            raise HeadSetError(
                f"head set {self.name!r} was made for a model with {', '.join(wrong)}. "
                "Choose a head set of this model, or load the model that the set names."
            )
        outside = [str(h) for h in self.head_list if h.layer >= shape.layers or h.head >= shape.query_heads]
        if outside:
            raise HeadSetError(
                f"head set {self.name!r}: expected layers 0-{shape.layers - 1} and heads 0-{shape.query_heads - 1}; "
                f"got {', '.join(outside)}. Choose heads that this model has."
            )


@dataclass(frozen=True, slots=True)
class HeadSetComparison:
    """Two head sets side by side: heads of ``both``, of the first and of the second alone, each in order of layers."""

    both: tuple[Head, ...]
    only_first: tuple[Head, ...]
    only_second: tuple[Head, ...]

    @property
    def jaccard(self) -> float:
        """Heads of both over heads of either."""
        return len(self.both) / (len(self.both) + len(self.only_first) + len(self.only_second))


def compare_head_sets(first: HeadSet, second: HeadSet) -> HeadSetComparison:
    """Which heads two sets share; a head listed twice counts once."""
    one, other = set(first.head_list), set(second.head_list)
    return HeadSetComparison(tuple(sorted(one & other)), tuple(sorted(one - other)), tuple(sorted(other - one)))


def kv_heads(heads: Iterable[Head], shape: ModelShape) -> tuple[Head, ...]:
    """The different key-value heads that query heads read, in order of layers: what a cache for them has to hold."""
    group = shape.query_heads // shape.kv_heads
    return tuple(sorted({Head(head.layer, head.head // group) for head in heads}))


def all_heads(shape: ModelShape) -> HeadSet:
    """Every head of every layer (in-context re-ranking, arXiv 2410.02642)."""
    heads = tuple(f"{layer}-{head}" for layer in range(shape.layers) for head in range(shape.query_heads))
    return HeadSet(name="all", heads=heads, method="all", source="arXiv 2410.02642")


def is_head_list(text: str) -> bool:
    """Whether ``text`` is meant as a list of heads, and not as a name."""
    return _LIST_PATTERN.fullmatch(text) is not None


def head_set_from_list(text: str) -> HeadSet:
    """``"3-1,4-0"`` as an unnamed :class:`HeadSet`."""
    heads = tuple(str(parse_head(part)) for part in text.split(",") if part.strip())
    if not heads:
        raise HeadSetError('heads: expected at least one head such as "3-1,4-0", got an empty list.')
    return HeadSet(name="custom", heads=heads)


def read_head_set(text: str, origin: str) -> HeadSet:
    """A head set from its JSON; ``origin`` names the file in errors."""
    try:
        return HeadSet.model_validate_json(text)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise HeadSetError(f"head set {origin}: expected the head-set format, got {problems}. Correct it.") from error
    except HeadSetError as error:
        raise HeadSetError(f"head set {origin}: {error}") from error


def published_names() -> tuple[str, ...]:
    """Names of the head sets that ship with the package."""
    folder = resources.files("qrcore") / "headsets"
    return tuple(sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json")))


def load_head_set(name_or_file: str) -> HeadSet:
    """A shipped head set by name, or one from a JSON file. Raises :class:`HeadSetError`."""
    if name_or_file in published_names():
        entry = resources.files("qrcore") / "headsets" / f"{name_or_file}.json"
        return read_head_set(entry.read_text(encoding="utf-8"), name_or_file)
    path = Path(name_or_file)
    if path.is_file():
        return read_head_set(path.read_text(encoding="utf-8"), name_or_file)
    raise HeadSetError(
        f"heads: expected a list such as '3-1,4-0', 'all', a JSON file or one of {', '.join(published_names())}; "
        f"got {name_or_file!r}, which is no file. Correct the name."
    )


def resolve_heads(heads: str | HeadSet | Sequence[Head] | None, shipped: HeadSet | None, shape: ModelShape) -> HeadSet:
    """The head set that a user's ``heads`` argument means, checked against the model's shape.

    ``shipped`` is the set that comes with the model; it stands for ``None``. Raises :class:`HeadSetError`.
    """
    chosen = _resolve(heads, shipped, shape)
    chosen.check_fits(shape)
    return chosen


def _resolve(heads: str | HeadSet | Sequence[Head] | None, shipped: HeadSet | None, shape: ModelShape) -> HeadSet:
    if heads is None:
        if shipped is None:
            raise HeadSetError(
                "heads: expected a head set, and this model ships none. Give a list ('3-1,4-0'), 'all', a file, or "
                f"one of: {', '.join(published_names())}."
            )
        return shipped
    if isinstance(heads, HeadSet):
        return heads
    if not isinstance(heads, str):
        return head_set_from_list(",".join(str(Head(*head)) for head in heads))
    if heads == "all":
        return all_heads(shape)
    if shipped is not None and heads == shipped.name:
        return shipped
    return head_set_from_list(heads) if is_head_list(heads) else load_head_set(heads)


def unique_heads(heads: Iterable[Head]) -> tuple[Head, ...]:
    """Each head once, in order of first appearance."""
    return tuple(dict.fromkeys(heads))
