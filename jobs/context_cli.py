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


def select(
    ranked: Annotated[str | None, typer.Option("--input", help="Folder of a committed run of rerank.")] = None,
    output: Output = None,
    policy: Annotated[
        str | None,
        typer.Option(
            help="token_budget, top_k, score_mass, relative_threshold, neighbours or source_quota; "
            "token_budget where only a budget is given, top_k where only --top is."
        ),
    ] = None,
    budget_tokens: Annotated[int | None, typer.Option(help="Tokens that a context may have.")] = None,
    top: Annotated[int | None, typer.Option(help="Pieces, or hits with neighbours.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Whose tokens are counted: folder, hub id, embedded.")] = None,
    name: Name = None,
    config: Config = None,
    assignments: Assignments = None,
    debug: Debug = False,
) -> None:
    """Keep what each query needs of its ranked context, as bundles and as chat lines."""
    flags = {
        "input.uri": ranked,
        "output.uri": output,
        "policy.name": policy or ("top_k" if top is not None and budget_tokens is None else None),
        "policy.budget_tokens": budget_tokens,
        "policy.top": top,
        "tokenizer.id": tokenizer,
        "name": name,
    }
    raise typer.Exit(guarded(lambda: _select(config, flags, assignments or []), debug))


def _select(config_file: str | None, flags: dict[str, Any], assignments: list[str]) -> int:
    from jobs.console import ConsoleObserver, show_result
    from jobs.native_output import native_stderr_held
    from jobs.select import SelectConfig
    from jobs.select import select as run_select

    config = validate(SelectConfig, gather(config_file, flags, assignments))
    console = Console()
    with native_stderr_held(), ConsoleObserver(console) as observer:
        result = run_select(config, observer)
    show_result(console, result, done="selected")
    return exit_code(result.manifest.failed, len(result.manifest.skipped_files))
