"""What is trained, in which order, for how long: stages as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from qrcore.training.queries import QueryMix


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage.

    ``lengths``: shortest and longest sample, drawn anew each step; ``tokens``: how many are trained; where a ``gate``
    is set, the stage goes on until the moving average of copy accuracy has passed it, at most to ``max_tokens``;
    ``learning_rates``: at the beginning and at the end of ``tokens``, linear between; ``permuted``: share of samples
    with permuted token identities, likewise; ``position_span``: positions that documents are spread over.
    """

    name: str
    task: Literal["induction", "retrieval"]
    lengths: tuple[int, int]
    tokens: int
    tokens_per_step: int
    learning_rates: tuple[float, float]
    gate: float | None = None
    max_tokens: int = 0
    permuted: tuple[float, float] = (0.0, 0.0)
    position_span: int = 0
    mix: QueryMix = field(default_factory=QueryMix)


_COPYING = QueryMix(question=0.25, words=0.4, span=0.35, removed=0.0)
_JOINED = QueryMix(question=0.4, words=0.5, span=0.05, removed=0.05, joined=0.5, long=0.4)
_MATCHING = QueryMix(question=0.15, words=0.4, span=0.45, removed=0.0)

#: Random tokens first: lengthening before copying works destroys it, hence the gates.
EMBEDDED: Final = (
    Stage("induction-32", "induction", (24, 32), 300_000, 1024, (2e-3, 2e-3)),
    Stage("induction-64", "induction", (48, 64), 300_000, 1536, (2e-3, 2e-3)),
    Stage("induction-128", "induction", (96, 128), 400_000, 2048, (2e-3, 2e-3), gate=0.92, max_tokens=6_000_000),
    Stage(
        "retrieval-96", "retrieval", (80, 112), 400_000, 3072, (1.5e-3, 1.5e-3), permuted=(1.0, 0.7), mix=_COPYING
    ),
    Stage(
        "retrieval-160", "retrieval", (112, 176), 500_000, 3072, (1.5e-3, 1.5e-3), permuted=(0.7, 0.4), mix=_COPYING
    ),
    Stage(
        "retrieval-256", "retrieval", (160, 288), 900_000, 4096, (1.5e-3, 1.5e-3), permuted=(0.4, 0.1),
        gate=0.75, max_tokens=4_000_000,
    ),
    Stage(
        "matching-256", "retrieval", (96, 256), 1_500_000, 4096, (1.5e-3, 1.5e-3), permuted=(0.3, 0.1), mix=_MATCHING
    ),
    Stage("retrieval-512", "retrieval", (256, 512), 1_800_000, 4096, (1.5e-3, 1.5e-3), position_span=1024),
    Stage("retrieval-1024", "retrieval", (512, 1024), 2_000_000, 6144, (1.5e-3, 1.3e-3), position_span=3072),
    Stage("retrieval-2048", "retrieval", (1024, 2048), 2_500_000, 6144, (1.3e-3, 4e-4), position_span=4096),
    Stage("retrieval-4096", "retrieval", (1536, 4096), 900_000, 8192, (4e-4, 3e-5), position_span=4096),
    Stage("joined-2048", "retrieval", (768, 2048), 1_700_000, 6144, (8e-4, 2e-5), position_span=4096, mix=_JOINED),
)  # fmt: skip

#: The same road in a minute, for trying out text and settings: it shows induction, not a useful model.
MINIATURE: Final = (
    Stage("induction-32", "induction", (24, 32), 60_000, 1024, (5e-3, 5e-3)),
    Stage("retrieval-96", "retrieval", (80, 112), 30_000, 1024, (3e-3, 1e-3), permuted=(0.5, 0.0), mix=_COPYING),
)  # fmt: skip

CURRICULA: Final = {"embedded": EMBEDDED, "miniature": MINIATURE}
