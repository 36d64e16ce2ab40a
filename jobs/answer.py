"""``qrbatch answer``: its configuration, and from there to a committed run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from rich.console import Console

from jobs.config import ActorsConfig, ClusterConfig, LineageConfig, OutputConfig, StorageConfig, UnitsConfig
from jobs.console import show_line
from jobs.rerank import absolute_model, run_settings, with_endpoint
from jobs.settings import Section, flatten, run_name, setting
from qrcore.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.answer import AnswerSettings
    from pipelines.job import Observer, RunResult


class AnsweredConfig(Section):
    """What goes in."""

    uri: str = setting(
        ...,
        "A committed run of select; or shards: a Parquet file, a folder, a run of prepare.",
        affects_output=False,
        flag="--input",
        uri=True,
    )
    context: Literal["auto", "bundle", "full", "oracle"] = setting(
        "auto",
        "What is answered from: bundles, all candidates, or the judged relevant ones; auto: bundles if there are any.",
        affects_output=True,
        flag="--context",
    )
    carry: Literal["all", "none"] | tuple[str, ...] = setting(
        "all",
        "Further columns to copy from input to output: all, none or a list of names; answers and group are judged by.",
        affects_output=True,
        expected="all, none or a list of names",
    )


class AnsweringModelConfig(Section):
    """Which model answers, and how."""

    id: str = setting("embedded-gqa", "A model folder, a hub id, 'embedded' or 'embedded-gqa'.", affects_output=True)
    revision: str | None = setting(None, "Revision of a hub model.", affects_output=True)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto", "Precision of the weights; auto: float32 on CPU, the checkpoint's on GPU.", affects_output=True
    )
    device: str = setting("auto", "auto, cpu, cuda or cuda:N as the actor sees it.", affects_output=True)
    prompt: str = setting("auto", "Retrieval prompt of the style paragraphs, as in rerank.", affects_output=True)
    style: Literal["paragraphs", "longmemeval", "clipper", "plain"] = setting(
        "paragraphs",
        "How it is asked: in the model's retrieval prompt, or by a template for that task.",
        affects_output=True,
        flag="--style",
    )
    template: str | None = setting(
        None, "A template of your own (Jinja, or @FILE) from context, query and carried columns.", affects_output=True
    )
    max_new_tokens: int = setting(64, "Tokens of an answer at most.", affects_output=True, gt=0)
    batch_tokens: int = setting(
        16_384, "Tokens that are decoded at once, prompts and answers together.", affects_output=True, gt=0
    )


class AnswerConfig(Section):
    """Everything ``qrbatch answer`` can be told."""

    name: str = run_name("answer")
    input: AnsweredConfig
    output: OutputConfig
    qrels: str | None = setting(
        None, "Judgements, for the context oracle.", affects_output=False, flag="--qrels", uri=True
    )
    model: AnsweringModelConfig = Field(default_factory=AnsweringModelConfig)
    units: UnitsConfig = Field(default_factory=UnitsConfig)
    actors: ActorsConfig = Field(default_factory=ActorsConfig)
    cluster: ClusterConfig = Field(default_factory=ClusterConfig)
    storage: StorageConfig = Field(default_factory=StorageConfig)
    lineage: LineageConfig = Field(default_factory=LineageConfig)


def answer(config: AnswerConfig, observer: Observer) -> RunResult:
    """Run the pipeline; raises errors of :mod:`qrcore.errors`."""
    from pipelines.answer import run

    return run(pipeline_settings(config, os.environ), observer)


def pipeline_settings(config: AnswerConfig, environment: Mapping[str, str] = MappingProxyType({})) -> AnswerSettings:
    """The pipeline's settings for this configuration in this environment."""
    from pipelines.answer import AnswererSettings, AnswerSettings

    model = config.model
    return AnswerSettings(
        run=run_settings(
            config.model_copy(update={"storage": with_endpoint(config.storage, environment)}),
            flatten(config, only_affecting_output=True),
        ),
        source=config.input.uri,
        context=config.input.context,
        template=user_template(model),
        answerer=AnswererSettings(
            model=absolute_model(model.id),
            revision=model.revision,
            dtype=model.dtype,
            device=model.device,
            prompt=model.prompt,
            max_new_tokens=model.max_new_tokens,
            batch_tokens=model.batch_tokens,
            threads=config.actors.threads,
        ),
        carry=config.input.carry,
        qrels=config.qrels,
    )


def user_template(model: AnsweringModelConfig) -> str | None:
    """The user's turn: the user's own template, or that of the style. Raises :class:`ConfigError`."""
    from pipelines.answer_prompts import STYLES

    if model.template is None:
        return STYLES[model.style]
    if not model.template.startswith("@"):
        return model.template
    try:
        return Path(model.template[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"model.template: expected a readable file {model.template[1:]!r}; {error}. Check the path."
        ) from error


def show_answers(console: Console, result: RunResult, config: AnswerConfig) -> None:
    """The measures of a committed run, as lines."""
    from pipelines.answer_files import read_report

    report = read_report(result, pipeline_settings(config, os.environ).run.storage)
    found = dict(report["measures"])
    found |= {name: report[name] for name in ("verdicts", "pairs") if report[name]}
    for name, value in found.items():
        show_line(
            console, f"  {name:12}{value['mean']:.3f}  [{value['low']:.3f}, {value['high']:.3f}]  over {value['n']}"
        )
