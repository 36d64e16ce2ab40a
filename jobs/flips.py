"""``qrbatch flips``: its configuration, and from there to a ranking of heads and an audit with them masked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from rich.console import Console

from jobs.config import ActorsConfig, ClusterConfig, LineageConfig, OutputConfig, StorageConfig, UnitsConfig
from jobs.console import show_line
from jobs.detect_config import ExamplesConfig
from jobs.heads import head_set_of
from jobs.rerank import absolute_model, run_settings, with_endpoint
from jobs.settings import Section, flatten, run_name, setting

if TYPE_CHECKING:
    from pipelines.flips.run import FlipSettings
    from pipelines.job import Observer, RunResult


class FlipsModelConfig(Section):
    """Which model is asked."""

    id: str = setting("embedded-gqa", "A model folder, a hub id, 'embedded' or 'embedded-gqa'.", affects_output=True)
    revision: str | None = setting(None, "Revision of a hub model.", affects_output=True)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto", "Precision of the weights; auto: float32 on CPU, the checkpoint's on GPU.", affects_output=True
    )
    device: str = setting("auto", "auto, cpu, cuda or cuda:N as the actor sees it.", affects_output=True)
    prompt: str = setting("auto", "Prompt format: auto, chat, plain or a family's name.", affects_output=True)
    max_new_tokens: int = setting(64, "Tokens of a first answer at most.", affects_output=True, gt=0)
    batch_tokens: int = setting(
        16_384, "Tokens that are decoded at once, prompts and answers together.", affects_output=True, gt=0
    )


class AskingConfig(Section):
    """How the model is asked again."""

    follow_ups: tuple[str, ...] = setting(
        ("Are you sure about your previous answer? Answer only {options}.",),
        "Ways to ask again, {options} stands for the two words; each is asked by itself.",
        affects_output=True,
        min_length=1,
    )
    yes_word: str = setting(
        "yes", "The word by which the model stands by its answer.", affects_output=True, min_length=1
    )
    no_word: str = setting("no", "The word by which it gives it up.", affects_output=True, min_length=1)
    injected: bool = setting(
        True,
        "Ask again after a wrong answer, too: that of the column wrong_answer, or a sentence of another candidate.",
        affects_output=True,
    )
    misleading: bool = setting(
        False,
        "Put the wrong answer before the question that asks again, as a passage.",
        affects_output=True,
        flag="--misleading",
    )
    correct_recall: float = setting(
        0.5, "Share of the needle's words that makes a first answer right.", affects_output=True, gt=0, le=1
    )


class FlipMasksConfig(Section):
    """Which heads are masked on the held-out split, and what that is compared with."""

    mode: Literal["uniform", "zero"] = setting(
        "uniform", "Masked heads attend alike to all tokens, or give nothing.", affects_output=True
    )
    sizes: tuple[Annotated[int, Field(gt=0)], ...] = setting(
        (5, 10, 20), "How many of the ranked heads are masked; all, where a model has fewer.", affects_output=True
    )
    compare: tuple[str, ...] = setting(
        (),
        "Further head sets to mask beside the model's own: names, JSON files, or lists.",
        affects_output=True,
        flag="--compare",
    )
    controls: int = setting(
        5,
        "For each, sets of as many other heads of the same layers.",
        affects_output=True,
        ge=0,
        flag="--controls",
    )
    seed: int = setting(0, "Seed of the control sets.", affects_output=True, ge=0)
    looked_at: int = setting(
        5, "A head looks at the options if one of so many keys with its most attention is of them.",
        affects_output=True,
        gt=0,
    )  # fmt: skip
    at_once: int = setting(6, "Masked copies in one pass.", affects_output=True, gt=0)


class FlipsConfig(Section):
    """Everything ``qrbatch flips`` can be told."""

    name: str = run_name("flips")
    input: ExamplesConfig
    output: OutputConfig
    model: FlipsModelConfig = Field(default_factory=FlipsModelConfig)
    asking: AskingConfig = Field(default_factory=AskingConfig)
    masks: FlipMasksConfig = Field(default_factory=FlipMasksConfig)
    units: UnitsConfig = Field(default_factory=UnitsConfig)
    actors: ActorsConfig = Field(default_factory=ActorsConfig)
    cluster: ClusterConfig = Field(default_factory=ClusterConfig)
    storage: StorageConfig = Field(default_factory=StorageConfig)
    lineage: LineageConfig = Field(default_factory=LineageConfig)


@dataclass(frozen=True, slots=True)
class Audited:
    """The run that ranked heads, and the one that masked them, with its report."""

    fitted: RunResult
    held_out: RunResult
    report: dict[str, Any]


def flips(config: FlipsConfig, observer: Observer) -> Audited:
    """Rank heads on the fit split, then mask them on the other. Raises errors of :mod:`qrcore.errors`."""
    from pipelines.flips.run import REPORT_FILE, run_audit, run_fit
    from pipelines.side_files import read_side_file

    settings = pipeline_settings(config, os.environ)
    fitted = run_fit(settings, observer)
    held_out = run_audit(settings, fitted, observer)
    storage = settings.run.storage
    report = read_side_file(held_out.run_uri, held_out.manifest.side_files, REPORT_FILE, storage)
    return Audited(fitted, held_out, report)


def pipeline_settings(config: FlipsConfig, environment: Mapping[str, str] = MappingProxyType({})) -> FlipSettings:
    """The pipeline's settings for this configuration in this environment."""
    from pipelines.answers.settings import AnswererSettings
    from pipelines.flips.model import FlipModel
    from pipelines.flips.run import FlipSettings

    affecting_output = flatten(config, only_affecting_output=True)
    config = config.model_copy(update={"storage": with_endpoint(config.storage, environment)})
    model, masks = config.model, config.masks
    compared = [head_set_of(one) for one in masks.compare]
    return FlipSettings(
        run=run_settings(config, affecting_output),
        model=FlipModel(
            answerer=AnswererSettings(
                model=absolute_model(model.id), threads=config.actors.threads, **model.model_dump(exclude={"id"})
            ),
            mask_mode=masks.mode,
            looked_at=masks.looked_at,
            masks_at_once=masks.at_once,
            **config.asking.model_dump(),
        ),
        sizes=masks.sizes,
        compared={one.id: one.heads for one in compared},
        controls=masks.controls,
        seed=masks.seed,
    )


def show_flips(console: Console, audited: Audited) -> None:
    """Rates of a committed audit by mask, as lines."""
    for mask in audited.report["masks"]:
        told = "  ".join(f"{name} {rate['value']:.3f}" for name, rate in mask["rates"].items())
        show_line(console, f"  {mask['name']:12}  {told}")
    show_line(console, ("note", "yellow"), f"  {audited.report['note']}")
