"""Where the elements of a JSON array or the lines of JSON Lines stand in a stream of bytes, found without holding it.

Public collections come as one array of hundreds of megabytes, or as objects one after the other under the same ending;
with the ranges of these any part of a file can be read alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

_OUTSIDE: Final = re.compile(rb'["\[\]{},]')
_INSIDE: Final = re.compile(rb'\\|"')
_WHITE: Final = b" \t\r\n"


class ByteRange(NamedTuple):
    """A half-open range of bytes."""

    start: int
    stop: int


def line_ranges(chunks: Iterable[bytes]) -> Iterator[ByteRange]:
    """The lines that hold more than white space, without their line ends."""
    start = position = 0
    blank = True
    for chunk in chunks:
        at = 0
        while (end := chunk.find(b"\n", at)) >= 0:
            if not blank or chunk[at:end].strip():
                yield ByteRange(start, position + end)
            start, at, blank = position + end + 1, end + 1, True
        blank = blank and not chunk[at:].strip()
        position += len(chunk)
    if not blank:
        yield ByteRange(start, position)


def element_ranges(chunks: Iterable[bytes]) -> Iterator[ByteRange]:
    """The elements of the one array in a stream; of a stream that begins with an object, its objects, whatever stands
    between them; any other JSON value is the only element.

    Raises :class:`ValueError` where the stream ends too early or goes on after the array.
    """
    scanner = _Scanner()
    for chunk in chunks:
        yield from scanner.feed(chunk)
    yield from scanner.close()


class _Scanner:
    def __init__(self) -> None:
        self._position = 0
        self._depth = 0
        self._first = b""  # byte that is no white space
        self._in_string = self._escaped = False
        self._start: int | None = None  # of the element that is open
        self._end = 0  # behind the last byte that is no white space
        self._closed = False

    def feed(self, chunk: bytes) -> Iterator[ByteRange]:
        at = 0
        if not self._first:
            at = len(chunk) - len(chunk.lstrip(_WHITE + b"\xef\xbb\xbf" if not self._position else _WHITE))
            if at < len(chunk):
                self._first = chunk[at : at + 1]
                # Objects one after the other are read as if brackets stood around them.
                self._depth = 1 if self._first in b"[{" else 0
                self._start = None if self._depth else self._position + at
                at += 1 if self._first == b"[" else 0
        if self._depth or self._closed:
            yield from self._array(chunk, at)
        elif stripped := chunk.rstrip(_WHITE):
            self._end = self._position + len(stripped)
        self._position += len(chunk)

    def close(self) -> Iterator[ByteRange]:
        if self._first == b"[" and not self._closed:
            raise ValueError(f"the array ends at byte {self._position} without ']'")
        if self._start is not None:
            yield ByteRange(self._start, self._position if self._in_string else self._end)

    def _array(self, chunk: bytes, at: int) -> Iterator[ByteRange]:
        while at < len(chunk):
            if self._in_string:
                at = self._skip_string(chunk, at)
                continue
            match = _OUTSIDE.search(chunk, at)
            stop = match.start() if match else len(chunk)
            self._note(chunk, at, stop)
            if match is None:
                return
            found = self._token(match[0], self._position + stop)
            if found:
                yield found
            at = match.end()

    def _skip_string(self, chunk: bytes, at: int) -> int:
        if self._escaped:
            self._escaped = False
            return at + 1
        match = _INSIDE.search(chunk, at)
        if match is None:
            return len(chunk)
        if match[0] == b'"':
            self._in_string = False
            self._end = self._position + match.end()
        else:
            self._escaped = True
        return match.end()

    def _note(self, chunk: bytes, at: int, stop: int) -> None:
        """Numbers and words between tokens open an element; behind the array there may be white space only."""
        between = chunk[at:stop]
        if not (stripped := between.strip(_WHITE)):
            return
        if self._closed:
            raise ValueError(f"the array ends before byte {self._position + at}, and more follows")
        if self._start is None:
            self._start = self._position + at + between.index(stripped[:1])
        self._end = self._position + at + len(between.rstrip(_WHITE))

    def _token(self, token: bytes, place: int) -> ByteRange | None:
        if self._closed:
            raise ValueError(f"the array ends before byte {place}, and more follows")
        closes = token in b"]}"
        if closes:
            self._depth -= 1
        if self._depth == 0 or (token == b"," and self._depth == 1):
            self._closed = self._depth == 0
            return self._ended()
        if self._start is None:
            self._start = place
        self._end = place + 1
        if closes and self._depth == 1:
            return self._ended()
        if token == b'"':
            self._in_string = True
        elif not closes and token != b",":
            self._depth += 1
        return None

    def _ended(self) -> ByteRange | None:
        found = None if self._start is None else ByteRange(self._start, self._end)
        self._start = None
        return found
