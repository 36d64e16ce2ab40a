"""What is trained, in which order, for how long: stages as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, Literal

from qrcore.training.queries import QueryMix


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage.

    ``lengths``: shortest and longest sample, drawn anew each step; ``tokens``: how many are trained; where a ``gate``
    is set, the stage goes on until the moving average of copy accuracy has passed it, at most to ``max_tokens``;
    ``learning_rates``: at the beginning and at the end of ``tokens``, linear between; ``permuted``: share of samples
    with permuted token identities, likewise; ``position_span``: positions that documents are spread over;
    ``repeating``: share of induction samples in which tokens repeat; ``largest`` and ``skipping``: see
    :class:`~qrcore.training.retrieval.RetrievalShape`.
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
    repeating: float = 0.0
    largest: tuple[float, float] = (0.06, 0.35)
    skipping: float = 0.0
    mix: QueryMix = field(default_factory=QueryMix)


_COPYING = QueryMix(question=0.25, words=0.4, span=0.35, removed=0.0)
# Few answers in full: copying is learned by then, and each number named teaches retrieval.
_ASKING = QueryMix(question=0.45, words=0.35, span=0.1, removed=0.1, long=0.2, answered=0.35)
_ASKING_AGAIN = replace(_ASKING, reasked=0.1)
# Tokens that are rare in the text occur as often as others in a permuted sample.
_RARE = (0.05, 0.05)
# Few documents fit into a sample, and prompts hold many.
_SKIPPING = 0.3

#: Random tokens first: lengthening before copying works destroys it, hence the gates.
EMBEDDED: Final = (
    Stage("induction-32", "induction", (24, 32), 300_000, 1024, (2e-3, 2e-3)),
    Stage("induction-64", "induction", (48, 64), 300_000, 1536, (2e-3, 2e-3)),
    Stage("induction-128", "induction", (96, 128), 400_000, 2048, (2e-3, 2e-3), gate=0.92, max_tokens=6_000_000),
    Stage("induction-repeating", "induction", (96, 128), 300_000, 2048, (2e-3, 2e-3), repeating=0.7),
    Stage(
        "retrieval-96", "retrieval", (80, 112), 400_000, 3072, (1.5e-3, 1.5e-3), gate=0.5, max_tokens=1_500_000,
        permuted=(1.0, 0.7), skipping=_SKIPPING, position_span=384, mix=_COPYING,
    ),
    Stage(
        "retrieval-160", "retrieval", (112, 176), 500_000, 3072, (1.5e-3, 1.5e-3), gate=0.6, max_tokens=1_500_000,
        permuted=(0.7, 0.4), skipping=_SKIPPING, position_span=768, mix=_COPYING,
    ),
    Stage(
        "retrieval-256", "retrieval", (128, 288), 1_600_000, 4096, (1.5e-3, 1.5e-3), gate=0.7, max_tokens=3_000_000,
        permuted=(0.4, 0.05), skipping=_SKIPPING, position_span=1536, mix=_ASKING,
    ),
    Stage(
        "retrieval-512", "retrieval", (256, 512), 2_000_000, 4096, (1.5e-3, 1.5e-3), gate=0.75, max_tokens=4_000_000,
        permuted=_RARE, skipping=_SKIPPING, position_span=3072, mix=_ASKING_AGAIN,
    ),
    Stage(
        "retrieval-1024", "retrieval", (512, 1024), 2_000_000, 6144, (1.5e-3, 1.2e-3), gate=0.8, max_tokens=4_000_000,
        permuted=_RARE, skipping=_SKIPPING, position_span=4096, mix=_ASKING_AGAIN,
    ),
    Stage(
        "retrieval-2048", "retrieval", (1024, 2048), 2_000_000, 6144, (1.2e-3, 3e-4),
        permuted=_RARE, skipping=_SKIPPING, largest=(0.04, 0.25), position_span=4096, mix=_ASKING_AGAIN,
    ),
    Stage(
        "retrieval-4096", "retrieval", (1536, 4096), 800_000, 8192, (3e-4, 2e-5),
        permuted=_RARE, skipping=_SKIPPING, largest=(0.02, 0.2), position_span=4096, mix=_ASKING_AGAIN,
    ),
)  # fmt: skip

#: The same road in a minute, for trying out text and settings: far too short to learn to copy.
MINIATURE: Final = (
    Stage("induction-32", "induction", (24, 32), 60_000, 1024, (5e-3, 5e-3)),
    Stage("retrieval-96", "retrieval", (80, 112), 30_000, 1024, (3e-3, 1e-3), permuted=(0.5, 0.0), mix=_COPYING),
)  # fmt: skip

CURRICULA: Final = {"embedded": EMBEDDED, "miniature": MINIATURE}
