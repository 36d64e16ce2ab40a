"""Answers with contrast: the plain ones without weight, control sets, masked answers, and what is told of them."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import pytest

from qrcore.contracts.answerer import Answer, Question
from qrcore.contracts.contrast import ContrastedAnswer
from qrcore.contracts.generator import Generated
from qrcore.contrasting import ContrastAnswerer, ContrastParts, load_contrast_answerer
from qrcore.decode import decode_greedy
from qrcore.errors import HeadSetError, ScoreError
from qrcore.generation import load_answerer
from qrcore.heads import parse_head
from qrcore.methods.decore import DeCoRe, DecoreSettings
from qrcore.records import Document

DOCUMENTS: Final = (
    Document("bees", "Bees collect nectar from flowers and make honey of it in summer."),
    Document("salt", "Salt is sold at the market beside the old stone bridge.", "Trade"),
    Document("lamp", "The lamp of the harbour is lit by the keeper at dusk."),
)
QUESTIONS: Final = (
    Question("Who makes honey?", DOCUMENTS),
    Question("Where is salt sold?", DOCUMENTS[:2]),
    Question("x", text="Tell me of the lamp. <end> Who lights it?"),
)
HEADS: Final = "1-0,1-1,3-0,3-1"


@cache
def _answerer(**parts: Any) -> ContrastAnswerer:
    method = {name: parts.pop(name) for name in ("alpha", "mask_scope") if name in parts}
    return load_contrast_answerer(
        "embedded-gqa", ContrastParts(method=method, **parts), heads=HEADS, device="cpu", max_new_tokens=8
    )


def _answers(answerer: ContrastAnswerer, *questions: Question) -> list[ContrastedAnswer]:
    found = answerer.answer_many(questions or QUESTIONS)
    assert all(isinstance(one, ContrastedAnswer) for one in found), found
    return found  # type: ignore[return-value]


def test_without_weight_answers_are_those_of_answering_to_the_bit() -> None:
    plain = load_answerer("embedded-gqa", device="cpu", max_new_tokens=8).answer_many(QUESTIONS)
    found = _answers(_answerer(alpha=0.0))
    for one, other in zip(found, plain, strict=True):
        assert isinstance(other, Answer)
        assert (one.text, one.prompt_tokens, one.new_tokens, one.ended) == (
            other.text, other.prompt_tokens, other.new_tokens, other.ended,
        )  # fmt: skip
        assert (one.plain, one.mean_alpha, one.tokens_changed) == (one.text, 0.0, 0)
        assert one.steps == one.new_tokens + one.ended


def test_every_part_is_what_the_method_gives_for_it() -> None:
    answerer = _answerer(alpha=4.0, controls=2, masked=True)
    found = _answers(answerer)
    told = answerer.contrast
    assert told.heads == tuple(HEADS.split(",")) and len(told.controls) == 2
    assert told.settings["alpha"] == 4.0 and told.settings["mask_scope"] == "decode"
    model = answerer._model
    prompts = [answerer._encode(question) for question in QUESTIONS]

    def texts(answers: list[Generated | ScoreError]) -> list[str]:
        return [answerer._text(one.ids) for one in answers if isinstance(one, Generated)]

    own = DeCoRe(DecoreSettings(tuple(map(parse_head, told.heads)), alpha=4.0, max_new_tokens=8))
    assert [one.text for one in found] == texts(own.answers(model, prompts))
    assert [one.masked for one in found] == texts(own.negatives(model, prompts))
    plain = decode_greedy(model.model, prompts, 8, model.end_ids)
    assert [one.plain for one in found] == [answerer._text(one.ids) for one in plain]
    for number, heads in enumerate(told.controls):
        assert not set(heads) & set(told.heads)
        assert sorted(head.split("-")[0] for head in heads) == ["1", "1", "3", "3"]
        other = DeCoRe(DecoreSettings(tuple(map(parse_head, heads)), alpha=4.0, max_new_tokens=8))
        answers = other.answers(model, prompts)
        assert [one.controls[number].text for one in found] == texts(answers)
        assert [one.controls[number].tokens_changed for one in found] == [
            one.figures["tokens_changed"] for one in answers if isinstance(one, Generated)
        ]
    assert any(one.tokens_changed for one in found)


def test_what_was_not_asked_for_is_not_there() -> None:
    (one,) = _answers(_answerer(plain=False), QUESTIONS[0])
    assert (one.plain, one.masked, one.controls) == (None, None, ())
    assert one.mean_alpha > 0


def test_a_batch_that_does_not_fit_runs_in_halves_and_the_error_stays_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    answerer = _answerer(alpha=4.0)
    whole = _answers(answerer)
    own, longest = answerer._method.answers, max(len(answerer._encode(question)) for question in QUESTIONS)

    def full(model: Any, prompts: Any) -> Any:
        if len(prompts) > 1 or len(prompts[0]) == longest:
            raise ScoreError("oom", "memory: none left", stage="score")
        return own(model, prompts)

    monkeypatch.setattr(answerer._method, "answers", full)
    found = answerer.answer_many(QUESTIONS)
    assert [getattr(one, "code", None) for one in found].count("oom") == 1
    assert [one.text for one in found if isinstance(one, Answer)] == [
        one.text for one in whole if one.prompt_tokens < longest
    ]


def test_what_is_not_a_number_or_too_long_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    answerer = _answerer(alpha=4.0, controls=2, masked=True)
    for way in (answerer._method, answerer._rivals[1]):
        with monkeypatch.context() as patch:
            patch.setattr(
                way, "answers", lambda model, prompts: [ScoreError("non_finite", "x", stage="score") for _ in prompts]
            )
            (found,) = answerer.answer_many(QUESTIONS[:1])
            assert isinstance(found, ScoreError) and found.code == "non_finite"
    (found,) = answerer.answer_many([Question("q", text="word " * 5000)])
    assert isinstance(found, ScoreError) and found.code == "context_too_long"


def test_the_users_turn_is_told_without_its_marks() -> None:
    answerer = _answerer(alpha=0.0)
    assert answerer.turn_text(QUESTIONS[2]) == QUESTIONS[2].text
    told = answerer.turn_text(QUESTIONS[1])
    assert told.endswith("Query: Where is salt sold?") and "[2] Trade\nSalt is sold" in told
    assert "<user>" not in told and "<assistant>" not in told


def test_support_is_the_share_of_an_answers_tokens_that_the_context_holds() -> None:
    answerer = _answerer(alpha=0.0)
    assert answerer.support("salt is sold", "There salt is sold.") == 1.0
    assert answerer.support("salt salt", "There salt is sold.") == pytest.approx(0.5)
    assert answerer.support(" ", "salt") == 0.0 and answerer.support("bees", "") == 0.0


def test_heads_that_the_model_lacks_are_refused() -> None:
    with pytest.raises(HeadSetError):
        load_contrast_answerer("embedded-gqa", ContrastParts(), heads="9-0", device="cpu")
