"""``qrbatch answer``: from a configuration to a committed run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from jobs.answer_config import AnswerConfig, AnsweringModelConfig
from jobs.console import show_line
from jobs.rerank import absolute_file, absolute_model, run_settings, with_endpoint
from jobs.settings import flatten
from qrcore.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.answers.settings import AnswererSettings, AnswerSettings, CafeOptions, EngineOptions, JudgeSettings
    from pipelines.job import Observer, RunResult


def answer(config: AnswerConfig, observer: Observer) -> RunResult:
    """Run the pipeline; raises errors of :mod:`qrcore.errors`."""
    from pipelines.answer import run

    return run(pipeline_settings(config, os.environ), observer)


def pipeline_settings(config: AnswerConfig, environment: Mapping[str, str] = MappingProxyType({})) -> AnswerSettings:
    """The pipeline's settings for this configuration in this environment."""
    from pipelines.answers.settings import AnswerSettings

    affecting = flatten(config, only_affecting_output=True)
    sections = {
        name for name, wanted in (("cafe", config.method == "cafe"), ("judge", config.judge.model)) if not wanted
    }
    return AnswerSettings(
        run=run_settings(
            config.model_copy(update={"storage": with_endpoint(config.storage, environment)}),
            # What nobody asks for decides nothing.
            {name: value for name, value in affecting.items() if name.split(".")[0] not in sections},
        ),
        source=config.input.uri,
        context=config.input.context,
        template=user_template(config.model),
        answerer=_answerer(config),
        carry=config.input.carry,
        qrels=config.qrels,
        cafe=_cafe(config) if config.method == "cafe" else None,
        baselines=config.baselines,
        judge=_judge(config),
        answers=config.answers,
        keep_documents=config.keep_documents,
        examples=config.report.examples,
        vllm=_engine(config),
    )


def _answerer(config: AnswerConfig) -> AnswererSettings:
    from pipelines.answers.settings import AnswererSettings

    model = config.model
    return AnswererSettings(
        model=absolute_model(model.id),
        revision=model.revision,
        dtype=model.dtype,
        device=model.device,
        prompt=model.prompt,
        max_new_tokens=model.max_new_tokens,
        batch_tokens=model.batch_tokens,
        threads=config.actors.threads,
    )


def _cafe(config: AnswerConfig) -> CafeOptions:
    from pipelines.answers.settings import CafeOptions

    cafe = config.cafe
    named = {"coarse_heads", "fine_heads", "on_mismatch"}
    return CafeOptions(
        coarse_heads=absolute_file(cafe.coarse_heads),
        fine_heads=absolute_file(cafe.fine_heads),
        on_mismatch=cafe.on_mismatch,
        settings=tuple(sorted(cafe.model_dump(exclude=named).items())),
    )


def _engine(config: AnswerConfig) -> EngineOptions | None:
    from pipelines.answers.settings import EngineOptions

    engine = config.engine
    if engine.kind == "transformers":
        return None
    return EngineOptions(tuple(sorted(engine.arguments.items())), engine.batch_rows)


def _judge(config: AnswerConfig) -> JudgeSettings | None:
    from pipelines.answers.settings import AnswererSettings, JudgeSettings

    judge, model = config.judge, config.model
    if judge.model is None:
        return None
    answerer = AnswererSettings(
        model=absolute_model(judge.model),
        revision=judge.revision,
        dtype=model.dtype,
        device=model.device,
        max_new_tokens=judge.max_new_tokens,
        batch_tokens=model.batch_tokens,
        threads=config.actors.threads,
    )
    return JudgeSettings(answerer, None if judge.template is None else _text("judge.template", judge.template))


def user_template(model: AnsweringModelConfig) -> str | None:
    """The user's turn: the user's own template, or that of the style. Raises :class:`ConfigError`."""
    from pipelines.answer_prompts import STYLES

    return STYLES[model.style] if model.template is None else _text("model.template", model.template)


def _text(name: str, value: str) -> str:
    """A template as given, or the content of the file that ``@`` names."""
    if not value.startswith("@"):
        return value
    try:
        return Path(value[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: expected a readable file {value[1:]!r}; {error}. Check the path.") from error


def show_answers(console: Console, result: RunResult, config: AnswerConfig) -> None:
    """The measures of a committed run: of its own answers as lines, of all variants as a table."""
    from pipelines.answer_files import read_report

    report = read_report(result, pipeline_settings(config, os.environ).run.storage)
    own, *others = report["variants"]
    found = dict(own["measures"])
    found |= {name: own[name] for name in ("verdicts", "pairs", "shown_recall", "steered_recall") if own[name]}
    for name, value in found.items():
        show_line(
            console, f"  {name:15}{value['mean']:.3f}  [{value['low']:.3f}, {value['high']:.3f}]  over {value['n']}"
        )
    if others:
        console.print(_table(report["variants"], list(found)))
    if left_out := report["result"]["detection_queries"]:
        show_line(console, f"  left out: {left_out} queries that the heads were found on")


def _table(variants: list[dict[str, object]], measures: list[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("  variant", no_wrap=True)
    for heading in ("answers", *measures):
        table.add_column(heading, justify="right")
    for one in variants:
        table.add_row(f"  {one['name']}", str(one["answered"]), *(_shown(one, name) for name in measures))
    return table


def _shown(variant: dict[str, object], measure: str) -> str:
    measures = variant["measures"]
    found = measures.get(measure) if isinstance(measures, dict) and measure in measures else variant.get(measure)
    return f"{found['mean']:.3f}" if isinstance(found, dict) else "—"
