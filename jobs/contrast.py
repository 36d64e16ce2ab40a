"""``qrbatch contrast``: its configuration, and from there to a committed run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from rich.console import Console

from jobs.answer import user_template
from jobs.answer_config import AnsweredConfig, AnsweringModelConfig
from jobs.config import (
    ActorsConfig,
    ClusterConfig,
    LineageConfig,
    OutputConfig,
    ReportConfig,
    StorageConfig,
    UnitsConfig,
)
from jobs.console import show_line
from jobs.rerank import absolute_file, absolute_model, run_settings, with_endpoint
from jobs.settings import Section, flatten, run_name, setting

if TYPE_CHECKING:
    from pipelines.contrast.run import ContrastSettings
    from pipelines.job import Observer, RunResult


class ContrastedConfig(AnsweredConfig):
    """What goes in: the same as for answer."""


class ContrastedModelConfig(AnsweringModelConfig):
    """Which model answers, how, and which of its heads are masked."""

    heads: str | None = setting(
        None,
        "Head set: a list such as 3-1,4-0, 'all', a name or a JSON file; empty: the model's own.",
        affects_output=True,
    )
    on_mismatch: Literal["refuse", "warn"] = setting(
        "refuse",
        "A head set that was found for another revision or other weights than the model's.",
        affects_output=False,
        flag="--allow-model-mismatch",
    )


class HeadMaskConfig(Section):
    """What is done to the heads, and what it is compared with."""

    mode: Literal["uniform", "zero"] = setting(
        "uniform", "Masked heads attend alike to all tokens (DeCoRe), or give nothing.", affects_output=True
    )
    scope: Literal["decode", "all"] = setting(
        "decode", "Masked while the answer is generated (DeCoRe), or in the prompt, too.", affects_output=True
    )
    controls: int = setting(
        0,
        "Sets of other heads of the same layers that are contrasted, too: each takes as long as the answer itself.",
        affects_output=True,
        ge=0,
        flag="--controls",
    )
    seed: int = setting(0, "Seed of the control sets.", affects_output=True, ge=0)


class WeightConfig(Section):
    """How much the contrast weighs: logits are (1 + a) log p_base - a log p_masked."""

    alpha: float | None = setting(
        None,
        "A fixed a; empty: the entropy of the next token in nats (DeCoRe). 0: plain greedy answers.",
        affects_output=True,
        ge=0,
        allow_inf_nan=False,
        flag="--alpha",
    )
    alpha_cap: float | None = setting(
        None, "Largest a, where it is the entropy.", affects_output=True, ge=0, allow_inf_nan=False
    )
    normalised: bool = setting(
        False, "Take the entropy as a share of the largest one, ln(vocabulary).", affects_output=True
    )
    plain: bool = setting(True, "Answer without contrast, too, to tell the difference.", affects_output=True)


class NegativesConfig(Section):
    """Answers with the heads masked as unfaithful samples, in rows ready for faithfulness tuning (RHIO)."""

    emit: bool = setting(False, "Write tuning.parquet and tuning.jsonl.", affects_output=True, flag="--emit-negatives")
    faithful: Literal["auto", "gold", "plain"] = setting(
        "auto",
        "The faithful sample beside it: the gold answer, the plain one, or (auto) gold where there is one.",
        affects_output=True,
    )
    max_support: float | None = setting(
        None,
        "Leave out masked answers of whose tokens the context holds a larger share; empty: none.",
        affects_output=True,
        ge=0,
        le=1,
    )
    faithful_token: str = setting(
        "[POS]", "Control token before the prompt of a faithful sample.", affects_output=True, min_length=1
    )
    masked_token: str = setting(
        "[NEG]", "Control token before the prompt of an unfaithful sample.", affects_output=True, min_length=1
    )


class ContrastConfig(Section):
    """Everything ``qrbatch contrast`` can be told."""

    name: str = run_name("contrast")
    input: ContrastedConfig
    output: OutputConfig
    qrels: str | None = setting(
        None, "Judgements, for the context oracle.", affects_output=False, flag="--qrels", uri=True
    )
    model: ContrastedModelConfig = Field(default_factory=ContrastedModelConfig)
    mask: HeadMaskConfig = Field(default_factory=HeadMaskConfig)
    contrast: WeightConfig = Field(default_factory=WeightConfig)
    negatives: NegativesConfig = Field(default_factory=NegativesConfig)
    report: ReportConfig = Field(default_factory=ReportConfig)
    units: UnitsConfig = Field(default_factory=UnitsConfig)
    actors: ActorsConfig = Field(default_factory=ActorsConfig)
    cluster: ClusterConfig = Field(default_factory=ClusterConfig)
    storage: StorageConfig = Field(default_factory=StorageConfig)
    lineage: LineageConfig = Field(default_factory=LineageConfig)


def contrast(config: ContrastConfig, observer: Observer) -> RunResult:
    """Run the pipeline; raises errors of :mod:`qrcore.errors`."""
    from pipelines.contrast.run import run

    return run(pipeline_settings(config, os.environ), observer)


def pipeline_settings(
    config: ContrastConfig, environment: Mapping[str, str] = MappingProxyType({})
) -> ContrastSettings:
    """The pipeline's settings for this configuration in this environment."""
    from pipelines.answers.settings import AnswererSettings
    from pipelines.contrast.model import ContrastModel, TuningSettings
    from pipelines.contrast.run import ContrastSettings

    affecting_output = flatten(config, only_affecting_output=True)
    config = config.model_copy(update={"storage": with_endpoint(config.storage, environment)})
    model, mask, weight, negatives = config.model, config.mask, config.contrast, config.negatives
    method = {"mask_mode": mask.mode, "mask_scope": mask.scope, **weight.model_dump(exclude={"plain"})}
    return ContrastSettings(
        run=run_settings(config, affecting_output),
        source=config.input.uri,
        context=config.input.context,
        template=user_template(model),
        model=ContrastModel(
            answerer=AnswererSettings(
                model=absolute_model(model.id),
                threads=config.actors.threads,
                **model.model_dump(exclude={"id", "style", "template", "heads", "on_mismatch"}),
            ),
            heads=absolute_file(model.heads),
            on_mismatch=model.on_mismatch,
            method=tuple(sorted(method.items())),
            controls=mask.controls,
            seed=mask.seed,
            plain=weight.plain or (negatives.emit and negatives.faithful != "gold"),
            masked=negatives.emit,
        ),
        carry=config.input.carry,
        qrels=config.qrels,
        tuning=TuningSettings(**negatives.model_dump(exclude={"emit"})) if negatives.emit else None,
        examples=config.report.examples,
    )


def show_contrast(console: Console, result: RunResult, config: ContrastConfig) -> None:
    """What contrast changed in a committed run, as lines."""
    from pipelines.side_files import read_side_file

    storage = pipeline_settings(config, os.environ).run.storage
    report = read_side_file(result.run_uri, result.manifest.side_files, "report.json", storage)
    changed = report["changed"]
    show_line(console, f"  tokens changed   {changed['tokens']:,} of {changed['steps']:,} steps")
    if report["result"]["changed"] is not None:
        show_line(console, f"  answers changed  {report['result']['changed']:,} of {report['result']['scored']:,}")
    for way in report["ways"]:
        told = "  ".join(f"{name} {value['mean']:.3f}" for name, value in way["measures"].items())
        show_line(console, f"  {way['name']:15}  {told}")
    if report["tuning"]:
        show_line(console, f"  tuning pairs     {report['tuning']['pairs']:,}")
