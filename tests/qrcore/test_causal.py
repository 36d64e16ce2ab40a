"""Held-back heads and what is lost without them; control sets."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from qrcore.causal import copy_accuracy, draw_controls
from qrcore.contracts.copy_detector import CopyTrial
from qrcore.errors import ScoreError
from qrcore.heads import Head, ModelShape, all_heads
from qrcore.models import LanguageModel, load_language_model, open_model
from qrcore.records import Span
from qrcore.training.probing import load_probed_model, masking_gate, next_token_log_probabilities

HEADS = all_heads(ModelShape(layers=3, query_heads=4, kv_heads=4)).head_list
PROMPT = tuple(torch.randint(10, 300, (80,), generator=torch.Generator().manual_seed(1)).tolist())


@cache
def _model() -> LanguageModel:
    return load_language_model(open_model("embedded"), device="cpu", dtype="float32")


# Control sets


def test_controls_are_other_heads_of_the_same_or_later_layers() -> None:
    chosen = (Head(1, 0), Head(1, 2))
    found = draw_controls(chosen, HEADS, 12, seed=0)
    assert len(set(map(frozenset, found))) == len(found) == 12
    for heads in found:
        assert len(set(heads)) == 2
        assert not set(heads) & set(chosen)
        assert min(head.layer for head in heads) >= 1
    assert {head.layer for heads in found for head in heads} == {1, 2}
    assert draw_controls(chosen, HEADS, 12, seed=0) == found
    assert draw_controls(chosen, HEADS, 12, seed=1) != found


def test_all_sets_are_taken_where_there_are_few() -> None:
    found = draw_controls((Head(2, 0), Head(2, 1), Head(1, 3)), HEADS, 20, seed=0)
    assert len(found) == 10, "3 of the 5 others"
    assert draw_controls((Head(2, 0), Head(2, 1), Head(2, 2)), HEADS, 20, seed=0) == []


# What is lost


def test_accuracy_is_that_of_one_next_token_after_the_other() -> None:
    probed = load_probed_model(open_model("embedded").path)
    shares = set()
    for masked in ((), (Head(1, 0), Head(1, 3), Head(3, 2))):
        gate = masking_gate(_model().decoder.source.shape, masked)
        for span in (Span(3, 9), Span(30, 34), Span(60, 70)):
            # The needle has stood at the end once before: a model that copies goes on with it.
            trial = CopyTrial((*PROMPT, *PROMPT[: span.start]), span)
            right = []
            for place, token in enumerate(trial.needle_ids):
                ids = [*trial.prompt_ids, *trial.needle_ids[:place]]
                right.append(int(next_token_log_probabilities(probed, ids, gate).argmax()) == token)
            found = copy_accuracy(_model(), trial, masked)
            assert found.copied == pytest.approx(sum(right) / len(right)) and found.answered is None
            shares.add(found.copied)
    assert len(shares) > 2


def test_what_is_given_of_the_answer_is_asked_for_apart() -> None:
    probed = load_probed_model(open_model("embedded").path)
    best = int(next_token_log_probabilities(probed, PROMPT).argmax())
    for given, answered in (((best,), True), ((best + 1,), False), ((), None)):
        found = copy_accuracy(_model(), CopyTrial(PROMPT, Span(3, 9), given))
        assert found.answered is answered
        right = [
            int(next_token_log_probabilities(probed, [*PROMPT, *given, *PROMPT[3:place]]).argmax()) == PROMPT[place]
            for place in range(3, 9)
        ]
        assert found.copied == pytest.approx(sum(right) / 6)


def test_trials_that_are_too_long() -> None:
    limit = _model().decoder.source.max_tokens
    with pytest.raises(ScoreError, match=f"at most {limit} tokens") as caught:
        copy_accuracy(_model(), CopyTrial((10,) * limit, Span(3, 9)))
    assert caught.value.code == "context_too_long"
