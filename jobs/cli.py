"""The command line: ``qrbatch JOB …``. Exit codes: see :func:`main`."""

from __future__ import annotations

import sys
from importlib import metadata
from typing import Annotated, Any

import typer
from rich.console import Console

from jobs import context_cli, heads_cli, operate, runs, steer_cli
from jobs.committing import commit_job, with_progress
from jobs.config import RerankConfig
from jobs.demo import QUESTIONS, show_demo
from jobs.demo import demo as run_demo
from jobs.logs import LogFormat, use_format
from jobs.settings import validate
from jobs.shell import (
    COMMITTED,
    AllowMismatch,
    Assignments,
    Config,
    Debug,
    Heads,
    Inputs,
    Model,
    Name,
    Output,
    Prompt,
    Texts,
    exit_code_of,
    gather,
    guarded,
)

app = typer.Typer(
    name="qrbatch",
    help="Offline batch re-ranking with the query-focused retrieval heads of decoder language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"qrbatch {metadata.version('qrbatch')}")
        raise typer.Exit


@app.callback()
def _program(
    context: typer.Context,
    log_format: Annotated[
        LogFormat,
        typer.Option(
            envvar="QRBATCH_LOG_FORMAT",
            help="auto: made for the terminal, if there is one; text: plain; json: one object a line.",
        ),
    ] = "auto",
    _version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    context.call_on_close(use_format(log_format))


def rerank(
    inputs: Inputs = None,
    output: Output = None,
    model: Model = None,
    heads: Heads = None,
    prompt: Prompt = None,
    contexts: Annotated[
        str | None, typer.Option(help="Lists that do not fit one prompt: error (default) or tournament.")
    ] = None,
    name: Name = None,
    qrels: Annotated[str | None, typer.Option(help="Judgements for the report's quality table.")] = None,
    allow_model_mismatch: AllowMismatch = False,
    rows_from: Annotated[
        str | None, typer.Option("--rows-from", help="Score only the failed rows of a committed run: RUN/errors.")
    ] = None,
    join: Annotated[bool, typer.Option("--join", help="Help another driver that works on the same run.")] = False,
    config: Config = None,
    assignments: Assignments = None,
    debug: Debug = False,
) -> None:
    """Re-rank the candidates of every query in Parquet shards."""
    flags = {
        "input.uris": inputs or ([rows_from] if rows_from else None),
        "input.rows_from": rows_from,
        "join": join or None,
        "output.uri": output,
        "model.id": model,
        "model.heads": heads,
        "model.on_mismatch": "warn" if allow_model_mismatch else None,
        "scoring.prompt": prompt,
        "contexts.policy": contexts,
        "name": name,
        "qrels": qrels,
    }
    raise typer.Exit(guarded(lambda: _rerank(config, flags, assignments or []), debug))


def _rerank(config_file: str | None, flags: dict[str, Any], assignments: list[str]) -> int:
    from jobs.rerank import rerank as run_rerank

    values = gather(config_file, flags, assignments)
    return commit_job(RerankConfig, values, run_rerank, judged_by=lambda config: config.qrels)


def demo(
    output: Annotated[str, typer.Option(help="Folder for the collection and its run.")] = "demo-output",
    questions: Annotated[str, typer.Option(help="Questions with their judged answers (JSON lines).")] = QUESTIONS,
    split: Annotated[str | None, typer.Option(help="Only the questions of this split: dev or test.")] = None,
    debug: Debug = False,
) -> None:
    """Re-rank real questions over this Python's own documentation with the embedded model."""
    raise typer.Exit(guarded(lambda: _demo(output, questions, split), debug))


def _demo(output: str, questions: str, split: str | None) -> int:
    from jobs.console import show_result

    console = Console()
    result = with_progress(console, lambda observer: run_demo(output, questions, split, observer))
    show_demo(console, result)
    console.print()
    show_result(console, result.run)
    return exit_code_of(result.run)


def detect(
    inputs: Inputs = None,
    qrels: Annotated[str | None, typer.Option(help="Judgements: which candidates are relevant.")] = None,
    output: Output = None,
    model: Model = None,
    method: Annotated[
        str | None,
        typer.Option(help="The method that chooses: qrscore, ndcg, core, share, copy or key_value (--input texts)."),
    ] = None,
    top: Annotated[int | None, typer.Option(help="Heads to choose.")] = None,
    compare: Annotated[
        list[str] | None, typer.Option(help="Another head set to prove the choice against; repeatable.")
    ] = None,
    prompt: Prompt = None,
    name: Annotated[str | None, typer.Option(help="Name of the run and of the head set.")] = None,
    config: Config = None,
    assignments: Assignments = None,
    debug: Debug = False,
) -> None:
    """Find the retrieval heads of a model on labelled examples, and prove the choice on others."""
    flags = {
        "input.uris": inputs or None,
        "qrels": qrels,
        "output.uri": output,
        "model.id": model,
        "methods.method": method,
        "methods.top": top,
        "compare": compare or None,
        "reading.prompt": prompt,
        "name": name,
    }
    raise typer.Exit(guarded(lambda: _detect(config, flags, assignments or []), debug))


def _detect(config_file: str | None, flags: dict[str, Any], assignments: list[str]) -> int:
    from jobs.console import show_result
    from jobs.detect import detect as run_detection
    from jobs.detect_config import DetectConfig
    from jobs.head_tables import show_detected

    config = validate(DetectConfig, gather(config_file, flags, assignments))
    console = Console()
    detected = with_progress(console, lambda observer: run_detection(config, observer))
    show_detected(console, detected)
    show_result(console, detected.found)
    show_result(console, detected.proved)
    return exit_code_of(detected.found, detected.proved)


def needles(
    inputs: Texts = None,
    output: Annotated[str | None, typer.Option(help="Folder for the trials, local or s3://.")] = None,
    model: Model = None,
    prompt: Prompt = None,
    config: Config = None,
    assignments: Assignments = None,
    debug: Debug = False,
) -> None:
    """Hide needles in haystacks of your own text: trials for finding copying heads."""
    flags = {"input.uris": inputs or None, "output.uri": output, "model.id": model, "model.prompt": prompt}
    raise typer.Exit(guarded(lambda: _needles(config, flags, assignments or []), debug))


def _needles(config_file: str | None, flags: dict[str, Any], assignments: list[str]) -> int:
    from jobs.console import show_line, show_stage
    from jobs.needles import NeedlesConfig
    from jobs.needles import needles as run_needles

    config = validate(NeedlesConfig, gather(config_file, flags, assignments))
    console = Console()
    made = run_needles(config, lambda message: show_stage(console, message))
    word = "already there" if made.already_there else "written"
    show_line(
        console,
        (word, "bold green"),
        f"  {made.trials} trials of {made.shortest_tokens} to {made.longest_tokens} tokens",
    )
    show_line(console, f"  trials   {made.trials_uri}")
    show_line(console, f"  qrels    {made.qrels_uri}")
    return COMMITTED


def train_embedded(
    inputs: Texts = None,
    questions: Annotated[list[str] | None, typer.Option(help="Parquet question rows; repeatable.")] = None,
    evaluation: Annotated[str | None, typer.Option(help="Folder of judged lists to measure the model on.")] = None,
    output: Annotated[str | None, typer.Option(help="The model folder, local or s3://.")] = None,
    config: Config = None,
    assignments: Assignments = None,
    debug: Debug = False,
) -> None:
    """Train a small model with retrieval heads on your own text, and measure it; the same command resumes."""
    flags = {
        "input.texts": inputs or None,
        "input.questions": questions or None,
        "evaluation.lists": evaluation,
        "output": output,
    }
    raise typer.Exit(guarded(lambda: _train_embedded(config, flags, assignments or []), debug))


def _train_embedded(config_file: str | None, flags: dict[str, Any], assignments: list[str]) -> int:
    from jobs.console import TrainingLines, show_line
    from jobs.train_embedded import TrainEmbeddedConfig
    from jobs.train_embedded import train_embedded as run_training

    config = validate(TrainEmbeddedConfig, gather(config_file, flags, assignments))
    console = Console()
    trained = run_training(config, TrainingLines(console))
    show_line(
        console,
        ("trained", "bold green"),
        f"  {trained.parameters:,} parameters on {trained.tokens:,} tokens in {trained.seconds:,.0f} s: "
        f"{config.output} (seed {trained.seed}; see MODEL_CARD.md)",
    )
    return COMMITTED


# In the order in which help tells them: a job's command is its function's name.
for job in (
    context_cli.prepare,
    rerank,
    context_cli.select,
    context_cli.answer,
    context_cli.evaluate,
    context_cli.compare,
    detect,
    steer_cli.influence,
    steer_cli.contrast,
    steer_cli.flips,
    needles,
    train_embedded,
):
    app.command(job.__name__.replace("_", "-"), rich_help_panel="Jobs")(job)
runs.add_commands(app, "Runs")
app.command(rich_help_panel="Around")(demo)
app.add_typer(heads_cli.app, name="heads", rich_help_panel="Around")
operate.add_commands(app, "Around")


def main() -> None:
    """Entry point: 0 committed; 1 defect; 2 bad configuration or input, or a training that did not learn; 3 committed
    with failed rows or skipped files; 4 interrupted, starved or cut off from storage, the same command resumes; 5 more
    rows failed than the settings allow; 6 another driver holds the run."""
    sys.exit(app(prog_name="qrbatch"))
