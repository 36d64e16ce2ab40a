"""Needle trials: the needle is where it is said to be, haystacks have the length asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qrcore.errors import ConfigError, InputError
from qrcore.methods.copy import CopyScore
from qrcore.models import load_language_model, load_tokenizer, open_model
from qrcore.needles import NEEDLES, NeedleSettings, NeedleTrial, needle_trials
from qrcore.prompts import EMBEDDED, LLAMA3, PromptFormat
from qrcore.shipped import embedded_folder
from qrcore.tokens import PromptEncoder
from tests.qrcore.golden import FOLDER

_WORDS = ["river", "stone", "lamp", "bread", "window", "garden", "letter", "harbour", "winter", "music"]
TEXTS = [
    " ".join(
        f"The {_WORDS[i % 10]} of the {_WORDS[(i * 7 + n) % 10]} was seen by {_WORDS[(i * 3 + 1) % 10]} men in {i}."
        for i in range(150)
    )
    for n in range(6)
]
SETTINGS = NeedleSettings(lengths=(600, 1200), depths=(0.0, 0.5, 1.0))


@pytest.fixture(scope="module", params=["embedded", "llama"])
def shown(request: pytest.FixtureRequest) -> tuple[PromptEncoder, PromptFormat]:
    folder = str(embedded_folder()) if request.param == "embedded" else str(FOLDER / "models" / "llama")
    prompt = EMBEDDED if request.param == "embedded" else LLAMA3
    return PromptEncoder(load_tokenizer(open_model(folder))), prompt


def _trials(shown: tuple[PromptEncoder, PromptFormat], settings: NeedleSettings = SETTINGS) -> list[NeedleTrial]:
    return list(needle_trials(TEXTS, *shown, settings))


def _text(shown: tuple[PromptEncoder, PromptFormat], ids: tuple[int, ...]) -> str:
    """Without capitals and white space, which the embedded model's tokenizer does not keep."""
    return _plain(shown[0]._tokenizer.decode(list(ids), skip_special_tokens=False))


def _plain(text: str) -> str:
    return "".join(text.lower().split())


def test_every_needle_stands_at_every_depth_of_every_length(shown: tuple[PromptEncoder, PromptFormat]) -> None:
    trials = _trials(shown)
    assert len({(one.needle, one.length, one.depth) for one in trials}) == len(trials) == 3 * 2 * 3
    for one in trials:
        text = _text(shown, one.trial.prompt_ids)
        needle = _plain(NEEDLES[one.needle].text)
        assert _text(shown, one.trial.needle_ids) == needle
        assert text.count(needle) == 1
        assert _plain(NEEDLES[one.needle].question) in text
        assert one.length - 200 <= len(one.trial.prompt_ids) <= one.length
        assert needle in text.split(f"[{one.place}]")[1].split(f"[{one.place + 1}]")[0]


def test_depth_is_where_the_needle_stands(shown: tuple[PromptEncoder, PromptFormat]) -> None:
    for one in _trials(shown):
        share = one.trial.needle.start / len(one.trial.prompt_ids)
        assert abs(share - one.depth) < 0.2
    first = next(one for one in _trials(shown) if one.depth == 0.0)
    assert first.place == 1


def test_haystacks_differ_from_trial_to_trial_and_not_from_call_to_call(
    shown: tuple[PromptEncoder, PromptFormat],
) -> None:
    trials = _trials(shown)
    assert trials == _trials(shown)
    assert len({one.trial.prompt_ids[:80] for one in trials}) > 10
    assert trials != _trials(shown, replace(SETTINGS, seed=1))


def test_what_stands_before_the_answer_names_the_document(shown: tuple[PromptEncoder, PromptFormat]) -> None:
    for one in _trials(shown, replace(SETTINGS, answer_prefix="[{place}] ")):
        assert _text(shown, one.trial.answer_prefix) == f"[{one.place}]"


def test_trials_can_be_run() -> None:
    model = load_language_model(open_model("embedded"), device="cpu")
    encoder = PromptEncoder(model.decoder.tokenizer)
    trials = needle_trials(TEXTS, encoder, EMBEDDED, NeedleSettings(lengths=(400,), depths=(0.5,)))
    outcomes = CopyScore().outcomes(model, [one.trial for one in trials])
    shape = model.decoder.source.shape
    assert [one.values.shape for one in outcomes] == [(shape.layers, shape.query_heads)] * 3  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "texts", "error", "message"),
    [
        ({"lengths": (90,)}, TEXTS, ConfigError, "room for at least one document"),
        ({"lengths": (1200,)}, [TEXTS[0][:2500]], InputError, "tokens are missing"),
        ({}, ["One short text."], InputError, "at least one piece of whole sentences"),
    ],
)
def test_haystacks_that_cannot_be_built(
    changes: dict[str, tuple[int, ...]], texts: list[str], error: type[Exception], message: str
) -> None:
    encoder = PromptEncoder(load_tokenizer(open_model("embedded")))
    with pytest.raises(error, match=message):
        list(needle_trials(texts, encoder, EMBEDDED, replace(SETTINGS, **changes)))


@pytest.mark.parametrize(
    ("changes", "message"), [({"depths": (1.2,)}, "from 0 to 1"), ({"lengths": ()}, "at least one")]
)
def test_settings_that_cannot_be_used(changes: dict[str, tuple[float, ...]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(SETTINGS, **changes)  # type: ignore[arg-type]
