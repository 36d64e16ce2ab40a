"""Retrieval samples for tests, and parts of them."""

from __future__ import annotations

import numpy as np

from qrcore.training.queries import QueryMix
from qrcore.training.retrieval import PromptTokens, RetrievalShape, RetrievalTask
from qrcore.training.samples import INDEX, Sample


def draw_samples(task: RetrievalTask, count: int = 40, **changes: object) -> list[Sample]:
    usual = {"length": 256, "position_span": 256, "mix": QueryMix(), "null_queries": 0.0}
    shape = RetrievalShape(**(usual | changes))  # type: ignore[arg-type]
    return [task.sample(np.random.default_rng(seed), shape) for seed in range(count)]


def blocks_of(sample: Sample) -> list[np.ndarray]:
    """The places of each question block's tokens."""
    return [np.flatnonzero(sample.blocks == block) for block in range(1, int(sample.blocks.max()) + 1)]


def contains(whole: list[int], part: list[int]) -> bool:
    return any(whole[i : i + len(part)] == part for i in range(len(whole) - len(part) + 1))


def tokens_of_document(sample: Sample, number: int) -> list[int]:
    return sample.ids[sample.documents == number].tolist()


def answered_document(sample: Sample, places: np.ndarray, prompt: PromptTokens, number_of: dict[bytes, int]) -> int:
    """The document that a block's answer names."""
    index = int(np.flatnonzero(sample.roles[places] == INDEX)[0])
    size = len(prompt.indices[0])
    for first in range(max(0, index - size + 1), index + 1):
        number = number_of.get(sample.ids[places[first : first + size]].astype(np.int32).tobytes())
        if number is not None:
            return number
    raise AssertionError("no mark of a document at the answer")
