"""Many lists of some 370 to 1,250 tokens with the embedded model: shared passes against one list at a time.

``python -m tests.benchmarks.packing`` (or ``make bench``). Tokenising is timed apart, because workers do it ahead of
scoring. Writes ``results/packing.json``.
"""

from __future__ import annotations

import random
from typing import Any, Final

import torch

from qrcore import Document, Ranking, RankRequest, load_scorer
from qrcore.engine import EngineSettings
from qrcore.methods.qrhead import QRHeadScorer
from tests.benchmarks import machine
from tests.benchmarks.machine import paired

_LISTS: Final = 256
_BUDGETS: Final = (1024, 2048, 4096, 8192)
_WORDS: Final = tuple(
    f"{sound}{end}" for sound in ("riv", "wat", "flow", "bread", "lett") for end in ("er", "s", "ing")
)


def lists(count: int) -> list[RankRequest]:
    """Lists of 10 documents of random plain words; the same at every call."""
    draw = random.Random(0)
    return [RankRequest(_text(draw, 6), _documents(draw), str(number)) for number in range(count)]


def _documents(draw: random.Random) -> tuple[Document, ...]:
    words = draw.randint(14, 56)
    return tuple(Document(str(number), _text(draw, words)) for number in range(10))


def _text(draw: random.Random, words: int) -> str:
    return " ".join(draw.choices(_WORDS, k=words))


def measure(count: int = _LISTS, rounds: int = 3) -> dict[str, Any]:
    """CPU seconds and lists per CPU second at each token budget; 0 is one list at a time."""
    loaded = load_scorer("embedded")
    budgets = (0, *_BUDGETS)
    scorers = {
        budget: QRHeadScorer(loaded.model, loaded.heads, loaded.settings, engine=EngineSettings(pack_tokens=budget))
        for budget in budgets
    }
    encoded = [loaded.encode(request) for request in lists(count)]
    runs: dict[str, Any] = {
        str(budget): lambda scorer=scorer: list(scorer.rank_encoded(encoded)) for budget, scorer in scorers.items()
    }
    runs["encode"] = lambda: [loaded.encode(request) for request in lists(count)]
    times = paired(runs, rounds)
    tokens = sorted(one.prompt_tokens for one in encoded)
    return {
        "lists": count,
        "tokens": {"least": tokens[0], "median": tokens[len(tokens) // 2], "most": tokens[-1]},
        "seconds": times.record(),
        "times_one_at_a_time": {budget: times.ratio("0", str(budget)) for budget in _BUDGETS},
        "largest_difference": _difference(runs),
    }


def _difference(runs: dict[str, Any]) -> float:
    """Of any score between one at a time and the largest budget."""
    alone, packed = runs["0"](), runs[str(_BUDGETS[-1])]()
    assert all(isinstance(answer, Ranking) for answer in (*alone, *packed))
    pairs = zip(alone, packed, strict=True)
    return max(_largest(_scores(one), _scores(other)) for one, other in pairs)


def _scores(ranking: Ranking) -> dict[str, float]:
    return {document.doc_id: document.score for document in ranking.documents}


def _largest(one: dict[str, float], other: dict[str, float]) -> float:
    return max(abs(one[doc_id] - other[doc_id]) for doc_id in one)


if __name__ == "__main__":
    torch.set_num_threads(1)
    machine.write("packing", measure())
