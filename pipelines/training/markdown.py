"""Markdown that reads well as plain text too: aligned tables, short lines, and given text that is no markup."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import Final

LINE: Final = 118

# What would begin a list, a heading, a quotation or a table if a line began with it.
_OPENS_A_BLOCK: Final = re.compile(r" (?=(?:\d{1,9}[.)]|[-+*>|=]|#{1,6})(?:\s|$))")
_GLUE: Final = "\0"
_BLANKS: Final = re.compile("[ \t\r\n]+")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table with aligned columns; those whose places are in `numbers` stand to the right."""
    lines = [[_cell(value) for value in line] for line in (header, *rows)]
    widths = [max(3, *(len(line[place]) for line in lines)) for place in range(len(header))]
    rule = [
        "-" * (width - 1) + ":" if place in numbers else ":" + "-" * (width - 1) for place, width in enumerate(widths)
    ]

    def padded(line: Sequence[str]) -> list[str]:
        pairs = enumerate(zip(line, widths, strict=True))
        return [value.rjust(width) if place in numbers else value.ljust(width) for place, (value, width) in pairs]

    return "\n".join(f"| {' | '.join(cells)} |" for cells in (padded(lines[0]), rule, *map(padded, lines[1:])))


def wrapped(text: str) -> str:
    """Paragraphs and list items in short lines; tables, headings, HTML and fenced code stay as they are."""
    blocks = (block.strip("\n") for block in re.split(r"\n\s*\n", text))
    return "\n\n".join(_wrapped_block(block) for block in blocks if block.strip()) + "\n"


def filled(text: str, indent: str = "") -> str:
    """One paragraph in lines of at most :data:`LINE` characters, none of which begins another kind of block."""
    glued = _OPENS_A_BLOCK.sub(_GLUE, _BLANKS.sub(" ", text).strip())
    lines = textwrap.wrap(glued, LINE, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).replace(_GLUE, " ")


def plain(text: str) -> str:
    """Text of others on one line, in which nothing is markup."""
    line = re.sub(r"([\\`*\[\]<>|~])", r"\\\1", _one_line(text))
    line = re.sub(r"&(?=#?\w+;)", r"\\&", line)
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", line)


def code(text: str, length: int = 300) -> str:
    """The beginning of a text of others as code, which is shown as it is; ``(nothing)`` for an empty one."""
    line = _one_line(text)
    line = line if len(line) <= length else f"{line[:length]}…"
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if "`" in line else f"{fence}{line}{fence}" if line else "(nothing)"


def _one_line(text: str) -> str:
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())


def _cell(value: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", _BLANKS.sub(" ", value).strip())


def _wrapped_block(block: str) -> str:
    if block.startswith(("|", "#", "<", "```")):
        return block
    items = re.split(r"\n(?=- )", block)
    return "\n".join(filled(item, "  " if item.startswith("- ") else "") for item in items)
