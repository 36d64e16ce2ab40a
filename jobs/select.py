"""``qrbatch select``: its configuration, and from there to a committed run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from jobs.config import (
    ActorsConfig,
    ClusterConfig,
    ContextsConfig,
    CostConfig,
    EngineConfig,
    LineageConfig,
    ModelConfig,
    OutputConfig,
    ScoringConfig,
    StorageConfig,
    UnitsConfig,
)
from jobs.rerank import absolute_model, context_settings, run_settings, scorer_settings, with_endpoint
from jobs.settings import Section, flatten, run_name, setting
from qrcore.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.job import Observer, RunResult
    from pipelines.select import SelectSettings


class RankedConfig(Section):
    """What goes in."""

    uri: str = setting(
        ...,
        "A committed run of rerank; or shards that are scored here: a Parquet file, a folder, a run of prepare.",
        affects_output=False,
        flag="--input",
        uri=True,
    )
    carry: Literal["all", "none"] | tuple[str, ...] = setting(
        "all",
        "Further columns to copy from input to output: all, none or a list of names.",
        affects_output=True,
        expected="all, none or a list of names",
    )


class PolicyConfig(Section):
    """Which pieces are kept."""

    name: Literal["top_k", "token_budget", "score_mass", "relative_threshold", "neighbours", "source_quota"] = setting(
        "token_budget", "What decides.", affects_output=True, flag="--policy"
    )
    top: int = setting(
        10, "Pieces (top_k, source_quota) or hits (neighbours).", affects_output=True, gt=0, flag="--top"
    )
    budget_tokens: int | None = setting(
        None,
        "Tokens of the context, with every policy; empty: no limit.",
        affects_output=True,
        ge=0,
        flag="--budget-tokens",
    )
    overflow: Literal["skip", "stop"] = setting(
        "skip", "A piece beyond the budget is skipped, or ends the choice.", affects_output=True
    )
    mass: float = setting(0.8, "Share of the positive scores (score_mass).", affects_output=True, gt=0, le=1)
    relative: float = setting(0.5, "Share of the best score (relative_threshold).", affects_output=True, gt=0, le=1)
    around: int = setting(1, "Pieces on each side of a hit (neighbours).", affects_output=True, ge=0)
    per_source: int = setting(2, "Pieces of one document (source_quota).", affects_output=True, gt=0)
    min_score: None = setting(None, "Refused, since scores are relative to their list.", affects_output=True)

    @field_validator("min_score", mode="before")
    @classmethod
    def _refuse(cls, value: Any) -> None:
        if value is not None:
            raise ValueError(
                "scores are relative to their list and often negative, so no absolute minimum means the same for two "
                "queries; use relative_threshold or score_mass"
            )


class RenderConfig(Section):
    """How a bundle becomes text. Templates are Jinja, or ``@FILE``."""

    order: Literal["original", "best_first", "best_last"] = setting(
        "original", "Order of segments in the context.", affects_output=True
    )
    template: str | None = setting(
        None, "The context, from segments (title, text, score, rank) and query.", affects_output=True
    )
    system: str | None = setting(None, "System message.", affects_output=True)
    user: str | None = setting(None, "User message, from context, query and carried columns.", affects_output=True)
    assistant: str | None = setting(
        None, "Assistant message for training, such as {{ answers[0] }}.", affects_output=True
    )


class TokenizerConfig(Section):
    """The model that will read the context."""

    id: str = setting(
        "embedded",
        "Whose tokens are counted: a folder, hub id or shipped model.",
        affects_output=True,
        flag="--tokenizer",
    )
    revision: str | None = setting(None, "Revision of a hub tokenizer.", affects_output=True)


class LongContextsConfig(ContextsConfig):
    """What to do about candidates that do not fit one prompt, where shards are scored here."""

    policy: Literal["error", "tournament"] = setting(
        "tournament",
        "A list that does not fit one prompt: an error row, or windows whose best meet in one last prompt.",
        affects_output=True,
        flag="--contexts",
    )
    long_documents: Literal["whole", "split_and_pool", "truncate_documents"] = setting(
        "split_and_pool",
        "A document over max_document_tokens: left whole, scored as pieces that are pooled, or cut and counted.",
        affects_output=True,
    )


class SelectConfig(Section):
    """Everything ``qrbatch select`` can be told. ``model``, ``scoring``, ``contexts`` and ``engine`` are for shards; a
    run of rerank is scored already."""

    name: str = run_name("select")
    input: RankedConfig
    output: OutputConfig
    model: ModelConfig = Field(default_factory=ModelConfig)
    scoring: ScoringConfig = Field(default_factory=ScoringConfig)
    contexts: LongContextsConfig = Field(default_factory=LongContextsConfig)
    engine: EngineConfig = Field(default_factory=EngineConfig)
    qrels: str | None = setting(
        None, "Judgements, for the gold recall in the report.", affects_output=False, flag="--qrels", uri=True
    )
    policy: PolicyConfig = Field(default_factory=PolicyConfig)
    render: RenderConfig = Field(default_factory=RenderConfig)
    tokenizer: TokenizerConfig = Field(default_factory=TokenizerConfig)
    units: UnitsConfig = Field(default_factory=UnitsConfig)
    actors: ActorsConfig = Field(default_factory=ActorsConfig)
    cluster: ClusterConfig = Field(default_factory=ClusterConfig)
    storage: StorageConfig = Field(default_factory=StorageConfig)
    cost: CostConfig = Field(default_factory=CostConfig)
    lineage: LineageConfig = Field(default_factory=LineageConfig)


def select(config: SelectConfig, observer: Observer) -> RunResult:
    """Run the pipeline; raises errors of :mod:`qrcore.errors`."""
    from pipelines.select import run

    return run(pipeline_settings(config, os.environ), observer)


def pipeline_settings(config: SelectConfig, environment: Mapping[str, str] = MappingProxyType({})) -> SelectSettings:
    """The pipeline's settings for this configuration in this environment."""
    from pipelines.select import ScoringSettings, SelectSettings
    from pipelines.selecting import BundleSettings

    policy, render = config.policy, config.render
    if policy.name == "token_budget" and policy.budget_tokens is None:
        raise ConfigError(
            "policy.budget_tokens: policy token_budget needs a budget, got none. Give --budget-tokens, or choose "
            "another --policy."
        )
    texts = {name: _template(name, getattr(render, name)) for name in ("template", "system", "user", "assistant")}
    given: dict[str, Any] = {name: text for name, text in texts.items() if text is not None}
    return SelectSettings(
        run=run_settings(
            config.model_copy(update={"storage": with_endpoint(config.storage, environment)}),
            flatten(config, only_affecting_output=True),
        ),
        source=config.input.uri,
        bundles=BundleSettings(
            policy=policy.name,
            **policy.model_dump(exclude={"name", "min_score"}),
            order=render.order,
            tokenizer=absolute_model(config.tokenizer.id),
            revision=config.tokenizer.revision,
            **given,
        ),
        carry=config.input.carry,
        scoring=ScoringSettings(scorer_settings(config), config.scoring.order, context_settings(config.contexts)),
        qrels=config.qrels,
    )


def _template(name: str, value: str | None) -> str | None:
    """A template as given, or the content of the file that ``@`` names."""
    if value is None or not value.startswith("@"):
        return value
    try:
        return Path(value[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"render.{name}: expected a readable file {value[1:]!r}; {error}. Check the path.") from error
