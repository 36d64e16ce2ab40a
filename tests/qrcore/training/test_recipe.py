"""The recipe in a miniature, both halves by themselves: copying emerges on random tokens, and taught heads learn to
find documents by their words. (Two layers and a minute do not suffice for one after the other.)"""

from __future__ import annotations

from statistics import fmean

import numpy as np

from qrcore.training.curriculum import Stage
from qrcore.training.loss import measure
from qrcore.training.model import InitialScales, ModelShape, build_model
from qrcore.training.passages import PassageBuilder
from qrcore.training.progress import Progress
from qrcore.training.queries import QueryMix, QueryWriter
from qrcore.training.retrieval import PromptTokens, RetrievalShape, RetrievalTask
from qrcore.training.samples import InductionTask, Sample
from qrcore.training.teaching import TaughtHeads
from qrcore.training.tokenizer import train_tokenizer
from qrcore.training.trainer import Trainer, TrainingSettings
from tests.qrcore.training.texts import texts

_TOKENIZER = train_tokenizer(texts(200), 1200)
_BUILDER = PassageBuilder(_TOKENIZER)
_PROMPT = PromptTokens(_TOKENIZER, _BUILDER)
_RANDOM = InductionTask(_PROMPT.ordinary[-150:], int(_TOKENIZER.bos_token_id))
_WORDS = QueryMix(question=0.0, words=1.0, span=0.0, removed=0.0, answered=0.0)


def _task(count: int, first: int) -> RetrievalTask:
    return RetrievalTask(_BUILDER.build(texts(count, first)), _PROMPT, QueryWriter(_BUILDER))


def _trainer(stage: Stage, taught: TaughtHeads | None = None) -> Trainer:
    shape = ModelShape(hidden=64, layers=2, heads=4, kv_heads=4, head_size=32, feed_forward=128)
    model = build_model(shape, _TOKENIZER, seed=0, scales=InitialScales(copying=1.0))
    return Trainer(model, _RANDOM, _task(200, 0), TrainingSettings((stage,), taught=taught))


def test_copying_emerges_after_a_long_time_in_a_short_one() -> None:
    stage = Stage("induction", "induction", (24, 32), 0, 1024, (6e-3, 6e-3), gate=0.6, max_tokens=1_500_000)
    trainer = _trainer(stage)
    seen: list[Progress] = []
    trainer.train(seen.append)
    copying = [progress.copy_accuracy for progress in seen]
    assert copying[len(copying) // 2] < 0.3
    assert copying[-1] > 0.6
    found = measure(trainer.model, [_RANDOM.sample(np.random.default_rng(10**6 + n), 32) for n in range(20)])
    assert found.copy is not None
    assert found.copy > 0.4
    assert found.index is None


def test_taught_heads_find_documents_that_they_never_saw() -> None:
    taught = TaughtHeads(layer=0, heads=2, marking_heads=0)
    stage = Stage("retrieval", "retrieval", (144, 176), 150_000, 1024, (5e-3, 1e-3), mix=_WORDS)
    trainer = _trainer(stage, taught)
    unknown, shape = _task(40, 5000), RetrievalShape(160, 160, _WORDS, null_queries=0.0)
    samples = [unknown.sample(np.random.default_rng(10**6 + n), shape) for n in range(40)]
    before = measure(trainer.model, samples, taught).heads
    trainer.train()
    after = measure(trainer.model, samples, taught).heads
    assert before is not None
    assert after is not None
    assert _chance(samples) < 0.5
    assert before < _chance(samples) + 0.1
    assert after > 0.85


def _chance(samples: list[Sample]) -> float:
    return fmean(1.0 / (1 + int(sample.documents.max())) for sample in samples for _ in range(int(sample.blocks.max())))
