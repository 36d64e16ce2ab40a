"""DeCoRe: the contrast's arithmetic, what zero gives, and streams against one pass after the other."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any, Final

import pytest
import torch

from qrcore.attention.gate import Gate, layer_gates, on_row
from qrcore.attention.logits import next_token_logits
from qrcore.contracts.generator import Generated
from qrcore.decode import decode_greedy
from qrcore.errors import ConfigError, ScoreError
from qrcore.heads import Head
from qrcore.loading import load_method
from qrcore.methods.decore import DeCoRe, DecoreSettings, contrast, entropy, support
from qrcore.models import LanguageModel, load_language_model, open_model

SETTINGS: Final = DecoreSettings((Head(1, 0), Head(1, 2), Head(2, 3)), max_new_tokens=6)


@cache
def _model(name: str = "embedded") -> LanguageModel:
    return load_language_model(open_model(name), device="cpu", dtype="float32")


def _prompts() -> list[list[int]]:
    draw = torch.Generator().manual_seed(2)
    return [torch.randint(10, 4000, (length,), generator=draw).tolist() for length in (40, 9, 23)]


def _answers(settings: DecoreSettings, name: str = "embedded") -> list[Generated]:
    found = DeCoRe(settings).answers(_model(name), _prompts())
    assert all(isinstance(one, Generated) for one in found), found
    return found  # type: ignore[return-value]


# Arithmetic


def test_contrast_by_hand() -> None:
    base, masked = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    found = contrast(base, masked, torch.tensor([0.5]))
    expected = 1.5 * base.log_softmax(-1) - 0.5 * masked.log_softmax(-1)
    torch.testing.assert_close(found, expected)
    assert float(found[0, 0] - found[0, 1]) == pytest.approx(1.5 * 1.0 + 0.5 * 1.0)


def test_without_weight_it_is_the_base_to_the_bit_whatever_is_masked() -> None:
    base = torch.randn(2, 9)
    base[0, 3] = -math.inf
    masked = torch.full((2, 9), -math.inf)
    masked[:, 0] = 1.0
    found = contrast(base, masked, torch.tensor([0.0, 0.0]))
    assert torch.equal(found, base.log_softmax(-1)) and not found.isnan().any()


def test_what_one_stream_cannot_say_gives_no_nan() -> None:
    inf = math.inf
    base, masked = torch.tensor([[1.0, -inf, 0.5, -inf]]), torch.tensor([[1.0, 0.0, -inf, -inf]])
    found = contrast(base, masked, torch.tensor([2.0]))
    assert not found.isnan().any()
    assert torch.isneginf(found[0, [1, 3]]).all() and torch.isfinite(found[0, [0, 2]]).all()


def test_identical_streams_choose_as_the_base_for_every_weight() -> None:
    logits = torch.randn(5, 30)
    for weight in (0.0, 0.3, 5.0):
        found = contrast(logits, logits, torch.full((5,), weight))
        torch.testing.assert_close(found, logits.log_softmax(-1), rtol=1e-4, atol=1e-4)
        assert torch.equal(found.argmax(-1), logits.argmax(-1))


def test_entropy_is_in_nats_and_of_possible_tokens() -> None:
    assert float(entropy(torch.zeros(8))) == pytest.approx(math.log(8))
    assert float(entropy(torch.tensor([0.0, 0.0, -math.inf]))) == pytest.approx(math.log(2))
    assert float(entropy(torch.tensor([50.0, 0.0, 0.0]))) == pytest.approx(0.0, abs=1e-6)


def test_support_counts_tokens_with_multiplicity() -> None:
    assert support([1, 2, 2, 9], [2, 1, 5]) == 0.5
    assert support([], [1]) == 0.0


# Answers


@pytest.mark.parametrize("name", ["embedded", "embedded-gqa"])
def test_a_weight_of_zero_is_plain_greedy(name: str) -> None:
    plain = decode_greedy(_model(name).model, _prompts(), 6, _model(name).end_ids)
    for settings in (replace(SETTINGS, alpha=0.0), replace(SETTINGS, heads=()), replace(SETTINGS, alpha_cap=0.0)):
        found = _answers(settings, name)
        assert [one.ids for one in found] == [one.ids for one in plain]
        assert all(one.figures["mean_alpha"] == 0.0 and one.figures["tokens_changed"] == 0 for one in found)


@pytest.mark.parametrize("scope", ["all", "decode"])
@pytest.mark.parametrize("settings", [{}, {"alpha_cap": 1.5}, {"normalised": True}, {"alpha": 4.0}])
def test_two_streams_in_one_batch_are_two_runs_step_by_step(settings: dict[str, Any], scope: Any) -> None:
    chosen = replace(SETTINGS, mask_scope=scope, **settings)
    changed_at_all = 0.0
    for prompt, one in zip(_prompts(), _answers(chosen), strict=True):
        ids, alphas, changed = list(prompt), [], 0
        for _ in range(int(one.figures["steps"])):
            base = next_token_logits(_model().model, ids, 1)
            gates = layer_gates([on_row(Gate("uniform", chosen.heads, scope), None, len(prompt))])
            masked = next_token_logits(_model().model, ids, 1, gates)
            alpha = _alpha(base, settings)
            token = int(contrast(base, masked, torch.tensor([alpha])).argmax())
            alphas.append(alpha)
            changed += token != int(base.argmax())
            ids.append(token)
        found = [*one.ids, *_model().end_ids] if one.ended else list(one.ids)
        assert found == ids[len(prompt) :]
        assert one.figures["mean_alpha"] == pytest.approx(sum(alphas) / len(alphas), rel=1e-3)
        assert one.figures["tokens_changed"] == changed
        changed_at_all += changed
    assert changed_at_all > 0 or settings == {"normalised": True}


def _alpha(base: torch.Tensor, settings: dict[str, Any]) -> float:
    logs = base[0].double().log_softmax(-1)
    own = float(-(logs.exp() * logs).sum())
    if "alpha" in settings:
        return float(settings["alpha"])
    if settings.get("normalised"):
        return own / math.log(len(logs))
    return min(own, settings.get("alpha_cap", math.inf))


def test_the_scopes_give_different_answers() -> None:
    found = {scope: _answers(replace(SETTINGS, alpha=4.0, mask_scope=scope)) for scope in ("all", "decode")}  # type: ignore[arg-type]
    assert [one.ids for one in found["all"]] != [one.ids for one in found["decode"]]


def test_negatives_are_what_the_masked_model_says() -> None:
    gates = [[SETTINGS.gate]] * 3
    expected = decode_greedy(_model().model, _prompts(), 6, _model().end_ids, gates=gates)
    found = DeCoRe(SETTINGS).negatives(_model(), _prompts())
    for prompt, one, other in zip(_prompts(), found, expected, strict=True):
        assert isinstance(one, Generated) and (one.ids, one.ended) == (other.ids, other.ended)
        assert one.figures["support"] == support(one.ids, prompt)
    plain = decode_greedy(_model().model, _prompts(), 6, _model().end_ids)
    assert [one.ids for one in expected] != [one.ids for one in plain]


def test_plain_is_what_the_model_says_as_it_is() -> None:
    expected = decode_greedy(_model().model, _prompts(), 6, _model().end_ids)
    found = DeCoRe(SETTINGS).plain(_model(), _prompts())
    assert [(one.ids, one.ended) for one in found if isinstance(one, Generated)] == [
        (one.ids, one.ended) for one in expected
    ]


# What is refused


def _saying(value: float, rows: slice) -> Any:
    """The model's last layer, which says ``value`` of one token in some rows."""
    weight = _model().model.lm_head.weight

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        logits = torch.nn.functional.linear(hidden, weight)
        logits[rows, :, 7] = value
        return logits

    return forward


