"""Samples: blocks that do not see one another, padding, and the simplest task."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import torch

from qrcore.training.queries import QueryMix
from qrcore.training.retrieval import RetrievalShape, RetrievalTask
from qrcore.training.samples import (
    COPY,
    NO_DOCUMENT,
    NO_SOURCE,
    InductionTask,
    Sample,
    collate,
    visibility,
)  # fmt: skip


def test_question_blocks_see_the_documents_and_themselves_only() -> None:
    blocks = torch.tensor([[0, 0, 1, 1, 2, 2, -1]])
    visible = visibility(blocks)[0, 0].int().tolist()
    assert visible[3] == [1, 1, 1, 1, 0, 0, 0]
    assert visible[5] == [1, 1, 0, 0, 1, 1, 0]
    assert visible[1] == [1, 1, 0, 0, 0, 0, 0]


def test_padding_is_seen_by_no_token_and_counts_for_nothing(task: RetrievalTask) -> None:
    shape = RetrievalShape(256, 256, QueryMix())
    samples = [task.sample(np.random.default_rng(seed), shape) for seed in range(2)]
    short, long = sorted(samples, key=len)
    batch = collate([short, long], pad_id=0)
    assert batch.ids.shape == (2, len(long))
    assert batch.tokens == len(short) + len(long)
    assert not batch.visible[0, 0, : len(short), len(short) :].any()
    for field in fields(Sample):
        padded = getattr(batch, field.name)
        assert padded[0, : len(short)].tolist() == getattr(short, field.name).tolist()
        assert padded[1].tolist() == getattr(long, field.name).tolist()
    assert not batch.weights[0, len(short) :].any()
    for marks in (batch.documents, batch.marks, batch.sentences, batch.asked, batch.asked_sentences):
        assert (marks[0, len(short) :] == NO_DOCUMENT).all()


def test_induction_weighs_only_what_can_be_copied() -> None:
    sample = InductionTask(np.arange(10, 200), bos_id=1).sample(np.random.default_rng(3), length=64)
    seen: set[tuple[int, int]] = set()
    for place in range(1, 64):
        pair = (int(sample.ids[place - 1]), int(sample.ids[place]))
        if sample.weights[place]:
            assert pair in seen
            assert sample.roles[place] == COPY
        seen.add(pair)
    assert len(sample) == 64
    assert sample.weights.sum() >= 16
    for marks in (sample.documents, sample.marks, sample.sentences, sample.asked, sample.asked_sentences):
        assert marks.tolist() == [NO_DOCUMENT] * 64
    assert sample.sources.tolist() == [NO_SOURCE] * 64


def test_where_tokens_repeat_induction_weighs_what_the_three_tokens_before_tell() -> None:
    task, rng = InductionTask(np.arange(10, 200), bos_id=1), np.random.default_rng(4)
    told_by_one, weighed = 0, 0
    for _ in range(20):
        sample = task.sample(rng, 64, repeating=True)
        ids = tuple(sample.ids.tolist())
        for place in np.flatnonzero(sample.weights):
            before = [ids[start : start + 4] for start in range(1, place - 3)]
            assert ids[place - 3 : place + 1] in before
            followers = {ids[at + 1] for at in range(1, place - 1) if ids[at] == ids[place - 1]}
            told_by_one += followers == {ids[place]}
            weighed += 1
    assert weighed > 200
    assert told_by_one < 0.8 * weighed, "one token before is not enough"
