"""What preparing is told, and what of it cannot work together."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final

from pipelines.cluster import ClusterSettings
from pipelines.lineage import LineageSettings
from pipelines.prepare.recipes import recipe
from pipelines.prepare.splitters import SplitSettings, make_splitter
from pipelines.storage import StorageOptions, absolute, join
from qrcore.errors import ConfigError

JOB: Final = "prepare"
_NEEDS_CORPUS: Final = frozenset({"tables", "beir"})
_TEXTS_AND_QUERIES: Final = frozenset({"documents", "text"})


@dataclass(frozen=True, slots=True)
class PrepareSettings:
    """Everything that preparing is told. ``columns``: our column names to those of the input.

    ``depth``: candidates of a first-stage list; None: a run whole, BM25's best 100.
    """

    recipe: str
    inputs: tuple[str, ...]
    output: str
    name: str
    split: SplitSettings
    corpus: str | None
    run: str | None
    queries: str | None
    qrels: str | None
    qrels_split: str
    depth: int | None
    granularity: str
    columns: dict[str, str]
    carry: tuple[str, ...]
    shard_bytes: int
    unit_rows: int
    format: str
    cluster: ClusterSettings
    storage: StorageOptions
    config: dict[str, Any]
    affecting_output: dict[str, Any]
    lineage: LineageSettings = field(default_factory=LineageSettings)


def opened(settings: PrepareSettings) -> PrepareSettings:
    """A BEIR folder as the tables that it consists of."""
    if settings.recipe != "beir":
        return settings
    if len(settings.inputs) != 1:
        raise ConfigError(f"recipe beir: expected one folder as input, got {len(settings.inputs)}. Give one.")
    folder = absolute(settings.inputs[0])
    return replace(
        settings,
        inputs=(join(folder, "queries.jsonl"),),
        corpus=settings.corpus or join(folder, "corpus.jsonl"),
        qrels=settings.qrels or join(folder, "qrels", f"{settings.qrels_split}.tsv"),
        columns={"query_id": "_id", "query": "text", **settings.columns},
    )


def check(settings: PrepareSettings) -> None:
    """Refuse what cannot work before anything is read."""
    recipe(settings.recipe)
    make_splitter(settings.split)
    if settings.recipe in _NEEDS_CORPUS and settings.corpus is None:
        raise ConfigError(f"recipe {settings.recipe}: expected a corpus, got none. Give it with --corpus.")
    if settings.recipe not in _NEEDS_CORPUS and (settings.corpus or settings.run):
        raise ConfigError(f"recipe {settings.recipe}: has no use for a corpus or a run. Leave them out.")
    if settings.recipe == "text" and settings.queries is None:
        raise ConfigError("recipe text: expected a table of queries, got none. Give it with --queries.")
    if settings.recipe not in _TEXTS_AND_QUERIES and settings.queries:
        raise ConfigError(f"recipe {settings.recipe}: has its queries in its rows. Leave --queries out.")
    reserved = {"query_id", "query", "candidates", "answers", "date", "kind", "group"} & set(settings.carry)
    if reserved:
        raise ConfigError(f"carry: {', '.join(sorted(reserved))} are columns of every shard. Name others.")
