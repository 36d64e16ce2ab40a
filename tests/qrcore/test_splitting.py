"""Pieces join to the text that they were cut from, whatever the text."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrcore import splitting
from qrcore.counting import TextTokenizer
from qrcore.errors import ConfigError
from qrcore.splitting import Splitter, rebuild

TEXTS = st.text(alphabet=st.sampled_from("ab .!?\n\t\u00a0é漢😀\u2028"), max_size=200) | st.text(max_size=80)


def words(text: str) -> list[tuple[int, int]]:
    return [match.span() for match in re.finditer(r"\S+", text)]


SPLITTERS: dict[str, Splitter] = {
    "whole": splitting.whole,
    "paragraphs": splitting.paragraphs,
    "sentences": splitting.by_sentences(words, 3),
    "tokens": splitting.by_tokens(words, 4),
    "before": splitting.by_pattern(r"^a"),
    "after": splitting.by_pattern(r"!\s*", cut="after"),
    "everywhere": splitting.by_pattern(r"(?=b)"),
}


@pytest.mark.parametrize("name", SPLITTERS)
@given(text=TEXTS)
def test_pieces_joined_are_the_text(name: str, text: str) -> None:
    spans = SPLITTERS[name](text)
    pieces = [text[span.start : span.stop] for span in spans]
    assert "".join(pieces) == text
    assert [span.start for span in spans] == [0, *(span.stop for span in spans[:-1])]
    assert all(piece.strip() for piece in pieces) or not text.strip()


@given(text=TEXTS, size=st.integers(1, 6), data=st.data())
def test_windows_with_overlap_rebuild_the_text(text: str, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    spans = splitting.by_tokens(words, size, overlap)(text)
    assert rebuild((span.start, text[span.start : span.stop]) for span in reversed(spans)) == text
    assert all(len(words(text[span.start : span.stop])) <= size for span in spans)


@given(text=TEXTS, size=st.integers(1, 5))
def test_pieces_of_sentences_hold_no_more_tokens_than_asked(text: str, size: int) -> None:
    for span in splitting.by_sentences(words, size)(text):
        assert len(words(text[span.start : span.stop])) <= size


def test_what_pieces_are() -> None:
    text = "  One.\n\nTwo. Three!\n \nFour"
    assert texts(splitting.paragraphs, text) == ["  One.\n\n", "Two. Three!\n \n", "Four"]
    assert texts(splitting.by_sentences(words, 2), "A b. C. D e f g. H.") == ["A b. ", "C. ", "D e ", "f g. ", "H."]
    assert texts(splitting.by_sentences(words, 3), "A b. C. D e f g. H.") == ["A b. C. ", "D e f ", "g. H."]
    assert texts(splitting.by_sentences(words, 1), "\u6f22\u3002\u5b57\uff01 x") == ["\u6f22\u3002\u5b57\uff01 ", "x"]
    assert texts(splitting.by_sentences(words, 2), 'A b." (C d.) E') == ['A b." ', "(C d.) ", "E"]
    assert texts(splitting.by_tokens(words, 3, 1), "a b c d e f") == ["a b c ", "c d e ", "e f"]
    assert texts(splitting.by_pattern("^CHAPTER"), "Title\nCHAPTER 1\nx\nCHAPTER 2\ny") == [
        "Title\n",
        "CHAPTER 1\nx\n",
        "CHAPTER 2\ny",
    ]


def test_tokens_of_the_embedded_model_are_counted() -> None:
    tokenizer = TextTokenizer.load("embedded")
    text = "The river was high in spring. Nobody crossed it. " * 20
    pieces = texts(splitting.by_tokens(tokenizer.offsets, 16), text)
    assert len(pieces) == -(-tokenizer.count(text) // 16)
    assert all(tokenizer.count(piece) <= 17 for piece in pieces)
    assert tokenizer.count_many(pieces) == [tokenizer.count(piece) for piece in pieces]


def test_a_missing_piece_is_noticed() -> None:
    with pytest.raises(ValueError, match="characters 2 to 3"):
        rebuild([(0, "ab"), (3, "d")])


@pytest.mark.parametrize("make", [lambda: splitting.by_pattern("("), lambda: splitting.by_pattern("")])
def test_a_pattern_that_is_none_is_refused(make: object) -> None:
    with pytest.raises(ConfigError, match=r"split\.pattern: expected a regular expression"):
        make()  # type: ignore[operator]


def test_an_overlap_as_large_as_the_window_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected 0 to 3"):
        splitting.by_tokens(words, 4, 4)


def test_an_unknown_tokenizer_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"tokenizer '\./nowhere'"):
        TextTokenizer.load("./nowhere")


def texts(splitter: Splitter, text: str) -> list[str]:
    return [text[span.start : span.stop] for span in splitter(text)]
