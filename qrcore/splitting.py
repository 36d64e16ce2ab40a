"""Cut a long text into pieces that join to exactly that text again.

A splitter returns half-open character spans. Without overlap they stand one behind the other from 0 to the end, so
that the pieces' texts joined are the text; white space between two pieces belongs to the first of them. With overlap
:func:`rebuild` puts them back by their offsets.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Final, Literal

from qrcore.errors import ConfigError
from qrcore.records import Span

Splitter = Callable[[str], list[Span]]
#: Half-open character spans of a text's tokens, in order, special tokens left out.
TokenOffsets = Callable[[str], Sequence[tuple[int, int]]]

_BLANK_LINES: Final = re.compile(r"\n[^\S\n]*\n\s*")
# After closing punctuation and whatever quotes or brackets close with it, before white space. Abbreviations cut too:
# a piece may then begin inside a sentence, which loses nothing.
_SENTENCE_ENDS: Final = re.compile(
    r"[.!?\u2026][\"'\u201d\u2019)\]]*\s+|[\u3002\uff01\uff1f][\u201d\u2019\u300d\u300f]*\s*|\n\s*\n\s*"
)


def whole(text: str) -> list[Span]:
    """The text as one piece."""
    return _spans(text, ())


def paragraphs(text: str) -> list[Span]:
    """One piece a paragraph: what blank lines separate."""
    return _spans(text, (match.end() for match in _BLANK_LINES.finditer(text)))


def by_pattern(pattern: str, cut: Literal["before", "after"] = "before") -> Splitter:
    """Cut before (headings) or after (separators) each match of a regular expression, ``^`` meaning a line's start.

    Raises :class:`ConfigError` for a pattern that is none, or that matches nothing at all, anywhere.
    """
    try:
        compiled = re.compile(pattern, re.MULTILINE)
    except re.error as error:
        raise ConfigError(
            f"split.pattern: expected a regular expression, got {pattern!r} ({error}). Correct it."
        ) from error
    if not pattern:
        raise ConfigError("split.pattern: expected a regular expression, got an empty one. Say where to cut.")

    def split(text: str) -> list[Span]:
        return _spans(text, (match.start() if cut == "before" else match.end() for match in compiled.finditer(text)))

    return split


def by_sentences(offsets: TokenOffsets, max_tokens: int) -> Splitter:
    """Whole sentences together up to ``max_tokens`` tokens; a longer sentence is cut between tokens.

    Tokens are counted in the whole text: a piece encoded alone may come to a token more or less at its ends.
    """
    _check(max_tokens=max_tokens)

    def split(text: str) -> list[Span]:
        starts = _token_starts(offsets(text))
        matches = _SENTENCE_ENDS.finditer(text)
        sentences = [(match.start() + len(match[0].rstrip()), match.end()) for match in matches]
        cuts: list[int] = []
        begun = done = 0  # tokens before the piece, tokens taken into it so far
        last_end = 0
        for closing, end in (*sentences, (len(text), len(text))):
            # A token may begin with the white space before its word: it belongs to the next sentence.
            reached = bisect_left(starts, closing)
            if reached - begun > max_tokens and done > begun:
                cuts.append(last_end)
                begun = done
            while reached - begun > max_tokens:
                begun += max_tokens
                cuts.append(_position(starts, begun, text))
            done, last_end = reached, end
        return _spans(text, cuts)

    return split


def by_tokens(offsets: TokenOffsets, max_tokens: int, overlap_tokens: int = 0) -> Splitter:
    """Windows of ``max_tokens`` tokens, each beginning ``overlap_tokens`` before the end of the one before it."""
    _check(max_tokens=max_tokens)
    if not 0 <= overlap_tokens < max_tokens:
        raise ConfigError(
            f"split.overlap_tokens: expected 0 to {max_tokens - 1} (less than max_tokens), got {overlap_tokens}. "
            "Lower it."
        )

    def split(text: str) -> list[Span]:
        starts = _token_starts(offsets(text))
        if not overlap_tokens:
            return _spans(text, (starts[place] for place in range(max_tokens, len(starts), max_tokens)))
        spans: list[Span] = []
        for first in range(0, max(len(starts), 1), max_tokens - overlap_tokens):
            last = first + max_tokens
            span = Span(starts[first] if first else 0, _position(starts, last, text))
            if spans and not text[span.start : span.stop].strip():
                spans[-1] = Span(spans[-1].start, span.stop)
            else:
                spans.append(span)
            if last >= len(starts):
                break
        return spans

    return split


def rebuild(pieces: Iterable[tuple[int, str]]) -> str:
    """The text that pieces (start, text) were cut from, whatever their order and overlap.

    Raises :class:`ValueError` where characters are missing between two of them.
    """
    text = ""
    for start, piece in sorted(pieces):
        if start > len(text):
            raise ValueError(f"expected pieces without gaps, got none for characters {len(text)} to {start}")
        text += piece[len(text) - start :]
    return text


def _check(max_tokens: int) -> None:
    if max_tokens < 1:
        raise ConfigError(f"split.max_tokens: expected at least 1, got {max_tokens}. Raise it.")


def _token_starts(offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Where tokens begin, each place once: several tokens of one character are not to be cut apart."""
    starts: list[int] = []
    for start, _ in offsets:
        if not starts or start > starts[-1]:
            starts.append(start)
    return starts


def _position(starts: Sequence[int], token: int, text: str) -> int:
    return starts[token] if token < len(starts) else len(text)


def _spans(text: str, cuts: Iterable[int]) -> list[Span]:
    """Pieces between ``cuts``; a piece of white space alone is joined to the one before it, at the beginning to the
    one after it."""
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(text)}), len(text)]
    kept: list[Span] = []
    for start, stop in pairwise(edges):
        blank = not text[start:stop].strip()
        if kept and (blank or not text[kept[-1].start : kept[-1].stop].strip()):
            kept[-1] = Span(kept[-1].start, stop)
        else:
            kept.append(Span(start, stop))
    return kept
