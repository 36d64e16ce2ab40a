"""What is told of a seed's training: how much of it is done, and where it begins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.training import seeds
from pipelines.training.output import longest_prompt
from pipelines.training.seeds import share_done
from pipelines.training.settings import TrainEmbeddedSettings
from qrcore.training.curriculum import CURRICULA, EMBEDDED, MINIATURE, Stage
from qrcore.training.progress import Progress


def stage(tokens: int, task: Any = "induction", longest: int = 32) -> Stage:
    return Stage(task, task, (8, longest), tokens, 1024, (1e-3, 1e-3), gate=0.9, max_tokens=10 * tokens)


STAGES = (stage(100), stage(300))


def at(number: int, stage_tokens: int) -> Progress:
    return Progress(stage_number=number, stage_tokens=stage_tokens, tokens=5000)


def test_the_share_is_of_the_tokens_asked_for_whatever_gates_add() -> None:
    places = [at(0, 0), at(0, 50), at(0, 100), at(0, 700), at(1, 0), at(1, 150), at(1, 300), at(1, 900), at(2, 0)]
    assert [share_done(STAGES, place) for place in places] == [0, 0.125, 0.25, 0.25, 0.25, 0.625, 1, 1, 1]


class _Trainer:
    """As much of a trainer as is looked at."""

    def __init__(self, steps: int, *, finished: bool, told: tuple[Progress, ...] = ()) -> None:
        self.progress = Progress(steps=steps)
        self.finished = finished
        self._told = told

    def load(self, path: Path) -> None: ...

    def train(self, tell: Callable[[Progress], None], checkpoint: Path, save_every_s: float) -> None:
        for number, progress in enumerate(self._told, start=1):
            self.finished = number == len(self._told)
            tell(progress)


class _Observer:
    def __init__(self) -> None:
        self.phases: list[str] = []
        self.shares: list[float] = []

    def phase(self, message: str) -> None:
        self.phases.append(message)

    def progress(self, seed: int, progress: Progress, share: float) -> None:
        self.shares.append(share)


def told(trainer: _Trainer, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> _Observer:
    monkeypatch.setitem(CURRICULA, "embedded", STAGES)
    observer = _Observer()
    asked = TrainEmbeddedSettings(("text",), "out", "work", seeds=(4, 7), **settings)
    seeds._train(trainer, asked, 7, Path("checkpoint.pt"), observer)  # type: ignore[arg-type]
    return observer


def test_all_is_done_only_when_the_last_gate_is_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = _Trainer(0, finished=False, told=(at(0, 50), at(1, 300), at(1, 600), at(1, 900)))
    assert told(waiting, monkeypatch).shares == [0.125, 0.99, 0.99, 1.0]


def test_what_begins_goes_on_or_is_over_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(_Trainer(0, finished=False), monkeypatch).phases == ["training seed 7 (2 of 2)"]
    resumed = told(_Trainer(1234, finished=False), monkeypatch, compiled=True).phases
    assert resumed[0] == "training seed 7 (2 of 2), from its checkpoint at step 1,234 on"
    assert resumed[1].startswith("compiling")
    over = told(_Trainer(1234, finished=True), monkeypatch, compiled=True).phases
    assert over == ["reading seed 7 (2 of 2), trained before"]


def test_the_longest_prompt_is_of_what_is_retrieved_from() -> None:
    assert longest_prompt((stage(1, longest=900), stage(1, "retrieval", 300), stage(1, "retrieval", 200))) == 300
    assert (longest_prompt(EMBEDDED), longest_prompt(MINIATURE)) == (4096, 112)
