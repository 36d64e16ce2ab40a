"""Commands that hold heads back."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console

from jobs.committing import commit_job, with_progress
from jobs.shell import Assignments, Config, Debug, Heads, Model, Name, Output, exit_code, gather, guarded


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
    allow_model_mismatch: Annotated[
        bool, typer.Option("--allow-model-mismatch", help="Use heads found for another revision or other weights.")
    ] = False,
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
    return exit_code(shown.run.manifest.failed, len(shown.run.manifest.skipped_files))
