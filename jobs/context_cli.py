"""Commands around contexts: prepare them, select from them, and measure what came out."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console

from jobs.settings import validate
from jobs.shell import exit_code, gather, guarded

Config = Annotated[str | None, typer.Option(help="YAML file with all settings.")]
Assignments = Annotated[list[str] | None, typer.Option("--set", help="section.field=value; repeatable.")]
Debug = Annotated[bool, typer.Option(help="Show the traceback of an error.")]
Output = Annotated[str | None, typer.Option(help="Folder of runs, local or s3://.")]
Name = Annotated[str | None, typer.Option(help="Name of the run.")]


def prepare(
    recipe: Annotated[
        str | None, typer.Option(help="What the input is: shards, tables, beir, documents, text, dialogue, …")
    ] = None,
    inputs: Annotated[
        list[str] | None, typer.Option("--input", help="Parquet, JSON Lines, JSON or text; file or folder; repeatable.")
    ] = None,
    corpus: Annotated[str | None, typer.Option(help="Documents (doc_id, title, text) for queries in tables.")] = None,
    first_stage: Annotated[
        str | None, typer.Option("--run", help="First-stage run (TREC file or Parquet); without it BM25.")
    ] = None,
    queries: Annotated[str | None, typer.Option(help="Queries (query_id, query, document_id) for documents.")] = None,
    qrels: Annotated[str | None, typer.Option(help="Judgements: Parquet, TREC or BEIR's tsv.")] = None,
    output: Output = None,
    name: Name = None,
    config: Config = None,
    assignments: Assignments = None,
    debug: Debug = False,
) -> None:
    """Make input shards of tables, BEIR folders, long documents, dialogues or known collections."""
    flags = {
        "recipe": recipe,
        "input.uris": inputs or None,
        "input.corpus": corpus,
        "input.run": first_stage,
        "input.queries": queries,
        "input.qrels": qrels,
        "output.uri": output,
        "name": name,
    }
    raise typer.Exit(guarded(lambda: _prepare(config, flags, assignments or []), debug))


def _prepare(config_file: str | None, flags: dict[str, Any], assignments: list[str]) -> int:
    from jobs.console import ConsoleObserver, show_result
    from jobs.native_output import native_stderr_held
    from jobs.prepare import PrepareConfig
    from jobs.prepare import prepare as run_prepare

    config = validate(PrepareConfig, gather(config_file, flags, assignments))
    console = Console()
    with native_stderr_held(), ConsoleObserver(console) as observer:
        result = run_prepare(config, observer)
    show_result(console, result, done="prepared")
    return exit_code(result.manifest.failed, 0)
