"""From the settings of splitting to a function, with the tokenizer that it needs loaded once a process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from qrcore import splitting
from qrcore.errors import ConfigError
from qrcore.splitting import Splitter

SplitBy = Literal["none", "paragraphs", "sentences", "tokens", "pattern"]


@dataclass(frozen=True, slots=True)
class SplitSettings:
    """How long texts are cut; ``turns``: how many turns of a dialogue make a piece."""

    by: SplitBy = "paragraphs"
    max_tokens: int = 256
    overlap_tokens: int = 0
    pattern: str | None = None
    cut: Literal["before", "after"] = "before"
    turns: int = 1
    tokenizer: str = "embedded"
    revision: str | None = None


@lru_cache(maxsize=4)
def make_splitter(settings: SplitSettings) -> Splitter:
    """The splitter of these settings. Raises :class:`ConfigError`."""
    made: dict[str, Callable[[], Splitter]] = {
        "none": lambda: splitting.whole,
        "paragraphs": lambda: splitting.paragraphs,
        "sentences": lambda: splitting.by_sentences(_offsets(settings), settings.max_tokens),
        "tokens": lambda: splitting.by_tokens(_offsets(settings), settings.max_tokens, settings.overlap_tokens),
        "pattern": lambda: splitting.by_pattern(_pattern(settings), settings.cut),
    }
    return made[settings.by]()


def _pattern(settings: SplitSettings) -> str:
    if settings.pattern is None:
        raise ConfigError("split.pattern: expected a regular expression to cut at, got none. Give one.")
    return settings.pattern


def _offsets(settings: SplitSettings) -> splitting.TokenOffsets:
    from qrcore.counting import TextTokenizer

    return TextTokenizer.load(settings.tokenizer, settings.revision).offsets
