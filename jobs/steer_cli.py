"""Commands that hold heads back."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console

from jobs.committing import commit_job, with_progress
from jobs.settings import validate
from jobs.shell import (
    AllowMismatch,
    Assignments,
    Config,
    Context,
    Debug,
    Heads,
    Model,
    Name,
    Output,
    Style,
    ToAnswer,
    exit_code_of,
    gather,
    guarded,
)


def influence(
    inputs: Annotated[
        list[str] | None, typer.Option("--input", help="Parquet documents (doc_id, domain, text); repeatable.")
    ] = None,
    output: Output = None,
    model: Model = None,
    heads: Heads = None,
    top: Annotated[float | None, typer.Option(help="Share of each domain that is selected, 0 to 1.")] = None,
    controls: Annotated[int | None, typer.Option(help="Sets of other heads to compare with.")] = None,
    name: Name = None,
    allow_model_mismatch: AllowMismatch = False,
    demo: Annotated[
        bool, typer.Option("--demo", help="Score documents made of this Python's documentation, plain and copied.")
    ] = False,
    config: Config = None,
    assignments: Assignments = None,
    debug: Debug = False,
) -> None:
    """Score documents by how much worse a model predicts them without its retrieval heads, and select the top."""
    flags = {
        "input.uris": inputs or None,
        "output.uri": output,
        "model.id": model,
        "model.heads": heads,
        "model.on_mismatch": "warn" if allow_model_mismatch else None,
        "selection.fraction": top,
        "mask.controls": controls,
        "name": name,
    }
    run = _influence_demo if demo else _influence
    raise typer.Exit(guarded(lambda: run(config, flags, assignments or []), debug))


def _influence(config_file: str | None, flags: dict[str, Any], assignments: list[str]) -> int:
    from jobs.influence import InfluenceConfig
    from jobs.influence import influence as run_influence

    return commit_job(InfluenceConfig, gather(config_file, flags, assignments), run_influence)


def _influence_demo(config_file: str | None, flags: dict[str, Any], assignments: list[str]) -> int:
    from jobs.console import show_result
    from jobs.influence_demo import influence_demo, show_separation

    values = gather(config_file, flags, assignments)
    console = Console()
    shown = with_progress(console, lambda observer: influence_demo(values, observer))
    show_separation(console, shown.found)
    show_result(console, shown.run)
    return exit_code_of(shown.run)


def contrast(
    source: ToAnswer = None,
    output: Output = None,
    model: Model = None,
    heads: Heads = None,
    style: Style = None,
    context: Context = None,
    qrels: Annotated[str | None, typer.Option(help="Judgements, for the context oracle.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Fixed weight; without it the next token's entropy.")] = None,
    controls: Annotated[int | None, typer.Option(help="Sets of other heads to contrast with, too.")] = None,
    emit_negatives: Annotated[
        bool, typer.Option("--emit-negatives", help="Write answers with masked heads as samples for tuning.")
    ] = False,
    name: Name = None,
    allow_model_mismatch: AllowMismatch = False,
    config: Config = None,
    assignments: Assignments = None,
    debug: Debug = False,
) -> None:
    """Answer with contrast to what the model says without its retrieval heads, and tell what that changed."""
    flags = {
        "input.uri": source,
        "input.context": context,
        "output.uri": output,
        "model.id": model,
        "model.heads": heads,
        "model.style": style,
        "model.on_mismatch": "warn" if allow_model_mismatch else None,
        "qrels": qrels,
        "contrast.alpha": alpha,
        "mask.controls": controls,
        "negatives.emit": emit_negatives or None,
        "name": name,
    }
    raise typer.Exit(guarded(lambda: _contrast(config, flags, assignments or []), debug))


def _contrast(config_file: str | None, flags: dict[str, Any], assignments: list[str]) -> int:
    from jobs.console import show_result
    from jobs.contrast import ContrastConfig, show_contrast
    from jobs.contrast import contrast as run_contrast

    config = validate(ContrastConfig, gather(config_file, flags, assignments))
    console = Console()
    result = with_progress(console, lambda observer: run_contrast(config, observer))
    show_result(console, result, done="answered")
    show_contrast(console, result, config)
    return exit_code_of(result)


def flips(
    inputs: Annotated[
        list[str] | None, typer.Option("--input", help="Needle rows (qrbatch needles): Parquet file or folder.")
    ] = None,
    output: Output = None,
    model: Model = None,
    compare: Annotated[list[str] | None, typer.Option(help="Another head set to mask; repeatable.")] = None,
    controls: Annotated[int | None, typer.Option(help="Sets of other heads beside each mask.")] = None,
    misleading: Annotated[
        bool, typer.Option("--misleading", help="Put a passage with a wrong answer before the second question.")
    ] = False,
    name: Name = None,
    config: Config = None,
    assignments: Assignments = None,
    debug: Debug = False,
) -> None:
    """Ask a model whether it is sure of its answers, rank heads by it, and mask them on other rows."""
    flags = {
        "input.uris": inputs or None,
        "output.uri": output,
        "model.id": model,
        "masks.compare": compare or None,
        "masks.controls": controls,
        "asking.misleading": misleading or None,
        "name": name,
    }
    raise typer.Exit(guarded(lambda: _flips(config, flags, assignments or []), debug))


def _flips(config_file: str | None, flags: dict[str, Any], assignments: list[str]) -> int:
    from jobs.console import show_result
    from jobs.flips import FlipsConfig, show_flips
    from jobs.flips import flips as run_flips

    config = validate(FlipsConfig, gather(config_file, flags, assignments))
    console = Console()
    audited = with_progress(console, lambda observer: run_flips(config, observer))
    for result in (audited.fitted, audited.held_out):
        show_result(console, result, done="asked")
    show_flips(console, audited)
    return exit_code_of(audited.fitted, audited.held_out)