@pytest.mark.parametrize("settings", [{"alpha": 0.0}, {"alpha": 1.0}, {}])
def test_logits_that_are_no_numbers_are_an_error_of_their_row_alone(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the weight: a token would be chosen all the same."""
    model, method = _model(), DeCoRe(replace(SETTINGS, **settings))
    ways = [method.answers, method.plain, method.negatives]
    sound = [way(model, _prompts()) for way in ways]
    for value in (math.nan, math.inf):
        monkeypatch.setattr(model.model.lm_head, "forward", _saying(value, slice(1, None, 3)))
        for way, whole in zip(ways, sound, strict=True):
            found = way(model, _prompts())
            assert [getattr(one, "code", None) for one in found] == [None, "non_finite", None]
            assert (found[0], found[2]) == (whole[0], whole[2])
    monkeypatch.setattr(model.model.lm_head, "forward", _saying(-math.inf, slice(1, None, 3)))
    assert all(isinstance(one, Generated) for way in ways for one in way(model, _prompts()))


@pytest.mark.parametrize("stream", [0, 1])
def test_each_stream_must_say_numbers(stream: int, monkeypatch: pytest.MonkeyPatch) -> None:
    row = 3 * stream + 2
    monkeypatch.setattr(_model().model.lm_head, "forward", _saying(math.nan, slice(row, row + 1)))
    found = DeCoRe(replace(SETTINGS, mask_scope="all")).answers(_model(), _prompts())
    assert [getattr(one, "code", None) for one in found] == [None, None, "non_finite"]


def test_prompts_that_cannot_be_answered_say_why() -> None:
    found = DeCoRe(SETTINGS).answers(_model(), [[], _prompts()[1], [5] * 4095])
    assert [getattr(one, "code", None) for one in found] == ["empty_query", None, "context_too_long"]
    again = DeCoRe(SETTINGS).negatives(_model(), [[], _prompts()[1]])
    assert isinstance(again[0], ScoreError) and isinstance(again[1], Generated)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mask_mode": "bias"}, "mask_mode"),
        ({"alpha": -1.0}, "alpha"),
        ({"alpha_cap": math.inf}, "alpha_cap"),
        ({"alpha": 1.0, "normalised": True}, "no cap"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        DecoreSettings((Head(0, 0),), **settings)


def test_settings_stand_with_results() -> None:
    told = load_method("decore").build(SETTINGS.heads).settings
    assert (told["mask_mode"], told["mask_scope"], told["alpha"]) == ("uniform", "decode", None)
    assert told["heads"] == ["1-0", "1-2", "2-3"]
