"""``qrbatch prepare``: its configuration, and from there to a committed run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from jobs.config import ClusterConfig, LineageConfig, OutputConfig, StorageConfig
from jobs.rerank import absolute_model, with_endpoint
from jobs.settings import Section, flatten, run_name, setting

if TYPE_CHECKING:
    from pipelines.job import Observer, RunResult
    from pipelines.prepare.settings import PrepareSettings


class PrepareInputConfig(Section):
    """What goes in."""

    uris: tuple[str, ...] = setting(
        ...,
        "Parquet, JSON Lines, JSON or text files, folders of them, or committed runs; local paths or s3://.",
        affects_output=False,
        flag="--input",
        uri=True,
        min_length=1,
    )
    corpus: str | None = setting(
        None, "Documents with doc_id, text and title.", affects_output=False, flag="--corpus", uri=True
    )
    run: str | None = setting(
        None,
        "First-stage run: a TREC file or Parquet; empty: BM25 over the corpus.",
        affects_output=False,
        flag="--run",
        uri=True,
    )
    queries: str | None = setting(
        None, "Queries with query_id, query and document_id.", affects_output=False, flag="--queries", uri=True
    )
    qrels: str | None = setting(
        None, "Judgements (Parquet, TREC or BEIR's tsv).", affects_output=False, flag="--qrels", uri=True
    )
    qrels_split: str = setting("test", "Split of a BEIR folder.", affects_output=True)
    depth: int | None = setting(
        None, "Candidates of a query; empty: the run whole, BM25's best 100.", affects_output=True, gt=0
    )
    columns: dict[str, str] = setting(
        {}, "Our column names to those of the input, such as {query_id: qid}.", affects_output=True
    )
    carry: tuple[str, ...] = setting((), "Further columns to copy, as text.", affects_output=True)


class SplitConfig(Section):
    """How long texts and dialogues are cut into pieces."""

    by: Literal["none", "paragraphs", "sentences", "tokens", "pattern"] = setting(
        "paragraphs", "What a piece of a document is.", affects_output=True
    )
    max_tokens: int = setting(256, "Tokens of a piece, by sentences or by tokens.", affects_output=True, gt=0)
    overlap_tokens: int = setting(0, "Tokens that a piece shares with the one before it.", affects_output=True, ge=0)
    pattern: str | None = setting(None, "Regular expression to cut at.", affects_output=True)
    cut: Literal["before", "after"] = setting("before", "Where a match is cut.", affects_output=True)
    turns: int = setting(1, "Turns of a dialogue that make a piece.", affects_output=True, gt=0)
    granularity: Literal["fine", "coarse"] = setting(
        "fine", "Pieces of LongMemEval (rounds or sessions) and LoCoMo (turns or sessions).", affects_output=True
    )
    tokenizer: str = setting(
        "embedded", "Whose tokens are counted: a folder, hub id or shipped model.", affects_output=True
    )
    revision: str | None = setting(None, "Revision of a hub tokenizer.", affects_output=True)


class ShardsConfig(Section):
    """How the output is cut."""

    bytes: int = setting(64 * 2**20, "Text of a shard, in bytes; a larger row is alone.", affects_output=True, gt=0)
    rows: int = setting(100_000, "Source rows of a unit of work.", affects_output=True, gt=0)
    format: Literal["parquet", "jsonl"] = setting("parquet", "Format of the shards.", affects_output=True)


class PrepareConfig(Section):
    """Everything ``qrbatch prepare`` can be told."""

    name: str = run_name("prepare")
    recipe: str = setting(..., "What the input is.", affects_output=True, flag="--recipe")
    input: PrepareInputConfig
    output: OutputConfig
    split: SplitConfig = Field(default_factory=SplitConfig)
    shards: ShardsConfig = Field(default_factory=ShardsConfig)
    cluster: ClusterConfig = Field(default_factory=ClusterConfig)
    storage: StorageConfig = Field(default_factory=StorageConfig)
    lineage: LineageConfig = Field(default_factory=LineageConfig)


def prepare(config: PrepareConfig, observer: Observer) -> RunResult:
    """Run the pipeline; raises errors of :mod:`qrcore.errors`."""
    from pipelines.prepare.run import run

    return run(pipeline_settings(config, os.environ), observer)


def pipeline_settings(config: PrepareConfig, environment: Mapping[str, str] = MappingProxyType({})) -> PrepareSettings:
    """The pipeline's settings for this configuration in this environment."""
    from pipelines.cluster import ClusterSettings
    from pipelines.lineage import LineageSettings
    from pipelines.prepare.settings import PrepareSettings
    from pipelines.prepare.splitters import SplitSettings
    from pipelines.storage import StorageOptions

    split = config.split.model_dump(exclude={"granularity"})
    split["tokenizer"] = absolute_model(split["tokenizer"])
    given = config.input
    return PrepareSettings(
        recipe=config.recipe,
        inputs=given.uris,
        output=config.output.uri,
        name=config.name,
        split=SplitSettings(**split),
        corpus=given.corpus,
        run=given.run,
        queries=given.queries,
        qrels=given.qrels,
        qrels_split=given.qrels_split,
        depth=given.depth,
        granularity=config.split.granularity,
        columns=given.columns,
        carry=given.carry,
        shard_bytes=config.shards.bytes,
        unit_rows=config.shards.rows,
        format=config.shards.format,
        cluster=ClusterSettings(config.cluster.address),
        storage=StorageOptions(**with_endpoint(config.storage, environment).model_dump()),
        config=flatten(config),
        affecting_output=flatten(config, only_affecting_output=True),
        lineage=LineageSettings(**config.lineage.model_dump()),
    )
