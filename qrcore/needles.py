"""Needles in haystacks: prompts with one sentence to find, in text that has nothing to do with it.

The haystack is cut into documents, because that is how the prompt formats show text. The needle stands in the middle of
one of them, after the share ``depth`` of the haystack's sentences. Several needles, lengths and depths as in Wu et al.,
arXiv 2404.15574.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np

from qrcore.contracts.copy_detector import CopyTrial
from qrcore.errors import ConfigError, InputError
from qrcore.prompts import PromptFormat
from qrcore.records import Document, Span
from qrcore.tokens import PromptEncoder

_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+")
#: Tokens of a prompt beside the haystack's text and its marks, at most.
_SPARE_TOKENS: Final = 16


@dataclass(frozen=True, slots=True)
class Needle:
    """A sentence and the question that it answers."""

    text: str
    question: str


#: Facts of no real place, so that no model knows them.
NEEDLES: Final = (
    Needle(
        "The best thing to do in Harrow Bay on a Sunday is to row out to the old lighthouse with warm bread.",
        "What is the best thing to do in Harrow Bay on a Sunday?",
    ),
    Needle(
        "Old Tamsin hid the key of the clock tower under the third stone of the mill bridge.",
        "Where did old Tamsin hide the key of the clock tower?",
    ),
    Needle(
        "The bakers of Lower Quill put a spoon of pine honey and some sea salt into their winter loaves.",
        "What do the bakers of Lower Quill put into their winter loaves?",
    ),
)


@dataclass(frozen=True, slots=True)
class NeedlePlace:
    """Where a needle lies: the ``place`` (from 0) of its document, and its ``characters`` of that document's text."""

    place: int
    characters: Span


@dataclass(frozen=True, slots=True)
class NeedleTrial:
    """A trial and what it is made of: number of the needle, prompt tokens aimed at, share of the haystack before it,
    number of the haystack, the place (from 1) of the document that holds it, the question, and the documents with the
    needle in them."""

    trial: CopyTrial
    needle: int
    length: int
    depth: float
    haystack: int
    place: int
    question: str
    documents: tuple[Document, ...]
    characters: Span


@dataclass(frozen=True, slots=True)
class NeedleSettings:
    """Which trials are built: every needle at every length (prompt tokens, at most) and depth (0 to 1), each in so many
    ``haystacks``.

    ``document_words``: words of a document of the haystack, about; ``answer_prefix``: see :func:`copy_trial`.
    Raises :class:`ConfigError` for values that no trial can be built with.
    """

    needles: tuple[Needle, ...] = NEEDLES
    lengths: tuple[int, ...] = (1000, 2000)
    depths: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    haystacks: int = 1
    document_words: int = 60
    answer_prefix: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, values in (("lengths", self.lengths), ("depths", self.depths)):
            if len(set(values)) < len(values):
                raise ConfigError(f"{name}: expected different values, got one twice in {list(values)}. Drop it.")
        for name, value in (("haystacks", self.haystacks), ("document_words", self.document_words)):
            if value < 1:
                raise ConfigError(f"{name}: expected at least 1, got {value}. Raise it.")
        wrong = [depth for depth in self.depths if not 0 <= depth <= 1]
        if wrong:
            raise ConfigError(f"depths: expected shares from 0 to 1, got {wrong[0]}. Correct the list.")
        if not (self.needles and self.lengths and self.depths):
            raise ConfigError("trials: expected at least one needle, length and depth. Name some, or leave the usual.")


def needle_trials(
    texts: Sequence[str], encoder: PromptEncoder, prompt: PromptFormat, settings: NeedleSettings
) -> Iterator[NeedleTrial]:
    """Every trial; each one's haystack is another piece of ``texts``, chosen by seed, trial and nothing else.

    Raises :class:`InputError` if the texts are too short, :class:`ConfigError` for a length that holds no haystack.
    """
    pieces = _Pieces(
        [piece for text in texts for piece in _sentences_of(text, settings.document_words)], encoder, prompt
    )
    combinations = product(
        range(len(settings.needles)), settings.lengths, settings.depths, range(1, settings.haystacks + 1)
    )
    for number, (needle, length, depth, repeat) in enumerate(combinations):
        asked = settings.needles[needle]
        fixed = len(encoder.encode(prompt, asked.question, [Document("needle", asked.text)]).ids)
        generator = np.random.default_rng((settings.seed, number))
        haystack = pieces.following(length - fixed - _SPARE_TOKENS, generator)
        documents, where = _hide(haystack, asked, depth)
        trial = copy_trial(encoder, prompt, asked.question, documents, where, settings.answer_prefix)
        yield NeedleTrial(
            trial, needle, length, depth, repeat, where.place + 1, asked.question, documents, where.characters
        )


