"""A sample in the making: token ids with what is known of each, kept in step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qrcore.training.passages import Ids
from qrcore.training.samples import NO_DOCUMENT, NO_SOURCE, PLAIN, SHARED, Sample


@dataclass(frozen=True, slots=True)
class _Part:
    """Tokens that have everything but their places in common; ``position`` and ``source`` are the first one's."""

    ids: Ids
    position: int
    block: int
    weight: float
    role: int
    document: int
    mark: int
    sentence: int
    asked: int
    asked_sentence: int
    source: int


class Draft:
    """A sample in the making: keeps what is known of each token in step."""

    def __init__(self) -> None:
        self._parts: list[_Part] = []
        self._next_position = 0
        self._shared_end = 0
        self._block = SHARED
        self._sentences: dict[int, int] = {}
        self.length = 0

    def skip_positions(self, count: int) -> None:
        """Leave a gap, so that distances far beyond the sample's length are met in training."""
        self._next_position += count

    def begin_block(self) -> None:
        """Begin the next question block: it stands right after the shared part, whatever blocks came before."""
        if self._block == SHARED:
            self._shared_end = self._next_position
        self._block += 1
        self._next_position = self._shared_end

    def add(
        self,
        ids: Ids,
        weight: float = 0.0,
        role: int = PLAIN,
        document: int = NO_DOCUMENT,
        mark: int = NO_DOCUMENT,
        sentence: int = NO_DOCUMENT,
        asked: int = NO_DOCUMENT,
        asked_sentence: int = NO_DOCUMENT,
        source: int = NO_SOURCE,
    ) -> None:
        self._sentences.setdefault(sentence, self.length)
        known = (document, mark, sentence, asked, asked_sentence, source)
        self._parts.append(_Part(ids, self._next_position, self._block, weight, role, *known))
        self._next_position += len(ids)
        self.length += len(ids)

    def place_of(self, sentence: int) -> int:
        """Where this sentence begins in the sample."""
        return self._sentences[sentence]

    def sample(self) -> Sample:
        parts = self._parts
        lengths = [len(part.ids) for part in parts]
        blocks = np.repeat([part.block for part in parts], lengths)
        weights = np.repeat(np.array([part.weight for part in parts], dtype=np.float32), lengths)
        # The first token of a block follows the shared part, not the block before it in the array.
        weights[1:][blocks[1:] != blocks[:-1]] = 0.0
        return Sample(
            ids=np.concatenate([part.ids for part in parts]).astype(np.int64),
            positions=np.concatenate([part.position + np.arange(len(part.ids)) for part in parts]),
            blocks=blocks,
            weights=weights,
            roles=np.repeat([part.role for part in parts], lengths),
            documents=np.repeat([part.document for part in parts], lengths),
            marks=np.repeat([part.mark for part in parts], lengths),
            sentences=np.repeat([part.sentence for part in parts], lengths),
            asked=np.repeat([part.asked for part in parts], lengths),
            asked_sentences=np.repeat([part.asked_sentence for part in parts], lengths),
            sources=np.concatenate([_following(part.source, len(part.ids)) for part in parts]),
        )


def _following(source: int, count: int) -> npt.NDArray[np.int64]:
    return np.full(count, NO_SOURCE) if source == NO_SOURCE else source + np.arange(count)
