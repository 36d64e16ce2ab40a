"""The training loop: gates, resuming, refusals."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from qrcore.errors import ConfigError, InputError, TrainingError
from qrcore.training.curriculum import Stage
from qrcore.training.model import InitialScales, ModelShape, build_model
from qrcore.training.samples import InductionTask
from qrcore.training.teaching import TaughtHeads
from qrcore.training.trainer import Trainer, TrainingSettings
from tests.qrcore.training.tiny import Vocabulary

_VOCABULARY = 64


def _trainer(
    stages: tuple[Stage, ...], parts: int = 1, subject: str = "", taught: TaughtHeads | None = None
) -> Trainer:
    shape = ModelShape(hidden=32, layers=2, heads=4, kv_heads=4, head_size=8, feed_forward=64)
    model = build_model(shape, Vocabulary(_VOCABULARY), 0, InitialScales(copying=1.0))  # type: ignore[arg-type]
    settings = TrainingSettings(stages, parts=parts, subject=subject, taught=taught)
    return Trainer(model, InductionTask(np.arange(8, _VOCABULARY), 1), None, settings)


def _copying(tokens: int, gate: float | None = None, max_tokens: int = 0) -> Stage:
    return Stage("induction", "induction", (32, 32), tokens, 1024, (6e-3, 6e-3), gate=gate, max_tokens=max_tokens)


def test_resuming_gives_the_same_weights_as_never_stopping(tmp_path: Path) -> None:
    stages = (_copying(6_000), _copying(1_000_000))
    whole, first, second = (_trainer(stages, parts=2) for _ in range(3))
    whole.train(max_steps=50)
    first.train(checkpoint=tmp_path / "checkpoint.pt", max_steps=23)
    second.train(checkpoint=tmp_path / "checkpoint.pt", max_steps=27)
    assert second.progress.steps == whole.progress.steps == 50
    assert [p.tokens for p in second.completed] == [p.tokens for p in whole.completed]
    assert [(p.steps, p.loss) for p in second.history] == [(p.steps, p.loss) for p in whole.history]
    assert [p.steps for p in whole.history] == [whole.completed[0].steps, 20, 40]
    for one, other in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    _trainer((_copying(5_000),)).train(checkpoint=tmp_path / "checkpoint.pt", max_steps=1)
    with pytest.raises(InputError, match="expected settings"):
        _trainer((_copying(6_000),)).train(checkpoint=tmp_path / "checkpoint.pt")


def test_a_checkpoint_of_other_texts_is_refused_and_one_with_other_parts_goes_on(tmp_path: Path) -> None:
    _trainer((_copying(5_000),), subject="one").train(checkpoint=tmp_path / "checkpoint.pt", max_steps=1)
    with pytest.raises(InputError, match="expected settings"):
        _trainer((_copying(5_000),), subject="other").train(checkpoint=tmp_path / "checkpoint.pt")
    again = _trainer((_copying(5_000),), parts=2, subject="one")
    again.train(checkpoint=tmp_path / "checkpoint.pt", max_steps=1)
    assert again.progress.steps == 2


def test_a_gate_that_is_not_reached_stops_training() -> None:
    with pytest.raises(TrainingError, match=r"expected copy accuracy above 0\.9 .* Try another seed"):
        _trainer((_copying(2_000, gate=0.9, max_tokens=4_000),)).train()


def test_a_loss_that_is_no_number_stops_training_at_once(tmp_path: Path) -> None:
    trainer = _trainer((_copying(100_000),))
    trainer.train(checkpoint=tmp_path / "checkpoint.pt", max_steps=2)
    trainer.model.get_input_embeddings().weight.data.fill_(float("nan"))
    with pytest.raises(TrainingError, match="expected a finite loss, got nan at step 3"):
        trainer.train()
    assert trainer.progress.steps == 2


def test_retrieval_stages_need_text() -> None:
    with pytest.raises(ConfigError, match="expected text"):
        _trainer((Stage("retrieval", "retrieval", (64, 64), 1, 1, (1e-3, 1e-3)),))


@pytest.mark.parametrize(
    ("taught", "message"),
    [
        (TaughtHeads(layer=2, heads=1), "expected a layer below 2, got 2"),
        (TaughtHeads(layer=1, heads=5, marking_heads=0), "expected at most 4 heads .* got 5 that retrieve and 0"),
        (TaughtHeads(layer=1, heads=3, marking_heads=2), "expected at most 4 heads .* got 3 that retrieve and 2"),
        (TaughtHeads(layer=1, heads=1, marking_heads=3), "expected at most 4 heads .* got 1 that retrieve and 3"),
    ],
)
def test_heads_that_the_model_lacks_or_that_would_look_at_two_places_cannot_be_taught(
    taught: TaughtHeads, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        _trainer((_copying(5_000),), taught=taught)


def test_every_head_of_a_layer_may_be_taught_something_and_upper_layers_may_be_missing() -> None:
    trainer = _trainer((_copying(5_000),), taught=TaughtHeads(layer=1, heads=2, marking_heads=2))
    assert trainer.model.config.num_hidden_layers == 2


def test_a_trainer_that_has_begun_does_not_go_back_to_its_checkpoint(tmp_path: Path) -> None:
    trainer = _trainer((_copying(100_000),))
    trainer.train(checkpoint=tmp_path / "checkpoint.pt", max_steps=2)
    trainer.train(max_steps=3)
    trainer.train(checkpoint=tmp_path / "checkpoint.pt", max_steps=1)
    assert trainer.progress.steps == 6


def test_what_was_begun_on_a_gpu_goes_on_on_a_cpu(tmp_path: Path) -> None:
    _trainer((_copying(100_000),)).train(checkpoint=tmp_path / "cpu.pt", max_steps=2)
    with zipfile.ZipFile(tmp_path / "cpu.pt") as own, zipfile.ZipFile(tmp_path / "gpu.pt", "w") as other:
        for name in own.namelist():
            # Where a tensor lay is a word of the pickle: its length, then its letters.
            other.writestr(name, own.read(name).replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"))
    again = _trainer((_copying(100_000),))
    again.train(checkpoint=tmp_path / "gpu.pt", max_steps=1)
    assert again.progress.steps == 3
