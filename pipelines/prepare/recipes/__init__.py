"""One recipe a file: a name, the columns that it reads, and a function from a source row to rows of a shard.

``recipe(name)`` finds them; a new recipe is a new file here and edits no old one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.resources import files
from typing import Any, Protocol

from pipelines.prepare.records import Prepared
from qrcore.errors import ConfigError
from qrcore.splitting import Splitter, whole


class Corpus(Protocol):
    """Documents by id, and the first stage over them."""

    def candidates(self, query_id: str, query: str) -> Sequence[Any]:
        """Pieces for one query, best first. Raises :class:`qrcore.errors.ScoreError`."""
        ...


@dataclass(frozen=True, slots=True)
class Tools:
    """What recipes are given: how to split texts and turns, and the tables beside the input, where there are any."""

    split: Splitter = whole
    turns: int = 1
    granularity: str = "fine"
    corpus: Corpus | None = None
    queries: Mapping[str, Sequence[tuple[str, str]]] | None = None
    gold: Mapping[str, Mapping[str, int]] | None = None
    only_judged: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recipe:
    """``columns``: what it reads, for people and for the report. ``prepare``: a source row into rows of a shard.

    ``prepare`` raises :class:`qrcore.errors.ScoreError` for a row that cannot be read; yielding nothing means that the
    row is left out on purpose, which is counted.
    """

    columns: Mapping[str, str]
    prepare: Callable[[dict[str, Any], Tools], Iterator[Prepared]]


def names() -> list[str]:
    """All recipes."""
    folder = files(__package__ or __name__)
    return sorted(
        entry.name[:-3] for entry in folder.iterdir() if entry.name.endswith(".py") and not entry.name.startswith("_")
    )


def recipe(name: str) -> Recipe:
    """The recipe of this name. Raises :class:`ConfigError`."""
    if name not in names():
        raise ConfigError(f"recipe: expected one of {', '.join(names())}; got {name!r}. Choose one of these.")
    found: Recipe = import_module(f"{__name__}.{name}").RECIPE
    return found
