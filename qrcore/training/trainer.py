"""The training loop: staged, gated on copy accuracy, resumable to the bit."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaForCausalLM

from qrcore.errors import ConfigError, InputError, TrainingError
from qrcore.training.attention import attach_training_attention
from qrcore.training.curriculum import Stage
from qrcore.training.loss import BatchOutcome, accuracies, run_batch
from qrcore.training.progress import Progress, StepResult
from qrcore.training.retrieval import RetrievalShape, RetrievalTask
from qrcore.training.samples import Batch, InductionTask, Sample, collate, pad_id_of
from qrcore.training.teaching import TaughtHeads

_HISTORY_STEPS = 20
_TRY_THIS = "Try another seed (seeds=[…]), more text, or a curriculum with lower rates."


@dataclass(frozen=True, slots=True)
class OptimiserSettings:
    """AdamW, its decay (of matrices only), gradient clipping, and the steps over which the rate first rises.

    ``epsilon`` lies between the gradients of embeddings that are used (1e-4 and more) and those of tokens that do not
    occur, which the softmax pushes all one way. Scaled up to full steps, that push turns rare tokens into ones that
    whole layers attend to.
    """

    betas: tuple[float, float] = (0.9, 0.98)
    epsilon: float = 1e-5
    weight_decay: float = 0.01
    clip: float = 1.0
    warmup_steps: int = 40


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """Everything that, with the data and the first weights, decides the trained weights.

    ``parts``: each step's samples are split into so many parts that are worked on at the same time. On a CPU this
    scales better than threads inside operations, which wait for one another after each. ``compiled``: layers are
    compiled, which needs a C++ compiler and a minute, and then saves two fifths of the time on a CPU. ``subject``: a
    hash of what the caller chose besides, such as texts, tokenizer and shape; a checkpoint of another one is refused.
    ``taught``: heads whose attention has a loss of its own in retrieval stages.
    """

    stages: tuple[Stage, ...]
    seed: int = 0
    parts: int = 2
    compiled: bool = False
    subject: str = ""
    taught: TaughtHeads | None = None
    optimiser: OptimiserSettings = dataclasses.field(default_factory=OptimiserSettings)

    @property
    def hash(self) -> str:
        """SHA-256, hexadecimal, of all that changes the weights by more than rounding: not ``parts``, ``compiled``."""
        facts = dataclasses.asdict(self)
        for name in ("parts", "compiled"):
            del facts[name]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class Trainer:
    """Trains one model through the stages.

    Samples depend on seed, stage and step alone, so a resumed run equals an uninterrupted one bit for bit on the same
    machine with the same number of threads. Nothing is printed; devices and threads are the caller's choice.
    """

    def __init__(
        self,
        model: LlamaForCausalLM,
        induction: InductionTask,
        retrieval: RetrievalTask | None,
        settings: TrainingSettings,
    ) -> None:
        _check(settings, retrieval, model)
        self.model = model
        self._parameters = list(model.parameters())
        self._induction = induction
        self._retrieval = retrieval
        self._settings = settings
        self._optimiser = _optimiser(model, settings.optimiser)
        self._completed: list[Progress] = []
        self._history: list[Progress] = []
        self.progress = Progress()
        attach_training_attention(model)
        if settings.compiled:
            _compile(model)

    @property
    def completed(self) -> tuple[Progress, ...]:
        """The last state of each finished stage."""
        return tuple(self._completed)

    @property
    def history(self) -> tuple[Progress, ...]:
        """The state every few steps and at the end of each stage, for a curve."""
        return tuple(self._history)

    @property
    def finished(self) -> bool:
        """Whether every stage is done."""
        return self.progress.stage_number == len(self._settings.stages)

    def train(
        self,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        checkpoint: Path | None = None,
        save_every_s: float = 60.0,
        max_steps: int | None = None,
    ) -> None:
        """Train until every stage is done, or for `max_steps` more steps; calls `on_progress` after each.

        A trainer that has not begun yet goes on from `checkpoint` where that file exists; it saves to it now and then.
        Raises TrainingError if a stage's gate is not passed within its ``max_tokens`` or a loss is not finite,
        InputError if the checkpoint belongs to other settings.
        """
        if checkpoint and checkpoint.exists() and not self.progress.steps:
            self.load(checkpoint)
        stop_at = None if max_steps is None else self.progress.steps + max_steps
        self.model.train()
        saved = time.monotonic()
        with ThreadPoolExecutor(self._settings.parts) as pool:
            while not self.finished and self.progress.steps != stop_at:
                on_progress(self._step(pool))
                if checkpoint and time.monotonic() - saved > save_every_s:
                    self.save(checkpoint)
                    saved = time.monotonic()
        if checkpoint:
            self.save(checkpoint)
        self.model.eval()

    def save(self, path: Path) -> None:
        """Write a checkpoint; an older one is replaced only when the new one is whole."""
        state = {
            "settings": self._settings.hash,
            "progress": dataclasses.asdict(self.progress),
            "completed": [dataclasses.asdict(progress) for progress in self._completed],
            "history": [dataclasses.asdict(progress) for progress in self._history],
            "model": self.model.state_dict(),
            "optimiser": self._optimiser.state_dict(),
        }
        unfinished = path.with_suffix(".part")
        torch.save(state, unfinished)
        unfinished.replace(path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint. Raises InputError if it was written with other settings."""
        state = torch.load(path, map_location=self.model.device, weights_only=True)
        if state["settings"] != self._settings.hash:
            raise InputError(
                f"checkpoint {path}: expected settings {self._settings.hash[:12]}, it was written with "
                f"{state['settings'][:12]}. Train with its settings, or choose another work folder."
            )
        self.progress = Progress(**state["progress"])
        self._completed = [Progress(**progress) for progress in state["completed"]]
        self._history = [Progress(**progress) for progress in state["history"]]
        self.model.load_state_dict(state["model"])
        self._optimiser.load_state_dict(state["optimiser"])

    def _step(self, pool: ThreadPoolExecutor) -> Progress:
        started = time.monotonic()
        stage = self._settings.stages[self.progress.stage_number]
        _set_learning_rate(self._optimiser, _learning_rate(stage, self.progress, self._settings.optimiser))
        result = self._train_on(self._batches(stage), pool)
        reached = self.progress.after(stage.name, result, time.monotonic() - started)
        over = _is_over(stage, reached)
        if over or reached.steps % _HISTORY_STEPS == 0:
            self._history.append(reached)
        if over:
            self._completed.append(reached)
        self.progress = reached.next_stage() if over else reached
        return reached

    def _batches(self, stage: Stage) -> list[Batch]:
        rng = np.random.default_rng((self._settings.seed, self.progress.stage_number, self.progress.stage_steps))
        # All samples of a step have about one length, so that little is padding.
        length = int(rng.integers(stage.lengths[0], stage.lengths[1] + 1))
        count = max(1, stage.tokens_per_step // length)
        samples = [self._sample(stage, rng, length) for _ in range(count)]
        parts = min(self._settings.parts, count)
        return [collate(samples[first::parts], pad_id_of(self.model)) for first in range(parts)]

    def _sample(self, stage: Stage, rng: np.random.Generator, length: int) -> Sample:
        if self._retrieval is None or stage.task == "induction":
            return self._induction.sample(rng, length, repeating=bool(rng.random() < stage.repeating))
        shape = RetrievalShape(
            length=length,
            position_span=max(stage.position_span, length),
            mix=stage.mix,
            permuted=_between(stage.permuted, self.progress.stage_share(stage.tokens)),
            largest=stage.largest,
            skipping=stage.skipping,
        )
        return self._retrieval.sample(rng, shape)

    def _train_on(self, batches: Sequence[Batch], pool: ThreadPoolExecutor) -> StepResult:
        total = sum(float(batch.weights[:, 1:].sum()) for batch in batches)
        parts = list(pool.map(lambda batch: self._gradients(batch, total), batches))
        outcomes = [outcome for _, outcome in parts]
        loss = sum(float(outcome.loss.detach()) for outcome in outcomes) / total
        if not math.isfinite(loss):
            raise TrainingError(
                f"training: expected a finite loss, got {loss} at step {self.progress.steps + 1}. {_TRY_THIS}"
            )
        self._descend([gradients for gradients, _ in parts])
        return StepResult(sum(batch.tokens for batch in batches), loss, accuracies(outcomes))

    def _descend(self, parts: Sequence[tuple[torch.Tensor, ...]]) -> None:
        for parameter, *gradients in zip(self._parameters, *parts, strict=True):
            parameter.grad = sum(gradients[1:], start=gradients[0])
        torch.nn.utils.clip_grad_norm_(self._parameters, self._settings.optimiser.clip)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)

    def _gradients(self, batch: Batch, total: float) -> tuple[tuple[torch.Tensor, ...], BatchOutcome]:
        outcome = run_batch(self.model, batch, self._settings.taught)
        # Returned, not accumulated in place: several threads work on one model.
        return torch.autograd.grad(outcome.loss / total, self._parameters), outcome


