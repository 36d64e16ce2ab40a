"""A tokenizer alone, for counting and for offsets: no model is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from transformers import AutoTokenizer

from qrcore.errors import ConfigError
from qrcore.shipped import EMBEDDED_MODELS, embedded_folder


@dataclass(frozen=True, slots=True, eq=False)
class TextTokenizer:
    """Counts tokens of plain text: no special token is added, and none is read from the text."""

    name: str
    sha256: str
    backend: Any

    @classmethod
    def load(cls, name: str, revision: str | None = None) -> TextTokenizer:
        """The tokenizer of a model folder, a hub id or a shipped model. Raises :class:`ConfigError`."""
        return _load(name, revision)

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``."""
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def count(self, text: str) -> int:
        """Tokens of ``text``."""
        return len(self.backend.encode(text, add_special_tokens=False).ids)

    def count_many(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""
        return [len(found.ids) for found in self.backend.encode_batch(list(texts), add_special_tokens=False)]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Half-open character spans of the tokens of ``text``."""
        return list(self.backend.encode(text, add_special_tokens=False).offsets)


@lru_cache(maxsize=4)
def _load(name: str, revision: str | None) -> TextTokenizer:
    place = str(embedded_folder(name)) if name in EMBEDDED_MODELS else name
    try:
        loaded = AutoTokenizer.from_pretrained(place, revision=revision)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise ConfigError(
            f"tokenizer {name!r}: expected a folder with a tokenizer or a hub id; {_first_line(error)}. "
            "Correct the name."
        ) from error
    if not getattr(loaded, "is_fast", False):
        raise ConfigError(
            f"tokenizer {name!r}: expected one with character offsets (a tokenizer.json). Convert it with transformers."
        )
    backend = loaded.backend_tokenizer
    return TextTokenizer(name, hashlib.sha256(backend.to_str().encode()).hexdigest(), _plain(backend))


def _plain(backend: Any) -> Any:
    # A private copy that neither truncates nor pads, whatever the folder's settings say.
    copy = type(backend).from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    copy.encode_special_tokens = True
    return copy


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
