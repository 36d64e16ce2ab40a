"""What standard output and error look like: a terminal, plain text, or one JSON object a line.

Everything that commands print goes through these two streams, so one choice holds for every job.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

LogFormat = Literal["auto", "text", "json"]


class PlainText(io.TextIOBase):
    """A stream that says of itself that it is no terminal: no colours, no bars."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Pass it on."""
        return self._stream.write(text)

    def flush(self) -> None:
        """Pass it on."""
        self._stream.flush()

    def writable(self) -> bool:
        """It is."""
        return True

    def fileno(self) -> int:
        """The stream's own."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """Never."""
        return False


class JsonLines(PlainText):
    """Every line that is written becomes ``{"time", "level", "message"}``; :meth:`event` adds fields of its own."""

    def __init__(self, stream: TextIO, level: str) -> None:
        super().__init__(stream)
        self._level = level
        self._rest = ""

    def write(self, text: str) -> int:
        """Take text in; whole lines go out."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip():
                self.event(line.strip())
        return len(text)

    def event(self, message: str, **fields: Any) -> None:
        """One line with more than a message."""
        entry = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": self._level, "message": message}
        self._stream.write(json.dumps({**entry, **fields}, ensure_ascii=False) + "\n")
        self._stream.flush()

    def pass_on(self, text: str) -> None:
        """Write lines that are JSON already."""
        self._stream.write(text)
        self._stream.flush()

    def close_line(self) -> None:
        """Write what stands there without an end of line."""
        if self._rest:
            self.write("\n")


def format_in_use() -> LogFormat:
    """The format of the streams that stand there now."""
    return "json" if isinstance(sys.stdout, JsonLines) else "text" if isinstance(sys.stdout, PlainText) else "auto"


def use_format(log_format: LogFormat) -> Callable[[], None]:
    """Put streams of this format in place of ``sys.stdout`` and ``sys.stderr``; the answer undoes it."""
    before = sys.stdout, sys.stderr
    if log_format == "text":
        sys.stdout, sys.stderr = PlainText(sys.stdout), PlainText(sys.stderr)
    elif log_format == "json":
        sys.stdout, sys.stderr = JsonLines(sys.stdout, "info"), JsonLines(sys.stderr, "error")
    ours = sys.stdout, sys.stderr

    def undo() -> None:
        for stream in ours:
            if isinstance(stream, JsonLines):
                stream.close_line()
        sys.stdout, sys.stderr = before

    return undo
