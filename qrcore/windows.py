"""Contexts longer than a prompt: windows that fit, who goes on, and the order that comes of it. Pure, without a model.

Scores of different prompts are not comparable, so candidates are compared in rounds. In each round they are cut into
windows that fit; the best of each window go on, until one last prompt holds all that are left. The guarantee: the first
places of the result, as many as the last prompt holds, were all compared with one another in that one prompt.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal, NamedTuple

import numpy as np

from qrcore.errors import ConfigError
from qrcore.records import Span

ContextPolicy = Literal["error", "tournament"]
LongDocuments = Literal["whole", "split_and_pool", "truncate_documents"]
Pooling = Literal["max", "mean"]

#: Part of a window that a document may take before it is split, unless the settings say it in tokens.
_SHARE_OF_A_WINDOW = 4


@dataclass(frozen=True, slots=True)
class ContextSettings:
    """What is done about contexts that do not fit one prompt.

    ``policy``: of a list that does not fit, ``error`` or ``tournament``. ``long_documents``: of a document over
    ``max_document_tokens`` (of its text; None: a quarter of a window): ``whole``, nothing; ``split_and_pool``: scored
    as pieces, and its score is the ``pooling`` of theirs (``max``, or ``mean`` of the best ``pool_top``);
    ``truncate_documents``: cut there, and counted. ``survivors``: documents that a window sends on at most;
    ``rounds``: prompts that a document is in at most, the last one included, None: as many as it takes.
    ``window_tokens``: of a prompt at most, None: what the model is made for; ``pass_tokens``: of documents, query and
    null query together, as memory allows.

    Raises :class:`ConfigError` for values that make no sense.
    """

    policy: ContextPolicy = "error"
    long_documents: LongDocuments = "whole"
    max_document_tokens: int | None = None
    survivors: int = 10
    rounds: int | None = None
    pooling: Pooling = "max"
    pool_top: int = 3
    window_tokens: int | None = None
    pass_tokens: int | None = None

    def __post_init__(self) -> None:
        smallest = {"max_document_tokens": 1, "survivors": 1, "rounds": 2, "pool_top": 1, "window_tokens": 1}
        for name, least in smallest.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"contexts.{name}: expected at least {least}, got {value}. Raise it.")
        if self.long_documents == "truncate_documents" and self.max_document_tokens is None:
            raise ConfigError(
                "contexts.max_document_tokens: truncate_documents needs to know where to cut, got none. Give a number "
                "of tokens, or choose split_and_pool."
            )

    @property
    def plain(self) -> bool:
        """Whether nothing is done: a context fits one prompt as it is, or its row is an error."""
        return self.policy == "error" and self.long_documents == "whole"

    @property
    def pieces_each(self) -> int:
        """How many pieces of a document go on together."""
        return 1 if self.pooling == "max" else self.pool_top

    def within(self, max_tokens: int, sight: int | None = None, largest_pass: int | None = None) -> ContextSettings:
        """The same settings with every limit as a number: the model's ``max_tokens``, how far its heads see
        (``sight``, None: everything) and what memory allows a pass (``largest_pass``, None: anything).

        Raises :class:`ConfigError` if memory allows nothing.
        """
        if largest_pass == 0:
            raise ConfigError(
                "engine.memory_bytes: expected room for the weights and a prompt, the weights alone take it. Raise it."
            )
        limits = (max_tokens, sight, self.window_tokens)
        window = min(limit for limit in limits if limit is not None)
        prompt = window if largest_pass is None else min(window, largest_pass)
        longest = self.max_document_tokens or max(1, prompt // _SHARE_OF_A_WINDOW)
        return replace(self, window_tokens=window, pass_tokens=largest_pass, max_document_tokens=longest)


class Item(NamedTuple):
    """What stands in a prompt: a document, or a piece of one, by their places from 0."""

    document: int
    piece: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """How one document did in one prompt.

    ``prompt``: the prompt's place in its ``round``, from 0; ``rank`` among the prompt's documents, from 1; ``pieces``:
    those of its items that were there, best first.
    """

    document: int
    round: int
    prompt: int
    rank: int
    score: float
    pieces: tuple[Item, ...]


def cut_windows(tokens: Sequence[int], room: int) -> list[Span]:
    """Neighbours together in as few windows of at most ``room`` tokens as there can be, about equally full.

    Equally full, because who is alone in a window goes on without having been better than anybody. An item above
    ``room`` is a window of its own.
    """
    low, high = max(tokens, default=0), room
    fewest = len(_filled(tokens, max(low, high)))
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(_filled(tokens, middle)) <= fewest else (middle + 1, high)
    return _filled(tokens, low)


def _filled(tokens: Sequence[int], room: int) -> list[Span]:
    windows: list[Span] = []
    start = used = 0
    for place, size in enumerate(tokens):
        if place > start and used + size > room:
            windows.append(Span(start, place))
            start, used = place, 0
        used += size
    return [*windows, Span(start, len(tokens))] if tokens else []


def standings(
    round_number: int,
    prompt: int,
    items: Sequence[Item],
    scores: Sequence[float],
    ties: Sequence[tuple[int, str]],
    settings: ContextSettings,
) -> list[Standing]:
    """How the documents of one prompt did, best first.

    ``scores``: of ``items``; ``ties``: input rank and id of every document, which decide between equal scores.
    """
    pieces: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for item, score in zip(items, scores, strict=True):
        pieces[item.document].append((score, item.piece))
    pooled = {document: pool([score for score, _ in of_it], settings) for document, of_it in pieces.items()}
    order = sorted(pooled, key=lambda document: (-pooled[document], ties[document]))
    return [
        Standing(document, round_number, prompt, rank, pooled[document], _best_first(document, pieces[document]))
        for rank, document in enumerate(order, start=1)
    ]


def _best_first(document: int, pieces: Iterable[tuple[float, int]]) -> tuple[Item, ...]:
    return tuple(Item(document, piece) for _, piece in sorted(pieces, key=lambda entry: (-entry[0], entry[1])))


def pool(scores: Sequence[float], settings: ContextSettings) -> float:
    """The score of a document whose pieces have these, of one prompt; a float32 value."""
    if settings.pooling == "max" or len(scores) == 1:
        return max(scores)
    return float(np.float32(fmean(sorted(scores, reverse=True)[: settings.pool_top])))


def going_on(prompts: Sequence[Sequence[Standing]], settings: ContextSettings) -> list[tuple[Item, ...]]:
    """The items of each document that goes on, of all prompts of a round: best ranks first, then the prompts' order.

    A prompt sends on its best ``survivors`` documents with their best pieces, and at most half of its items, so that
    every round leaves fewer.
    """
    chosen: list[tuple[int, int, tuple[Item, ...]]] = []
    for prompt in prompts:
        left = max(1, sum(len(standing.pieces) for standing in prompt) // 2)
        for standing in prompt[: settings.survivors]:
            pieces = standing.pieces[: min(left, settings.pieces_each)]
            left -= len(pieces)
            if pieces:
                chosen.append((standing.rank, standing.prompt, pieces))
    return [pieces for _, _, pieces in sorted(chosen)]


def in_context_order(groups: Iterable[tuple[Item, ...]]) -> list[Item]:
    """All items of these documents as they stand in the context."""
    return sorted(item for group in groups for item in group)


def final_order(rounds: Sequence[Sequence[Sequence[Standing]]], ties: Sequence[tuple[int, str]]) -> list[Standing]:
    """Where each document ended, best first: by the last round that it was in, its rank in that prompt, its input rank.

    ``rounds``: the prompts of each round. A document whose pieces were in several prompts of its last round stands
    where it did best.
    """
    last: dict[int, Standing] = {}
    for prompts in rounds:
        best: dict[int, Standing] = {}
        for standing in (standing for prompt in prompts for standing in prompt):
            known = best.get(standing.document)
            if known is None or standing.rank < known.rank:
                best[standing.document] = standing
        last.update(best)
    return sorted(last.values(), key=lambda standing: (-standing.round, standing.rank, ties[standing.document]))
