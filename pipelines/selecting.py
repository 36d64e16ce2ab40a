"""From a ranked context to a bundle: choose, merge, order, render, count. No Ray, one row at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import pyarrow as pa

from pipelines.schemas import ERROR, SCHEMA_VERSION, SCHEMA_VERSION_KEY, SOURCE
from qrcore.counting import TextTokenizer
from qrcore.errors import ScoreError
from qrcore.rendering import CONTEXT_TEMPLATE, TextTemplate
from qrcore.selection import (
    BLANK_PIECES,
    BUDGET_BELOW_EVERY_PIECE,
    NO_TEXT,
    Piece,
    fill,
    ordered,
    policy,
)
from qrcore.splitting import rebuild

Row = dict[str, Any]

SEGMENT: Final = pa.struct(
    [
        pa.field("doc_id", pa.string()),
        pa.field("title", pa.string()),
        pa.field("text", pa.string()),
        pa.field("score", pa.float32()),
        pa.field("rank", pa.int32()),
        pa.field("position", pa.int32()),
        pa.field("tokens", pa.int32()),
        pa.field("doc_ids", pa.list_(pa.string())),
    ]
)
MESSAGE: Final = pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())])
BUNDLE_FIELDS: Final[tuple[pa.Field, ...]] = (
    pa.field("query_id", pa.string()),
    pa.field("query", pa.string()),
    pa.field("segments", pa.list_(SEGMENT)),
    pa.field("context", pa.string()),
    pa.field("context_tokens", pa.int64()),
    pa.field("source_tokens", pa.int64()),
    pa.field("budget_tokens", pa.int64()),
    pa.field("compression_ratio", pa.float64()),
    pa.field("windows", pa.int32()),
    pa.field("final_items", pa.int32()),
    pa.field("messages", pa.list_(MESSAGE)),
    pa.field("flags", pa.list_(pa.string())),
    pa.field("source", SOURCE),
    pa.field("error", ERROR),
)
_USER_TEMPLATE: Final = "{{ context }}\n\nQuestion: {{ query }}"


@dataclass(frozen=True, slots=True)
class BundleSettings:
    """How bundles are made. ``budget_tokens`` bounds the tokens of the rendered context, whatever the policy."""

    policy: str = "token_budget"
    top: int = 10
    mass: float = 0.8
    relative: float = 0.5
    around: int = 1
    per_source: int = 2
    budget_tokens: int | None = None
    overflow: Literal["skip", "stop"] = "skip"
    order: Literal["original", "best_first", "best_last"] = "original"
    template: str | None = None
    system: str | None = None
    user: str = _USER_TEMPLATE
    assistant: str | None = None
    tokenizer: str = "embedded"
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """What stands in a context: one piece, or several that touched; ``doc_ids`` are all of them."""

    doc_id: str
    title: str | None
    text: str
    score: float
    rank: int
    position: int
    tokens: int
    doc_ids: tuple[str, ...]


def bundle_schema(carried: Sequence[pa.Field]) -> pa.Schema:
    """The output schema of select: the bundle row and the carried columns."""
    return pa.schema([*BUNDLE_FIELDS, *carried], metadata={SCHEMA_VERSION_KEY: SCHEMA_VERSION.encode()})


class Bundler:
    """Makes bundles with one tokenizer and one set of templates. Raises :class:`qrcore.errors.ConfigError`."""

    def __init__(self, settings: BundleSettings) -> None:
        self._settings = settings
        self.tokenizer = TextTokenizer.load(settings.tokenizer, settings.revision)
        self._policy = policy(settings.policy)
        self._context = TextTemplate(settings.template or CONTEXT_TEMPLATE, "render.template")
        texts = {"system": settings.system, "user": settings.user, "assistant": settings.assistant}
        self._messages = {
            role: TextTemplate(text, f"render.{role}") for role, text in texts.items() if text is not None
        }

    def bundle(self, row: Row, ranking: Sequence[Row], carried: Mapping[str, Any], windows: int = 1) -> Row:
        """The bundle of one input row and its ranking, which took so many prompts (``windows``); without ``source``.

        Raises :class:`ScoreError`.
        """
        candidates: list[Row] = row["candidates"]
        pieces = self._pieces(candidates, ranking)
        usable = [piece for piece in pieces if candidates[piece.position]["text"].strip()]
        values = {**carried, "query": row["query"], "query_id": row["query_id"]}

        def render(positions: Sequence[int]) -> str:
            return self._context.render({**values, "segments": self._segments(candidates, pieces, positions)})

        kept, flags = self._choose(usable, render)
        flags = [*flags, *([BLANK_PIECES] if 0 < len(usable) < len(pieces) else [])]
        segments = self._segments(candidates, pieces, kept)
        context = self._context.render({**values, "segments": segments}) if kept else ""
        source_tokens = sum(piece.tokens for piece in pieces)
        context_tokens = self.tokenizer.count(context)
        return {
            "query_id": row["query_id"],
            "query": row["query"],
            "segments": [_segment_row(segment) for segment in segments],
            "context": context,
            "context_tokens": context_tokens,
            "source_tokens": source_tokens,
            "budget_tokens": self._settings.budget_tokens,
            "compression_ratio": context_tokens / source_tokens if source_tokens else None,
            "windows": windows,
            "final_items": sum(piece.final for piece in pieces),
            "messages": self._chat({**values, "context": context, "segments": segments}),
            "flags": flags,
            "error": None,
        }

    def _pieces(self, candidates: Sequence[Row], ranking: Sequence[Row]) -> list[Piece]:
        """The candidates with their scores, in the order of the context."""
        ranked = {entry["doc_id"]: entry for entry in ranking}
        ids = [entry["doc_id"] for entry in candidates]
        if len(ranked) != len(ids) or ranked.keys() != set(ids):
            raise ScoreError(
                "other_documents",
                f"ranking: expected the {len(ids)} candidates of its row, got {len(ranked)} documents, "
                f"{len(ranked.keys() & set(ids))} of them in common. Rank this input again.",
                stage="select",
            )
        last = max(entry["round"] or 1 for entry in ranking)
        tokens = self.tokenizer.count_many([entry["text"] for entry in candidates])
        return [
            Piece(
                doc_id=entry["doc_id"],
                position=position,
                rank=ranked[entry["doc_id"]]["rank"],
                score=ranked[entry["doc_id"]]["score"],
                tokens=tokens[position],
                final=(ranked[entry["doc_id"]]["round"] or 1) == last,
                source=entry.get("source_id"),
            )
            for position, entry in enumerate(candidates)
        ]

    def _choose(self, pieces: Sequence[Piece], render: Callable[[Sequence[int]], str]) -> tuple[list[int], list[str]]:
        """Positions in the order of the context, and flags."""
        if not pieces:
            return [], [NO_TEXT]
        settings = self._settings
        wanted = self._policy(pieces, _policy_settings(settings))
        budget = settings.budget_tokens
        kept = fill(pieces, wanted.positions, budget, self._overhead(pieces, render), settings.overflow)
        # Tokens of joined texts are not exactly the sum of their tokens: the rendered context decides.
        while kept and budget is not None and self.tokenizer.count(render(self._order(pieces, kept))) > budget:
            kept.pop()
        flags = list(wanted.flags)
        if wanted.positions and not kept:
            flags.append(BUDGET_BELOW_EVERY_PIECE)
        return self._order(pieces, kept), flags

    def _order(self, pieces: Sequence[Piece], kept: Sequence[int]) -> list[int]:
        return ordered(pieces, kept, self._settings.order)

    def _overhead(self, pieces: Sequence[Piece], render: Callable[[Sequence[int]], str]) -> int:
        """What the template adds to a piece, from the first two: titles and what stands between."""
        first = pieces[:2]
        if self._settings.budget_tokens is None or len(first) < 2:
            return 0
        rendered = self.tokenizer.count(render([piece.position for piece in first]))
        return max(0, -(-(rendered - sum(piece.tokens for piece in first)) // 2))

    def _segments(self, candidates: Sequence[Row], pieces: Sequence[Piece], positions: Sequence[int]) -> list[Segment]:
        at = {piece.position: piece for piece in pieces}
        groups: list[list[int]] = []
        for position in positions:
            if groups and self._touch(candidates[groups[-1][-1]], candidates[position], groups[-1][-1], position):
                groups[-1].append(position)
            else:
                groups.append([position])
        return [self._segment(candidates, [at[position] for position in group]) for group in groups]

    def _touch(self, before: Row, after: Row, first: int, second: int) -> bool:
        """Whether two pieces are one stretch of the same document."""
        if self._settings.policy != "neighbours" or second != first + 1:
            return False
        known = before.get("source_id") is not None and before["source_id"] == after.get("source_id")
        return (
            known
            and after.get("start") is not None
            and before.get("stop") is not None
            and after["start"] <= before["stop"]
        )

    def _segment(self, candidates: Sequence[Row], group: Sequence[Piece]) -> Segment:
        rows = [candidates[piece.position] for piece in group]
        best = min(group, key=lambda piece: piece.rank)
        text, tokens = rows[0]["text"], group[0].tokens
        if len(group) > 1:
            start = rows[0]["start"]
            text = rebuild((row["start"] - start, row["text"]) for row in rows)
            tokens = self.tokenizer.count(text)
        return Segment(
            doc_id=best.doc_id,
            title=rows[0].get("title"),
            text=text,
            score=best.score,
            rank=best.rank,
            position=group[0].position,
            tokens=tokens,
            doc_ids=tuple(piece.doc_id for piece in group),
        )

    def _chat(self, values: Mapping[str, Any]) -> list[Row]:
        return [{"role": role, "content": template.render(values)} for role, template in self._messages.items()]


def _policy_settings(settings: BundleSettings) -> dict[str, Any]:
    names = ("top", "mass", "relative", "around", "per_source")
    return {name: getattr(settings, name) for name in names}


def _segment_row(segment: Segment) -> Row:
    names = ("doc_id", "title", "text", "score", "rank", "position", "tokens")
    return {**{name: getattr(segment, name) for name in names}, "doc_ids": list(segment.doc_ids)}
