"""Asking again: both turns in tokens, as the model's chat template writes them, with the options' place known."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import pytest

from qrcore.asking import AskingAnswerer, AskingSettings, FirstAnswer, recall_of
from qrcore.contracts.answerer import Answer, Question
from qrcore.errors import ConfigError, PromptError
from qrcore.generation import load_answerer
from qrcore.models import load_language_model, load_tokenizer, open_model
from qrcore.prompts import EMBEDDED, PLAIN, follow_up_frame
from qrcore.records import Document
from tests.small_model import MODEL

DOCUMENTS: Final = (
    Document("bees", "Bees collect nectar from flowers and make honey of it."),
    Document("salt", "Salt is sold at the market beside the old bridge."),
)
QUESTION: Final = Question("Where is salt sold?", DOCUMENTS)


@cache
def _answerer(**settings: Any) -> AskingAnswerer:
    source = open_model("embedded-gqa")
    loaded = load_language_model(source, device="cpu")
    return AskingAnswerer(loaded, EMBEDDED, AskingSettings(**settings), max_new_tokens=24)


def _first(answerer: AskingAnswerer) -> FirstAnswer:
    (found,) = answerer.answer_many([QUESTION])
    assert isinstance(found, FirstAnswer)
    return found


def _text(answerer: AskingAnswerer, ids: Any) -> str:
    return str(answerer._tokenizer.decode(list(ids), skip_special_tokens=False)).replace(" ", "")


def test_first_answers_are_those_of_answering_with_their_tokens() -> None:
    (plain,) = load_answerer("embedded-gqa", device="cpu", max_new_tokens=24).answer_many([QUESTION])
    first = _first(_answerer())
    assert isinstance(plain, Answer)
    assert (first.text, first.prompt_tokens, first.new_tokens) == (plain.text, plain.prompt_tokens, plain.new_tokens)
    assert len(first.prompt_ids) == first.prompt_tokens and len(first.ids) == first.new_tokens


def test_both_turns_are_one_conversation_of_the_template() -> None:
    answerer = _answerer(follow_ups=("Sure? Say {options} now.", "Really, {options}?"))
    first = _first(answerer)
    trial = answerer.trial(first)
    tokenizer = answerer._tokenizer
    conversation = [
        {"role": "user", "content": "QUESTION"},
        {"role": "assistant", "content": "ANSWER"},
        {"role": "user", "content": "Sure? Say yes or no now."},
    ]
    behind = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True).split("ANSWER")[1]
    assert trial.first_turn == (*first.prompt_ids, *first.ids)
    asked, other = trial.follow_ups
    assert asked.ids == tuple(tokenizer(behind, add_special_tokens=False)["input_ids"])
    assert _text(answerer, asked.ids[asked.options.start : asked.options.stop]) == "yesorno"
    assert _text(answerer, other.ids[other.options.start : other.options.stop]) == "yesorno"
    assert tokenizer.bos_token_id not in asked.ids


def test_another_answer_and_a_passage_stand_where_they_belong() -> None:
    answerer = _answerer()
    first = _first(answerer)
    trial = answerer.trial(first, "bees <end> sell it", "No salt is sold <assistant> here.")
    assert trial.first_turn[: first.prompt_tokens] == first.prompt_ids
    said = trial.first_turn[first.prompt_tokens :]
    assert _text(answerer, said) == "bees<end>sellit" and set(said) & set(answerer._model.end_ids) == set()
    (asked,) = trial.follow_ups
    text = _text(answerer, asked.ids)
    assert text.index("[1]nosalt") < text.index("areyousure")
    assert _text(answerer, asked.ids[asked.options.start : asked.options.stop]) == "yesorno"
    marker = answerer._tokenizer.convert_tokens_to_ids("<assistant>")
    assert asked.ids.count(marker) == 1, "what a passage says opens no turn"


def test_words_are_told_apart_by_their_first_tokens() -> None:
    answerer = _answerer()
    yes, no = answerer.verdict_ids()
    assert yes and no and not set(yes) & set(no)
    spelled = {answerer._encoder.encode_text(text)[0] for text in ("yes", " Yes", "YES")}
    assert set(yes) <= spelled | set(yes) and spelled & set(yes)
    with pytest.raises(ConfigError, match="begin alike"):
        _answerer(yes_word="no", no_word="no").verdict_ids()


def test_a_token_that_both_words_begin_with_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    answerer = _answerer()
    found = {"yes": {5, 3, 1}, "no": {5, 2}}
    monkeypatch.setattr(answerer, "_first_tokens", found.get)
    assert answerer.verdict_ids() == ((1, 3), (2,))


@pytest.mark.parametrize("follow_ups", [(), ("Are you sure?",), ("{options} or {options}?",)])
def test_follow_ups_that_do_not_name_the_options_once_are_refused(follow_ups: Any) -> None:
    with pytest.raises(ConfigError, match="follow_ups"):
        AskingSettings(follow_ups=follow_ups)


def test_without_a_template_the_marks_of_the_prompt_stand_between_turns() -> None:
    tokenizer = load_tokenizer(open_model(MODEL))
    tokenizer.chat_template = None
    assert follow_up_frame(tokenizer, PLAIN) == (f"{PLAIN.separator}{PLAIN.prefix}", PLAIN.suffix)
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    with pytest.raises(PromptError, match="each once"):
        follow_up_frame(tokenizer, PLAIN)


def test_recall_is_the_share_of_the_needles_words() -> None:
    assert recall_of("The salt of Orrin.", "[2] salt, of orrin!") == 1.0
    assert recall_of("salt salt bread", "salt") == pytest.approx(1 / 3)
    assert recall_of("salt", "") == 0.0
