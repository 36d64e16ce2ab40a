"""One training sample, how samples become a batch, and the simplest task: copying random tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from transformers import LlamaForCausalLM

from qrcore.errors import ConfigError

#: What a position's token stands for when accuracy is measured.
PLAIN: Final = 0
INDEX: Final = 1
COPY: Final = 2
VERDICT: Final = 3

#: Block number of tokens that every question block sees.
SHARED: Final = 0
#: Document number of tokens that belong to none, or do not ask; and of the null query's tokens, which ask for none.
NO_DOCUMENT: Final = -1
NOTHING: Final = -2
NO_SOURCE: Final = -1
_PADDING: Final = -1


@dataclass(frozen=True, slots=True)
class Sample:
    """One sequence. All arrays have its length.

    ``blocks`` is 0 for the shared beginning and 1, 2, … for question blocks, which see the beginning and themselves;
    ``weights[t]`` weighs the loss of predicting token ``t`` from token ``t - 1``; ``roles`` marks the tokens whose
    accuracy is counted; ``documents`` tells which document a token belongs to, ``marks`` of which one it is the mark
    ``[i]``, ``sentences`` which sentence, counted over all documents, and ``asked`` and ``asked_sentences`` which of
    these a query's token asks for, as do the tokens after it up to the answer (all :data:`NO_DOCUMENT` elsewhere).
    ``sources`` is the place in the sample of the token that a token copies (:data:`NO_SOURCE` elsewhere).
    """

    ids: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    blocks: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]
    roles: npt.NDArray[np.int64]
    documents: npt.NDArray[np.int64]
    marks: npt.NDArray[np.int64]
    sentences: npt.NDArray[np.int64]
    asked: npt.NDArray[np.int64]
    asked_sentences: npt.NDArray[np.int64]
    sources: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples side by side: tensors ``[sample, token]``, and ``visible`` ``[sample, 1, query token, key token]``."""

    ids: torch.Tensor
    positions: torch.Tensor
    visible: torch.Tensor
    weights: torch.Tensor
    roles: torch.Tensor
    blocks: torch.Tensor
    documents: torch.Tensor
    marks: torch.Tensor
    sentences: torch.Tensor
    asked: torch.Tensor
    asked_sentences: torch.Tensor
    sources: torch.Tensor
    tokens: int

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "tokens"}
        return replace(self, **moved)


def collate(samples: Sequence[Sample], pad_id: int) -> Batch:
    """Pad samples to the longest and work out which token sees which."""
    blocks = _stack([sample.blocks for sample in samples], _PADDING)
    return Batch(
        ids=_stack([sample.ids for sample in samples], pad_id),
        positions=_stack([sample.positions for sample in samples], 0),
        visible=visibility(blocks),
        weights=_stack([sample.weights for sample in samples], 0.0),
        roles=_stack([sample.roles for sample in samples], PLAIN),
        blocks=blocks,
        documents=_stack([sample.documents for sample in samples], NO_DOCUMENT),
        marks=_stack([sample.marks for sample in samples], NO_DOCUMENT),
        sentences=_stack([sample.sentences for sample in samples], NO_DOCUMENT),
        asked=_stack([sample.asked for sample in samples], NO_DOCUMENT),
        asked_sentences=_stack([sample.asked_sentences for sample in samples], NO_DOCUMENT),
        sources=_stack([sample.sources for sample in samples], NO_SOURCE),
        tokens=sum(len(sample) for sample in samples),
    )


def pad_id_of(model: LlamaForCausalLM) -> int:
    """The id that fills up shorter samples."""
    pad_id = model.config.pad_token_id
    if pad_id is None:
        raise ConfigError("model: expected a config with pad_token_id, it has none. Set it before training.")
    return pad_id


def visibility(blocks: torch.Tensor) -> torch.Tensor:
    """Causal visibility ``[sample, 1, query, key]`` in which question blocks do not see one another."""
    length = blocks.shape[1]
    query, key = blocks[:, None, :, None], blocks[:, None, None, :]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    return causal & ((key == SHARED) | (key == query))


def _stack(rows: Sequence[npt.NDArray[np.generic]], fill: float) -> torch.Tensor:
    longest = max(len(row) for row in rows)
    stacked = np.full((len(rows), longest), fill, dtype=rows[0].dtype)
    for target, row in zip(stacked, rows, strict=True):
        target[: len(row)] = row
    return torch.from_numpy(stacked)


#: Tokens of a piece after which the next one can be told although tokens repeat.
_UNKNOWN_WHERE_REPEATING = 3


class InductionTask:
    """Random tokens, then pieces of them again, each from a random place on: only copying can predict those.

    The loss leaves out the first token of each piece, because it cannot be known. Where tokens repeat, as words do in
    text, one token does not tell the next: copying must match several, and the loss leaves out the first three.
    """

    def __init__(self, ordinary_ids: npt.NDArray[np.int64], bos_id: int) -> None:
        self._ordinary_ids = ordinary_ids
        self._bos_id = bos_id

    def sample(self, rng: np.random.Generator, length: int, *, repeating: bool = False) -> Sample:
        """One sample of `length` tokens; between a quarter and a half of them are new, each another one unless
        `repeating`."""
        new = int(rng.integers(length // 4, length // 2 + 1))
        tokens = self._tokens(rng, new, repeating)
        unknown = _UNKNOWN_WHERE_REPEATING if repeating else 1
        parts, known = [np.array([self._bos_id]), tokens], [np.zeros(new + 1, dtype=bool)]
        total = new + 1
        while total < length:
            start = int(rng.integers(0, new - 3))
            piece = tokens[start : start + int(rng.integers(4, new + 1))][: length - total]
            parts.append(piece)
            known.append(np.arange(len(piece)) >= unknown)
            total += len(piece)
        copied = np.concatenate(known)
        return Sample(
            ids=np.concatenate(parts).astype(np.int64),
            positions=np.arange(length),
            blocks=np.zeros(length, dtype=np.int64),
            weights=copied.astype(np.float32),
            roles=np.where(copied, COPY, PLAIN),
            documents=np.full(length, NO_DOCUMENT),
            marks=np.full(length, NO_DOCUMENT),
            sentences=np.full(length, NO_DOCUMENT),
            asked=np.full(length, NO_DOCUMENT),
            asked_sentences=np.full(length, NO_DOCUMENT),
            sources=np.full(length, NO_SOURCE),
        )

    def _tokens(self, rng: np.random.Generator, count: int, repeating: bool) -> npt.NDArray[np.int64]:
        if not repeating:
            return rng.choice(self._ordinary_ids, size=count, replace=False)
        few = rng.choice(self._ordinary_ids, size=int(rng.integers(min(8, count), count + 1)), replace=False)
        return rng.choice(few, size=count)
