"""What a training is told: data, recipe, measurements, and where things lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipelines.storage import StorageOptions
from pipelines.training.study import EvaluationSettings
from qrcore.errors import ConfigError
from qrcore.training.curriculum import CURRICULA, Stage
from qrcore.training.model import ModelShape
from qrcore.training.teaching import TaughtHeads


@dataclass(frozen=True, slots=True)
class TrainEmbeddedSettings:
    """What to train on, what to train and measure, and where the model goes.

    ``texts``: files with a column ``text`` and, if known, ``source`` and ``licence``; ``questions``: files with
    ``group``, ``paragraph``, ``question`` and ``answer_sentence``, under ``question_licence``; ``output``: the model
    folder; ``work``: a local folder of checkpoints, saved every ``save_every_s`` seconds, from which the same settings
    go on. One model is trained for each of ``seeds``; texts and tokenizer are the same for all. ``parts`` of each step
    are worked on at the same time, each on one CPU thread.
    """

    texts: tuple[str, ...]
    output: str
    work: str
    questions: tuple[str, ...] = ()
    question_licence: str = "not stated"
    characters_per_family: int = 12_000_000
    choice_seed: int = 0
    name: str = "embedded"
    notes: tuple[str, ...] = ()
    curriculum: str = "embedded"
    shape: ModelShape = field(default_factory=ModelShape)
    taught: TaughtHeads | None = None
    evaluation: EvaluationSettings | None = None
    vocabulary: int = 4096
    seeds: tuple[int, ...] = (0,)
    parts: int = 2
    compiled: bool = False
    device: str = "cpu"
    save_every_s: float = 60.0
    storage: StorageOptions = field(default_factory=StorageOptions)

    @property
    def stages(self) -> Sequence[Stage]:
        """The curriculum's stages. Raises ConfigError for an unknown one."""
        if self.curriculum not in CURRICULA:
            known = ", ".join(CURRICULA)
            raise ConfigError(f"curriculum: expected one of {known}; got {self.curriculum!r}. Choose one of these.")
        return CURRICULA[self.curriculum]
