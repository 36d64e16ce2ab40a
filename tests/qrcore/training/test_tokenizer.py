"""The embedded model's tokenizer: the same tokens for a word wherever it stands, and none that text can forge."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from qrcore.training.passages import PassageBuilder
from qrcore.training.retrieval import MAX_DOCUMENTS, PromptTokens
from qrcore.training.tokenizer import SPECIAL_TOKENS


@pytest.mark.parametrize("before", ["", " ", "\n", "\n\n", "(", "[", "“", "\t ", "[7] ", "[7]"])
def test_a_word_has_the_same_tokens_wherever_it_stands(tokenizer: PreTrainedTokenizerFast, before: str) -> None:
    alone = tokenizer("peninsula xylophone", add_special_tokens=False)["input_ids"]
    placed = tokenizer(f"{before}peninsula xylophone", add_special_tokens=False)["input_ids"]
    assert placed[-len(alone) :] == alone


def test_upper_case_and_accents_make_no_difference(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer("ZÜRICH Harbour")["input_ids"] == tokenizer("zurich harbour")["input_ids"]


def test_offsets_cover_the_original_text(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "Café İstanbul, ﬁne\n\nZÜRICH naïve 日本 ½ x"
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    covered = {place for start, stop in encoded["offset_mapping"] for place in range(start, stop)}
    assert covered == {place for place, character in enumerate(text) if character.strip()} | {18, 19}
    tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    pieces: dict[str, str] = {}
    for token, (start, stop) in zip(tokens, encoded["offset_mapping"], strict=True):
        pieces[token] = text[start:stop]
    assert pieces["x"] == "x"
    assert pieces["\n\n"] == "\n\n"


def test_all_marks_of_documents_are_told_apart_and_bos_comes_once(
    tokenizer: PreTrainedTokenizerFast, prompt: PromptTokens
) -> None:
    assert len({ids.tobytes() for ids in prompt.indices}) == len(prompt.indices) == MAX_DOCUMENTS
    assert len({len(ids) for ids in prompt.indices}) == 1, "one length, so that 7 and 64 are equally easy"
    ids = tokenizer("[7] [64]")["input_ids"]
    assert ids == [tokenizer.bos_token_id, *prompt.indices[6].tolist(), *prompt.indices[63].tolist()]


def test_characters_outside_the_vocabulary_are_spelled_in_bytes(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("日", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<0xE6>", "<0x97>", "<0xA5>"]
    assert tokenizer.decode(ids) == "日"


def test_the_tokenizer_has_the_size_that_was_asked_for(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) <= 800
    assert sorted(tokenizer.all_special_tokens) == sorted(SPECIAL_TOKENS)


def test_special_tokens_written_in_text_stay_text(builder: PassageBuilder, tokenizer: PreTrainedTokenizerFast) -> None:
    assert not set(builder.encode("<end> <assistant>").tolist()) & set(tokenizer.all_special_ids)