def _check(settings: TrainingSettings, retrieval: RetrievalTask | None, model: LlamaForCausalLM) -> None:
    if not settings.stages:
        raise ConfigError("stages: expected at least one, got none. Choose a curriculum.")
    if retrieval is None and any(stage.task == "retrieval" for stage in settings.stages):
        raise ConfigError("stages: expected text for the retrieval stages, got none. Give texts or induction only.")
    if settings.taught:
        check_taught(settings.taught, model.config.num_hidden_layers, model.config.num_attention_heads)


def check_taught(taught: TaughtHeads, layers: int, heads: int) -> None:
    """Raise ConfigError unless a model of ``layers`` layers of ``heads`` query heads each can be taught so: the
    layer exists, and no head is to look at two places."""
    if taught.layer >= layers:
        raise ConfigError(f"taught heads: expected a layer below {layers}, got {taught.layer}. Choose a lower one.")
    if taught.heads + taught.marking_heads > heads or 2 * taught.marking_heads > heads:
        raise ConfigError(
            f"taught heads: expected at most {heads} heads in a layer for those that retrieve and those that mark "
            f"sentences together, and for twice those that mark; got {taught.heads} that retrieve and "
            f"{taught.marking_heads} that mark. Choose fewer."
        )


def _compile(model: LlamaForCausalLM) -> None:
    # Lengths differ from step to step: one compilation for all of them.
    for layer in model.model.layers:
        layer.compile(dynamic=True)


def _optimiser(model: LlamaForCausalLM, settings: OptimiserSettings) -> torch.optim.Optimizer:
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    others = [weight for weight in model.parameters() if weight.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=settings.betas, eps=settings.epsilon, fused=True)


def _set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate


def _learning_rate(stage: Stage, progress: Progress, settings: OptimiserSettings) -> float:
    warmup = min(1.0, (progress.steps + 1) / settings.warmup_steps)
    return warmup * _between(stage.learning_rates, progress.stage_share(stage.tokens))


def _between(ends: tuple[float, float], share: float) -> float:
    return ends[0] + share * (ends[1] - ends[0])


def _is_over(stage: Stage, progress: Progress) -> bool:
    if progress.stage_tokens < stage.tokens:
        return False
    if stage.gate is None or progress.copy_accuracy > stage.gate:
        return True
    if progress.stage_tokens >= stage.max_tokens:
        raise TrainingError(
            f"stage {stage.name}: expected copy accuracy above {stage.gate} within {stage.max_tokens} tokens, reached "
            f"{progress.copy_accuracy:.3f}. {_TRY_THIS}"
        )
    return False
