"""Copying heads: exact on hand-built attention, and equal to reading every step of a real decoder."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qrcore.attention.top_keys import read_top_keys
from qrcore.contracts.copy_detector import CopyOutcome, CopyTrial
from qrcore.copying import copied_share, token_recall
from qrcore.decode import Decoded
from qrcore.errors import ConfigError, ScoreError
from qrcore.methods import copy as copying
from qrcore.methods.copy import CopyScore
from qrcore.models import LanguageModel, load_language_model, open_model
from qrcore.records import Span
from tests.qrcore.golden import FAMILIES, FOLDER


@cache
def _model(family: str = "llama") -> LanguageModel:
    return load_language_model(open_model(str(FOLDER / "models" / family)), device="cpu", dtype="float32")


def _random_ids(seed: int, length: int = 60, below: int = 300) -> list[int]:
    return torch.randint(10, below, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def _attentions(model: LanguageModel, ids: list[int]) -> torch.Tensor:
    """The model's own attention, ``[layer, head, query, key]``."""
    before = model.model.config._attn_implementation
    model.model.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            output: Any = model.model(torch.tensor([ids]), output_attentions=True, use_cache=False)
    finally:
        model.model.set_attn_implementation(before)
    return torch.stack([layer[0] for layer in output.attentions])


# Hand-built attention


def test_a_step_copies_if_the_top_key_is_in_the_needle_and_holds_the_generated_token() -> None:
    ids = [7, 1, 2, 3, 9, 1, 2, 3, 3]  # a needle [1 2 3] at 1, an answer [1 2 3 3] at 5
    top = torch.tensor([[1, 2, 3, 3], [1, 1, 1, 1], [5, 6, 7, 7], [3, 3, 3, 0], [0, 0, 0, 0]])
    shares = copied_share(top, ids, answer=Span(5, 9), needle=Span(1, 4))
    assert shares.tolist() == pytest.approx([4 / 3, 1 / 3, 0.0, 1 / 3, 0.0])


@given(st.data())
def test_shares_equal_a_plain_loop(data: st.DataObject) -> None:
    prompt = data.draw(st.lists(st.integers(0, 4), min_size=2, max_size=9))
    answer = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=6))
    start = data.draw(st.integers(0, len(prompt) - 1))
    needle = Span(start, data.draw(st.integers(start + 1, len(prompt))))
    ids = prompt + answer
    keys = [[data.draw(st.integers(0, len(prompt) + step - 1)) for step in range(len(answer))] for _ in range(3)]
    expected = [
        sum(needle.start <= key < needle.stop and ids[key] == token for key, token in zip(row, answer, strict=True))
        / (needle.stop - needle.start)
        for row in keys
    ]
    found = copied_share(torch.tensor(keys), ids, Span(len(prompt), len(ids)), needle)
    assert found.tolist() == pytest.approx(expected)


def test_recall_counts_tokens_with_multiplicity() -> None:
    assert token_recall([1, 1, 2], [1, 1, 1, 3]) == 0.5
    assert token_recall([], [1]) == 0.0


# Real attention


