"""Sentences of our own making: few forms, many words, so that each says something that hardly any other says."""

from __future__ import annotations

import random

from qrcore.training.passages import QuestionRow

_HEADS = ("b", "dr", "f", "gl", "k", "m", "pl", "s", "t", "v")
_TAILS = ("bar", "den", "gol", "kim", "lus", "mon", "nar", "pet", "rik", "san", "tov", "wen")
_WORDS = tuple(head + vowel + tail for head in _HEADS for vowel in "aeio" for tail in _TAILS)
_FORMS = (
    "The {0} of the old {1} was given to {2} by a {3}.",
    "In the {0} there is a {1} that no {2} had seen near {3}.",
    "A {0} and its {1} were found under the {2}, not far from {3}.",
    "When {0} came to {1}, the {2} had been sold for a {3}.",
)


def words_of(number: int) -> list[str]:
    """The content words of a sentence."""
    return random.Random(number).sample(_WORDS, 4)


def sentence(number: int) -> str:
    """The sentence of that number; another number hardly shares more than one content word with it."""
    return _FORMS[number % len(_FORMS)].format(*words_of(number))


def texts(count: int, first: int = 0) -> list[str]:
    """Texts of three paragraphs of four sentences; text ``first`` and the ones after it."""
    return ["\n\n".join(paragraph(3 * text + p) for p in range(3)) for text in range(first, first + count)]


def paragraph(number: int) -> str:
    """The paragraph of that number: four sentences."""
    return " ".join(sentence(4 * number + s) for s in range(4))


def question_rows(count: int, first: int) -> list[QuestionRow]:
    """A question to each of ``count`` paragraphs; its second sentence answers."""
    rows = []
    for number in range(first, first + count):
        answer = 4 * number + 1
        thing, holder, *_ = words_of(answer)
        rows.append(
            QuestionRow("article", paragraph(number), f"Which {holder} is known for its {thing}?", sentence(answer))
        )
    return rows
