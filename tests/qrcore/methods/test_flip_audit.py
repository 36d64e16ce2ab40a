"""Flip audit: cases and rates on planted rows, verdicts against one pass after the other, and what heads look at."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from typing import Any, Final

import pytest
import torch

from qrcore.attention.gate import uniform
from qrcore.attention.logits import next_token_logits
from qrcore.attention.top_keys import read_top_keys
from qrcore.contracts.auditor import FlipTrial, FollowUp, Verdict, case_of, count_cases, rank_heads
from qrcore.errors import ConfigError, ScoreError
from qrcore.heads import Head
from qrcore.loading import load_method
from qrcore.methods.flip_audit import FlipAudit, FlipSettings, flip_rates
from qrcore.models import LanguageModel, load_language_model, open_model
from qrcore.records import Span

SETTINGS: Final = FlipSettings(yes_ids=(100, 101), no_ids=(200,), looked_at=1)
HEADS: Final = (Head(1, 0), Head(2, 4))


@cache
def _model() -> LanguageModel:
    return load_language_model(open_model("embedded-gqa"), device="cpu", dtype="float32")


def _trial() -> FlipTrial:
    ids = torch.randint(10, 4000, (60,), generator=torch.Generator().manual_seed(3)).tolist()
    return FlipTrial(
        tuple(ids[:40]), (FollowUp(tuple(ids[40:52]), Span(3, 6)), FollowUp(tuple(ids[52:60]), Span(0, 7)))
    )


def _verdict(yes: float, no: float) -> Verdict:
    return Verdict(yes, no, 0.0, 0.0, coherent=True)


# Verdicts


def test_verdicts_are_what_the_model_says_after_both_turns() -> None:
    trial = _trial()
    found = FlipAudit(SETTINGS).verdicts(_model(), trial, [(), HEADS, (Head(4, 1),)])
    assert [len(of_mask) for of_mask in found] == [2, 2, 2]
    for mask, of_mask in zip(((), HEADS, (Head(4, 1),)), found, strict=True):
        for asked, verdict in zip(trial.follow_ups, of_mask, strict=True):
            ids = [*trial.first_turn, *asked.ids]
            logits = next_token_logits(_model().model, ids, 1, uniform(mask))[0]
            chances = logits.double().softmax(-1)
            assert verdict.p_yes == pytest.approx(float(chances[100] + chances[101]), rel=1e-3)
            assert verdict.p_no == pytest.approx(float(chances[200]), rel=1e-3)
            assert verdict.logit_margin == pytest.approx(float(max(logits[100], logits[101]) - logits[200]), abs=1e-3)
            assert verdict.entropy == pytest.approx(float(-(chances * chances.log()).sum()), rel=1e-3)
            assert verdict.flipped == (verdict.p_no > verdict.p_yes)
    assert found[0][0].p_yes != found[1][0].p_yes != found[2][0].p_yes


def test_an_empty_mask_leaves_everything_to_the_bit() -> None:
    audit = FlipAudit(SETTINGS)
    (plain,) = audit.verdicts(_model(), _trial())
    assert audit.verdicts(_model(), _trial(), [(), ()]) == [plain, plain]


def test_coherent_is_yes_or_no_among_the_likeliest() -> None:
    asked = _trial().follow_ups[0]
    logits = next_token_logits(_model().model, [*_trial().first_turn, *asked.ids], 1)[0]
    order = logits.argsort(descending=True).tolist()
    for rank, coherent in ((4, True), (5, False)):
        settings = FlipSettings(yes_ids=(order[rank],), no_ids=(order[50],))
        assert FlipAudit(settings).verdicts(_model(), _trial())[0][0].coherent is coherent


def test_heads_look_at_the_options_if_their_top_keys_lie_there() -> None:
    found = FlipAudit(SETTINGS).looks(_model(), _trial())
    for asked, looks in zip(_trial().follow_ups, found, strict=True):
        top = read_top_keys(_model().decoder.model, [*_trial().first_turn, *asked.ids], 1)[..., 0]
        options = range(40 + asked.options.start, 40 + asked.options.stop)
        assert looks == {Head(layer, head): int(top[layer, head]) in options for layer in range(6) for head in range(8)}
    assert any(found[1].values()) and not all(found[1].values())
    more = FlipAudit(replace(SETTINGS, looked_at=20)).looks(_model(), _trial())
    assert sum(more[0].values()) > sum(found[0].values())


# Cases


def test_cases_and_their_union() -> None:
    assert [
        case_of(flipped, looks) for flipped, looks in ((True, True), (False, False), (True, False), (False, True))
    ] == [
        1,
        2,
        3,
        4,
    ]
    goes_with, against, always = Head(0, 0), Head(0, 1), Head(0, 2)
    rows = [(flipped, {goes_with: flipped, against: not flipped, always: True}) for flipped in (True, False, False)]
    counts = count_cases(rows)
    assert counts[goes_with] == Counter({1: 1, 2: 2}) and counts[against] == Counter({3: 1, 4: 2})
    assert rank_heads(counts) == [(goes_with, 1.0), (always, pytest.approx(1 / 3)), (against, 0.0)]
    tied = count_cases([(True, {Head(2, 0): True, Head(1, 5): True})])
    assert [head for head, _ in rank_heads(tied)] == [Head(1, 5), Head(2, 0)]


def test_rates_by_hand() -> None:
    rows = [
        (True, _verdict(0.75, 0.25)),
        (True, _verdict(0.1, 0.3)),
        (False, _verdict(0.1, 0.5)),
        (False, _verdict(0.5, 0.0)),
    ]
    found = flip_rates(rows)
    assert (found.rows, found.yes_correct, found.yes_wrong, found.accuracy) == (4, 0.5, 0.5, 0.5)
    # Of the four pairs, 0.5 beats -0.4 and ties with 0.5; -0.2 beats -0.4 and loses to 0.5.
    assert found.auroc == pytest.approx(2.5 / 4)
    assert flip_rates([(True, _verdict(0.6, 0.2))]).auroc is None
    assert flip_rates([]).accuracy is None and flip_rates([]).yes_wrong is None


# What is refused


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [((), (5, 6), "empty_query"), ((5, 6), (), "empty_query"), ((5,) * 4090, (6,) * 10, "context_too_long")],
)
def test_turns_that_cannot_be_read(first: tuple[int, ...], second: tuple[int, ...], code: str) -> None:
    for ask in (FlipAudit(SETTINGS).verdicts, FlipAudit(SETTINGS).looks):
        with pytest.raises(ScoreError) as caught:
            ask(_model(), FlipTrial(first, (FollowUp(second, Span(0, 1)),)))
        assert caught.value.code == code
    with pytest.raises(ScoreError):
        FlipAudit(SETTINGS).verdicts(_model(), FlipTrial((5,), ()))


@pytest.mark.parametrize(
    "settings",
    [{"yes_ids": ()}, {"no_ids": (100,)}, {"mask_mode": "bias"}, {"looked_at": 0}],
)
def test_settings_that_no_verdict_can_be_read_with(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        replace(SETTINGS, **settings)


def test_settings_stand_with_results() -> None:
    told = load_method("flip_audit").build(yes_ids=(100, 101), no_ids=(200,), looked_at=1).settings
    assert told == {"mask_mode": "uniform", "mask_scope": "all", "yes_ids": [100, 101], "no_ids": [200], "looked_at": 1}
