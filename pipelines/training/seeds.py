"""One model of a training: trained from one seed, or gone on with, and put into a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from pipelines.training.head_study import remove_head_set
from pipelines.training.material import Material
from pipelines.training.observer import TrainingObserver
from pipelines.training.settings import TrainEmbeddedSettings
from qrcore.errors import ModelError
from qrcore.models import quiet_transformers
from qrcore.training.curriculum import Stage
from qrcore.training.model import build_model
from qrcore.training.progress import Progress
from qrcore.training.trainer import Trainer, TrainingSettings

_CHECKPOINT: Final = "checkpoint.pt"
_MODEL: Final = "model"
#: transformers writes these along; a resumed training would write another folder than one that never stopped.
_HOW_TOKENIZER_WAS_READ: Final = ("is_local", "local_files_only")


@dataclass(frozen=True, slots=True)
class SeedRun:
    """One trained model: its folder, totals, stages and curve."""

    seed: int
    folder: str
    parameters: int
    stages: tuple[Progress, ...]
    history: tuple[Progress, ...]


def train_seed(settings: TrainEmbeddedSettings, material: Material, seed: int, observer: TrainingObserver) -> SeedRun:
    """Train the model of ``seed``, from its checkpoint on where there is one.

    Raises TrainingError if it does not learn, ModelError if its weights are not finite in float16.
    """
    chosen = TrainingSettings(
        tuple(settings.stages), seed, settings.parts, settings.compiled, material.subject, settings.taught
    )
    # Other settings have another folder: nothing is overwritten, and going back to them goes on with them.
    folder = Path(settings.work) / f"{settings.name}-seed-{seed}-{chosen.hash[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    model = build_model(settings.shape, material.tokenizer, seed, material.scales)
    torch.nn.Module.to(model, settings.device)
    trainer = Trainer(model, material.induction, material.retrieval, chosen)
    _train(trainer, settings, seed, folder / _CHECKPOINT, observer)
    _save(model, material.tokenizer, folder / _MODEL)
    parameters = sum(weight.numel() for weight in model.parameters())
    return SeedRun(seed, str(folder / _MODEL), parameters, trainer.completed, trainer.history)


def share_done(stages: Sequence[Stage], progress: Progress) -> float:
    """Which part of the stages' tokens is behind, 0 to 1; a stage that goes on until its gate stands still."""
    before = sum(stage.tokens for stage in stages[: progress.stage_number])
    here = sum(min(progress.stage_tokens, stage.tokens) for stage in stages[progress.stage_number :][:1])
    return (before + here) / max(1, sum(stage.tokens for stage in stages))


def _train(
    trainer: Trainer, settings: TrainEmbeddedSettings, seed: int, checkpoint: Path, observer: TrainingObserver
) -> None:
    if checkpoint.exists():
        trainer.load(checkpoint)
    which = f"seed {seed} ({settings.seeds.index(seed) + 1} of {len(settings.seeds)})"
    if trainer.finished:
        observer.phase(f"reading {which}, trained before")
        return
    steps = trainer.progress.steps
    observer.phase(f"training {which}" + f", from its checkpoint at step {steps:,} on" * bool(steps))
    if settings.compiled:
        observer.phase("compiling, which takes a minute or two before the first step")

    def tell(progress: Progress) -> None:
        share = 1.0 if trainer.finished else min(0.99, share_done(settings.stages, progress))
        observer.progress(seed, progress, share)

    trainer.train(tell, checkpoint, settings.save_every_s)


def _save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    torch.nn.Module.to(model, device="cpu", dtype=torch.float16)
    if not all(bool(torch.isfinite(weight).all()) for weight in model.parameters()):
        raise ModelError("trained weights: expected finite float16 values, some overflow. Train with a lower rate.")
    with quiet_transformers():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder, save_jinja_files=False)
    written = folder / "tokenizer_config.json"
    config = json.loads(written.read_text(encoding="utf-8"))
    # Only in the file: texts to train on may be longer.
    config["model_max_length"] = model.config.max_position_embeddings
    kept = {name: value for name, value in config.items() if name not in _HOW_TOKENIZER_WAS_READ}
    written.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    remove_head_set(str(folder))
