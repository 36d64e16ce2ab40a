"""One training sample, how samples become a batch, and the simplest task: copying random tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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

#: Block number of tokens that every question block sees.
SHARED: Final = 0
_PADDING: Final = -1


@dataclass(frozen=True, slots=True)
class Sample:
    """One sequence. All arrays have its length.

    ``blocks`` is 0 for the shared beginning and 1, 2, … for question blocks, which see the beginning and themselves;
    ``weights[t]`` weighs the loss of predicting token ``t`` from token ``t - 1``; ``roles`` marks the tokens whose
    accuracy is counted.
    """

    ids: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    blocks: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]
    roles: npt.NDArray[np.int64]

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
    tokens: int


def collate(samples: Sequence[Sample], pad_id: int) -> Batch:
    """Pad samples to the longest and work out which token sees which."""
    blocks = _stack([sample.blocks for sample in samples], _PADDING)
    return Batch(
        ids=_stack([sample.ids for sample in samples], pad_id),
        positions=_stack([sample.positions for sample in samples], 0),
        visible=visibility(blocks),
        weights=_stack([sample.weights for sample in samples], 0.0),
        roles=_stack([sample.roles for sample in samples], PLAIN),
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


class InductionTask:
    """Random tokens, then pieces of them again, each from a random place on: only copying can predict those.

    The loss leaves out the first token of each piece, because it cannot be known.
    """

    def __init__(self, ordinary_ids: npt.NDArray[np.int64], bos_id: int) -> None:
        self._ordinary_ids = ordinary_ids
        self._bos_id = bos_id

    def sample(self, rng: np.random.Generator, length: int) -> Sample:
        """One sample of `length` tokens; between a quarter and a half of them are new."""
        new = int(rng.integers(length // 4, length // 2 + 1))
        tokens = rng.choice(self._ordinary_ids, size=new, replace=False)
        parts, known = [np.array([self._bos_id]), tokens], [np.zeros(new + 1, dtype=bool)]
        total = new + 1
        while total < length:
            start = int(rng.integers(0, new - 3))
            piece = tokens[start : start + int(rng.integers(4, new + 1))][: length - total]
            parts.append(piece)
            known.append(np.arange(len(piece)) > 0)
            total += len(piece)
        copied = np.concatenate(known)
        return Sample(
            ids=np.concatenate(parts).astype(np.int64),
            positions=np.arange(length),
            blocks=np.zeros(length, dtype=np.int64),
            weights=copied.astype(np.float32),
            roles=np.where(copied, COPY, PLAIN),
        )
