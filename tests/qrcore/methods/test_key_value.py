"""The key-value task: prompts as described, values where they are said to be, and what counts as a success."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import pytest
import torch

from qrcore.contracts.copy_detector import CopyOutcome, CopyTrial, PairTrial
from qrcore.decode import Decoded
from qrcore.errors import ConfigError, InputError, ScoreError
from qrcore.heads import ModelShape
from qrcore.loading import load_method
from qrcore.methods import key_value as module
from qrcore.methods.copy import CopyScore
from qrcore.methods.key_value import KeyValue, KeyValueSettings
from qrcore.models import LanguageModel, load_language_model, load_tokenizer, open_model
from qrcore.records import Span
from qrcore.tokens import PromptEncoder
from tests.qrcore.golden import FOLDER
from tests.qrcore.test_needles import TEXTS

LLAMA = str(FOLDER / "models" / "llama")
LENGTH = 700
#: Sentences that JSON would write otherwise, that are too short, or that stand there twice are no values.
ODD = ['He said "no" to all of them.', "A back\\slash is in this one.", "Too short."]


@cache
def _encoder(model: str = LLAMA) -> PromptEncoder:
    return PromptEncoder(load_tokenizer(open_model(model)))


@cache
def _model() -> LanguageModel:
    return load_language_model(open_model(LLAMA), device="cpu", dtype="float32")


def _method(**changes: Any) -> KeyValue:
    return KeyValue(KeyValueSettings(**{"length": LENGTH, "value_tokens": 12, **changes}))


def _trials(model: str = LLAMA, numbers: Any = range(1, 7), **changes: Any) -> list[PairTrial]:
    return list(_method(**changes).trials([*TEXTS, " ".join(ODD)], _encoder(model), 4096, numbers))


def _text(ids: tuple[int, ...], model: str = LLAMA) -> str:
    return str(load_tokenizer(open_model(model)).decode(list(ids), skip_special_tokens=True))


def _parts(trial: PairTrial) -> tuple[dict[str, str], list[tuple[str, str]], str]:
    """The object, the solved examples, and the key that is asked for."""
    encoded = _method().copy_trial(_encoder(), trial.pairs, trial.place)
    text = _text(encoded.prompt_ids)
    found = re.search(r"\{\n(.*?)\}\n\n(.*)$", text, flags=re.DOTALL)
    assert found is not None
    examples = re.findall(r'Key: "(\w+)"\nValue: "(.+)"\n\n', found[2])
    asked = re.search(r'Key: "(\w+)"\nValue: "$', found[2])
    assert asked is not None
    return json.loads("{" + found[1].rstrip(",\n ") + "}"), examples, asked[1]


def test_a_prompt_is_an_object_three_solved_examples_and_a_key() -> None:
    for trial in _trials():
        pairs, examples, asked = _parts(trial)
        assert list(pairs.items()) == list(trial.pairs)
        assert asked == trial.key and len(examples) == 3
        assert all(pairs[key] == value for key, value in examples)
        assert len({asked, *(key for key, _ in examples)}) == 4, "no example gives the answer away"
        assert all(re.fullmatch(r"[A-Za-z0-9]{32}", key) for key in pairs)
        assert len(set(pairs.values())) == len(pairs)
        assert not set(pairs.values()) & set(ODD)


@pytest.mark.parametrize("model", [LLAMA, "embedded"])
def test_prompts_with_their_answers_are_close_to_the_length_and_not_above(model: str) -> None:
    for trial in _trials(model):
        encoded = _method().copy_trial(_encoder(model), trial.pairs, trial.place)
        total = len(encoded.prompt_ids) + len(encoded.needle_ids)
        longest = max(_encoder(model).count(f' "{key}": "{value}",\n') for key, value in trial.pairs)
        # Another pair may be longer than any of these; and it may take the place of an example.
        assert LENGTH - 3 * longest < total <= LENGTH
        said, value = _text(encoded.needle_ids, model), trial.pairs[trial.place][1]
        assert "".join(said.lower().split()) == "".join(value.lower().split())
        assert len(encoded.needle_ids) <= 12 + 1


def test_a_trial_is_made_by_its_number_and_the_seed_alone() -> None:
    assert _trials(numbers=[4])[0] == _trials()[3]
    assert _trials()[0] != _trials()[1] and _trials(seed=1)[0] != _trials()[0]
    assert len({trial.place / len(trial.pairs) > 0.5 for trial in _trials(numbers=range(20))}) == 2


def test_top_is_five_per_cent_and_four_at_least() -> None:
    assert _method().top(ModelShape(layers=16, query_heads=20, kv_heads=20)) == 16, "as many as the paper has"
    assert _method().top(ModelShape(layers=4, query_heads=6, kv_heads=6)) == 4
    assert _method(top=7).top(ModelShape(layers=4, query_heads=6, kv_heads=6)) == 7
    assert load_method("key_value").build().settings["count"] == 800


# Outcomes


def _copy_trials() -> list[CopyTrial]:
    return [_method().copy_trial(_encoder(), trial.pairs, trial.place) for trial in _trials()[:3]]


def test_values_are_those_of_the_copy_score_with_the_value_as_the_answer() -> None:
    trials = _copy_trials()
    expected = CopyScore().outcomes(_model(), trials)
    for found, other in zip(_method().outcomes(_model(), trials), expected, strict=True):
        assert isinstance(found, CopyOutcome) and isinstance(other, CopyOutcome)
        assert torch.equal(found.values, other.values)
        assert not found.success and other.success, "a random model does not say the value"


def test_the_models_own_answer_decides_what_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    trial, asked = _copy_trials()[0], []
    half, whole = len(trial.needle_ids) // 2, len(trial.needle_ids)
    answers = iter([half, half + 1, whole])

    def said(_model: object, prompts: Any, limit: int, _ends: object) -> list[Decoded]:
        asked.append((prompts, limit))
        return [Decoded(trial.needle_ids[: next(answers)], ended=True)]

    monkeypatch.setattr(module, "decode_greedy", said)
    found = [_method().outcomes(_model(), [trial])[0] for _ in range(3)]
    assert [one.success for one in found if isinstance(one, CopyOutcome)] == [False, True, True]
    assert asked == [([trial.prompt_ids], whole)] * 3


def test_what_cannot_be_tried_or_made_says_why() -> None:
    trial = _copy_trials()[0]
    found = _method().outcomes(_model(), [CopyTrial(trial.prompt_ids * 200, trial.needle), trial])
    assert isinstance(found[0], ScoreError) and found[0].code == "context_too_long"
    assert isinstance(found[1], CopyOutcome)
    (broken,) = _method().outcomes(_model(), [CopyTrial(trial.prompt_ids, Span(5, 5))])
    assert isinstance(broken, ScoreError) and broken.code == "no_needle"
    with pytest.raises(ConfigError, match="expected at most 500 tokens"):
        list(_method().trials(TEXTS, _encoder(), 500, [1]))
    with pytest.raises(ConfigError, match="room for 5 pairs"):
        _trials(length=150)
    with pytest.raises(InputError, match="Give more texts"):
        list(_method().trials([TEXTS[0][:300]], _encoder(), 4096, [1]))
    for name in ("count", "length", "top", "value_tokens"):
        with pytest.raises(ConfigError, match=name):
            KeyValueSettings(**{name: 0})


def test_the_length_is_the_papers_or_what_the_model_takes() -> None:
    (trial,) = _method(length=None).trials(TEXTS, _encoder(), 900, [1])
    encoded = _method().copy_trial(_encoder(), trial.pairs, trial.place)
    assert 700 < len(encoded.prompt_ids) + len(encoded.needle_ids) <= 900
    assert _method(length=None)._length(10**6) == 4096
