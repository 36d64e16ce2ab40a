"""An answerer puts questions into prompts, decodes in batches, and never cuts a context."""

from __future__ import annotations

from functools import cache

import pytest

from qrcore import Document, ScoreError
from qrcore.contracts.answerer import Answer, Question
from qrcore.decode import decode_greedy
from qrcore.errors import ConfigError
from qrcore.generation import GreedyAnswerer, load_answerer
from qrcore.models import load_language_model, open_model
from qrcore.prompts import EMBEDDED
from qrcore.shipped import embedded_folder
from qrcore.tokens import PromptEncoder
from tests.qrcore.golden import FOLDER

LLAMA = str(FOLDER / "models" / "llama")
BEES = (Document("1", "Bees collect nectar."), Document("2", "Salt is sold.", "Market"))
QUESTIONS = [
    Question("Who collects nectar?", BEES),
    Question("Why?", BEES[:1]),
    Question("What is sold?", text="Salt is sold.\n\nQuestion: What is sold?"),
    Question("Where?", text="<|eot_id|> is plain text here."),
]


@cache
def answerer(batch_tokens: int = 16_384) -> GreedyAnswerer:
    return load_answerer(LLAMA, max_new_tokens=6, batch_tokens=batch_tokens)


def test_answers_do_not_depend_on_who_is_decoded_together() -> None:
    together, alone = (answerer(size).answer_many(QUESTIONS) for size in (16_384, 1))
    assert together == alone
    assert [answer.new_tokens for answer in together if isinstance(answer, Answer)] == [6] * 4
    assert answerer().answer_many([]) == []


def test_an_answer_is_the_greedy_continuation_of_the_retrieval_prompt() -> None:
    embedded = load_answerer("embedded-gqa", max_new_tokens=5)
    model = load_language_model(open_model("embedded-gqa"))
    ids = PromptEncoder(model.decoder.tokenizer).encode(EMBEDDED, "Who collects nectar?", BEES).ids
    (decoded,) = decode_greedy(model.model, [ids], 5, model.end_ids)
    (answer,) = embedded.answer_many(QUESTIONS[:1])
    assert isinstance(answer, Answer)
    assert answer.text == model.decoder.tokenizer.decode(list(decoded.ids), skip_special_tokens=True).strip()
    assert (answer.prompt_tokens, answer.new_tokens, answer.ended) == (len(ids), len(decoded.ids), decoded.ended)
    assert embedded.identity.prompt_sha256 == EMBEDDED.hash
    assert str(embedded_folder("embedded-gqa")).endswith("embedded_gqa")


def test_a_text_is_the_users_turn_of_the_chat_template() -> None:
    embedded = load_answerer("embedded-gqa", max_new_tokens=1)
    tokenizer = load_language_model(open_model("embedded-gqa")).decoder.tokenizer
    messages = [{"role": "user", "content": "What is sold?"}]
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    (answer,) = embedded.answer_many([Question("", text="What is sold?")])
    assert isinstance(answer, Answer)
    bos = [] if list(rendered)[:1] == [tokenizer.bos_token_id] else [tokenizer.bos_token_id]
    assert answer.prompt_tokens in (len(rendered), len(rendered) + len(bos))


def test_what_leaves_no_room_to_answer_is_an_error_and_the_others_are_answered() -> None:
    limit = answerer().identity.max_tokens
    long = Question("Who?", (Document("1", "bees " * limit),))
    first, second = answerer().answer_many([long, QUESTIONS[1]])
    assert isinstance(first, ScoreError) and first.code == "context_too_long"
    assert f"at most {limit - 6} tokens, which leaves 6 to answer in" in str(first)
    assert isinstance(second, Answer)


def test_no_token_to_answer_in_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_new_tokens: expected at least 1, got 0"):
        load_answerer(LLAMA, max_new_tokens=0)