def copy_trial(
    encoder: PromptEncoder,
    prompt: PromptFormat,
    question: str,
    documents: Sequence[Document],
    where: NeedlePlace,
    answer_prefix: str = "",
) -> CopyTrial:
    """The prompt over the documents in this order, the needle's tokens in it, and what is given of the answer.

    ``answer_prefix``: text before the answer, in which ``{place}`` stands for the number of the needle's document, such
    as ``"[{place}] "`` for models that name it.
    """
    encoded, tokens = encoder.encode_and_locate(prompt, question, documents, where.place, where.characters)
    given = encoder.encode_text(answer_prefix.replace("{place}", str(where.place + 1))) if answer_prefix else ()
    return CopyTrial(encoded.ids, tokens, given)


def _sentences_of(text: str, words: int) -> Iterator[list[str]]:
    """Runs of whole sentences with about so many words."""
    piece: list[str] = []
    for sentence in _SENTENCE_END.split(" ".join(text.split())):
        piece.append(sentence)
        if sum(len(one.split()) for one in piece) >= words:
            yield piece
            piece = []


class _Pieces:
    """All pieces that haystacks are made of; what each costs in a prompt is counted when it is first needed."""

    def __init__(self, pieces: Sequence[list[str]], encoder: PromptEncoder, prompt: PromptFormat) -> None:
        if not pieces:
            raise InputError("texts: expected at least one piece of whole sentences, got none. Give longer texts.")
        self._pieces = pieces
        self._encoder = encoder
        self._prompt = prompt
        self._empty = self._tokens("")
        self._costs: dict[int, int] = {}

    def following(self, room: int, generator: np.random.Generator) -> list[list[str]]:
        """Pieces that follow one another from a random place on, as many as there is room for (tokens)."""
        start = int(generator.integers(len(self._pieces)))
        chosen: list[list[str]] = []
        for step in range(len(self._pieces)):
            place = (start + step) % len(self._pieces)
            room -= self._cost(place)
            if room < 0:
                break
            chosen.append(self._pieces[place])
        if not chosen:
            raise ConfigError("lengths: expected room for at least one document beside the needle. Use longer ones.")
        if room >= max(self._costs.values()):
            raise InputError(
                f"texts: expected enough for haystacks of the longest length, {room} tokens are missing. "
                "Give more texts."
            )
        return chosen

    def _cost(self, place: int) -> int:
        if place not in self._costs:
            tokens = self._tokens(" ".join(self._pieces[place]))
            self._costs[place] = tokens - self._empty + _SPARE_TOKENS // 2
        return self._costs[place]

    def _tokens(self, text: str) -> int:
        return len(self._encoder.encode(self._prompt, "", [Document("piece", text)]).ids)


def _hide(haystack: list[list[str]], needle: Needle, depth: float) -> tuple[tuple[Document, ...], NeedlePlace]:
    place, sentence = _gap(haystack, depth)
    sentences = haystack[place]
    before, after = " ".join(sentences[:sentence]), " ".join(sentences[sentence:])
    start = len(before) + bool(before)
    text = " ".join(part for part in (before, needle.text, after) if part)
    documents = tuple(
        Document(f"d{number}", text if number == place else " ".join(piece)) for number, piece in enumerate(haystack)
    )
    return documents, NeedlePlace(place, Span(start, start + len(needle.text)))


def _gap(haystack: Sequence[Sequence[str]], depth: float) -> tuple[int, int]:
    """The document, and the sentence in it before which the needle goes."""
    gaps = [(place, sentence) for place, piece in enumerate(haystack) for sentence in range(len(piece))]
    gaps.append((len(haystack) - 1, len(haystack[-1])))
    return gaps[round(depth * (len(gaps) - 1))]