@pytest.mark.parametrize("family", FAMILIES)
def test_top_keys_are_those_of_the_models_own_attention(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = _model(family), _random_ids(1)
    weights = _attentions(model, ids)[:, :, -7:]
    found = read_top_keys(model.decoder.model, ids, rows=7)
    assert found.shape == weights.shape[:3]
    best = weights.max(dim=-1).values
    chosen = weights.gather(-1, found.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(chosen, best, rtol=0, atol=1e-6)
    assert (found == weights.argmax(dim=-1)).float().mean() > 0.99
    monkeypatch.setattr("qrcore.attention.top_keys._LOGITS_AT_ONCE", 150)
    assert torch.equal(read_top_keys(model.decoder.model, ids, rows=7), found)


@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_is_read_as_if_each_step_had_been_looked_at(family: str) -> None:
    model, ids = _model(family), _random_ids(2, length=80)
    trial = CopyTrial(tuple(ids), Span(10, 60))
    outcome = CopyScore("decode", max_new_tokens=12).outcomes(model, [trial])[0]
    assert isinstance(outcome, CopyOutcome) and len(outcome.answer_ids) == 12
    copied = torch.zeros_like(outcome.values)
    for token in outcome.answer_ids:
        keys = _attentions(model, ids)[:, :, -1].argmax(dim=-1)
        copied += torch.tensor([[10 <= key < 60 and ids[key] == token for key in row] for row in keys.tolist()])
        ids.append(token)
    assert torch.equal(outcome.values, copied / 50)


def test_both_ways_agree_where_the_model_answers_with_the_needle() -> None:
    """Needles of one token that the model happens to answer with."""
    model = _model()
    agreed = 0
    for seed in range(60):
        ids = _random_ids(seed, length=250, below=400)
        first = copying.decode_greedy(model.model, [ids], 1)[0].ids[0]
        if first in ids:
            trial = CopyTrial(tuple(ids), Span(ids.index(first), ids.index(first) + 1))
            ways = [CopyScore(way, 1).outcomes(model, [trial])[0] for way in ("decode", "teacher_forced")]  # type: ignore[arg-type]
            assert isinstance(ways[0], CopyOutcome) and isinstance(ways[1], CopyOutcome)
            assert ways[0].answer_ids == ways[1].answer_ids == (first,)
            assert ways[0].success and torch.equal(ways[0].values, ways[1].values)
            agreed += 1
    assert agreed >= 5


def test_both_ways_agree_for_a_decoder_that_answers_with_long_needles(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = [CopyTrial(tuple(_random_ids(seed)), Span(5 + seed, 20)) for seed in range(3)]
    monkeypatch.setattr(
        copying, "decode_greedy", lambda *_args: [Decoded(trial.needle_ids, ended=True) for trial in trials]
    )
    decoded, forced = (CopyScore(way, 20).outcomes(_model(), trials) for way in ("decode", "teacher_forced"))  # type: ignore[arg-type]
    for one, other in zip(decoded, forced, strict=True):
        assert isinstance(one, CopyOutcome) and isinstance(other, CopyOutcome)
        assert one.recall == other.recall == 1.0
        assert torch.equal(one.values, other.values)


def test_neighbours_do_not_matter() -> None:
    trials = [CopyTrial(tuple(_random_ids(seed, length)), Span(3, 9)) for seed, length in ((1, 40), (2, 90), (3, 12))]
    method = CopyScore("decode", max_new_tokens=6)
    together = method.outcomes(_model(), trials)
    alone = [method.outcomes(_model(), [trial])[0] for trial in trials]
    for one, other in zip(together, alone, strict=True):
        assert isinstance(one, CopyOutcome) and isinstance(other, CopyOutcome)
        assert one.answer_ids == other.answer_ids and torch.equal(one.values, other.values)


def test_a_given_beginning_of_the_answer_is_seen_and_not_counted() -> None:
    model, ids = _model(), _random_ids(4)
    trial = CopyTrial(tuple(ids), Span(20, 26), answer_prefix=(11, 12))
    outcome = CopyScore().outcomes(model, [trial])[0]
    assert isinstance(outcome, CopyOutcome)
    whole = [*ids, 11, 12, *ids[20:26]]
    keys = _attentions(model, whole[:-1])[:, :, -6:].argmax(dim=-1)
    assert torch.equal(outcome.values, copied_share(keys, whole, Span(len(whole) - 6, len(whole)), Span(20, 26)))


# What cannot be tried


def test_trials_that_cannot_be_read_come_back_in_their_places() -> None:
    good = CopyTrial(tuple(_random_ids(1)), Span(3, 9))
    long = CopyTrial((10,) * _model().decoder.source.max_tokens, Span(3, 9))
    empty = CopyTrial(tuple(_random_ids(1)), Span(9, 9))
    for method in (CopyScore(), CopyScore("decode", 3)):
        found = method.outcomes(_model(), [long, good, empty])
        assert [one.code if isinstance(one, ScoreError) else "read" for one in found] == [
            "context_too_long", "read", "no_needle",
        ]  # fmt: skip


def test_an_answer_that_ends_at_once_copies_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "decode_greedy", lambda *_args: [Decoded((), ended=True)])
    outcome = CopyScore("decode").outcomes(_model(), [CopyTrial(tuple(_random_ids(1)), Span(3, 9))])[0]
    assert isinstance(outcome, CopyOutcome)
    assert not outcome.success and outcome.values.abs().sum() == 0
    assert outcome.values.shape == (4, 8)


def test_unknown_ways_to_answer() -> None:
    with pytest.raises(ConfigError, match="expected decode or teacher_forced"):
        CopyScore("guess")  # type: ignore[arg-type]
