"""Commands around contexts: prepare them, select from them, and measure what came out."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console

from jobs.committing import commit_job
from jobs.settings import validate
from jobs.shell import (
    COMMITTED,
    AllowMismatch,
    Assignments,
    Config,
    Context,
    Debug,
    Heads,
    Model,
    Name,
    Output,
    Prompt,
    Style,
    ToAnswer,
    exit_code_of,
    gather,
    guarded,
)


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
    from jobs.prepare import PrepareConfig
    from jobs.prepare import prepare as run_prepare

    return commit_job(PrepareConfig, gather(config_file, flags, assignments), run_prepare, done="prepared")


def select(
    source: Annotated[
        str | None, typer.Option("--input", help="Committed run of rerank; or shards to score: file, folder, run.")
    ] = None,
    output: Output = None,
    model: Annotated[
        str | None, typer.Option(help="Scores shards: folder, hub id, 'embedded', 'embedded-gqa'.")
    ] = None,
    heads: Heads = None,
    prompt: Prompt = None,
    contexts: Annotated[
        str | None, typer.Option(help="Lists that do not fit one prompt: tournament (default) or error.")
    ] = None,
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
    qrels: Annotated[str | None, typer.Option(help="Judgements, for the gold recall in the report.")] = None,
    name: Name = None,
    config: Config = None,
    assignments: Assignments = None,
    debug: Debug = False,
) -> None:
    """Keep what each query needs of its context, ranked or scored here, as bundles and as chat lines."""
    flags = {
        "input.uri": source,
        "output.uri": output,
        "model.id": model,
        "model.heads": heads,
        "scoring.prompt": prompt,
        "contexts.policy": contexts,
        "policy.name": policy or ("top_k" if top is not None and budget_tokens is None else None),
        "policy.budget_tokens": budget_tokens,
        "policy.top": top,
        "qrels": qrels,
        "tokenizer.id": tokenizer,
        "name": name,
    }
    raise typer.Exit(guarded(lambda: _select(config, flags, assignments or []), debug))


def _select(config_file: str | None, flags: dict[str, Any], assignments: list[str]) -> int:
    from jobs.select import SelectConfig
    from jobs.select import select as run_select

    values = gather(config_file, flags, assignments)
    return commit_job(SelectConfig, values, run_select, done="selected", judged_by=lambda config: config.qrels)


def answer(
    source: ToAnswer = None,
    output: Output = None,
    model: Model = None,
    style: Style = None,
    context: Context = None,
    method: Annotated[
        str | None, typer.Option(help="greedy, or cafe: heads choose documents and push attention to some (shards).")
    ] = None,
    coarse_heads: Annotated[
        str | None, typer.Option(help="cafe's first stage: list, 'all', name or JSON file (detect --method share).")
    ] = None,
    fine_heads: Annotated[str | None, typer.Option(help="cafe's second stage; without them the first alone.")] = None,
    baselines: Annotated[
        list[str] | None,
        typer.Option("--baseline", help="Further answers: bundle, full, oracle; filter, random_order; repeatable."),
    ] = None,
    qrels: Annotated[str | None, typer.Option(help="Judgements, for oracle and for recall.")] = None,
    answers: Annotated[
        str | None, typer.Option(help="Gold answers (query_id, answers) of rows without: Parquet or JSON Lines.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="transformers, or vllm (extra vllm, GPUs).")] = None,
    judge: Annotated[str | None, typer.Option(help="A model that says yes or no to each answer.")] = None,
    keep_documents: Annotated[
        bool, typer.Option("--keep-documents", help="Write what the prompt held, as candidates for detect.")
    ] = False,
    allow_model_mismatch: AllowMismatch = False,
    demo: Annotated[
        bool, typer.Option("--demo", help="Answer questions to facts hidden in this Python's documentation, by cafe.")
    ] = False,
    name: Name = None,
    config: Config = None,
    assignments: Assignments = None,
    debug: Debug = False,
) -> None:
    """Let a language model answer from bundles or full contexts, and measure its answers."""
    flags = {
        "input.uri": source,
        "input.context": context,
        "output.uri": output,
        "model.id": model,
        "model.style": style,
        "method": method,
        "cafe.coarse_heads": coarse_heads,
        "cafe.fine_heads": fine_heads,
        "cafe.on_mismatch": "warn" if allow_model_mismatch else None,
        "baselines": baselines or None,
        "qrels": qrels,
        "answers": answers,
        "engine.kind": engine,
        "judge.model": judge,
        "keep_documents": keep_documents or None,
        "name": name,
    }
    raise typer.Exit(guarded(lambda: _answer(config, flags, assignments or [], demo=demo), debug))


def _answer(config_file: str | None, flags: dict[str, Any], assignments: list[str], *, demo: bool) -> int:
    from jobs.answer import answer as run_answer
    from jobs.answer import show_answers
    from jobs.answer_config import AnswerConfig
    from jobs.answer_demo import answer_demo
    from jobs.console import ConsoleObserver, show_result
    from jobs.native_output import native_stderr_held

    values = gather(config_file, flags, assignments)
    console = Console()
    with native_stderr_held(), ConsoleObserver(console) as observer:
        if demo:
            result, config = answer_demo(values, observer)
        else:
            config = validate(AnswerConfig, values)
            result = run_answer(config, observer)
    show_result(console, result, done="answered")
    show_answers(console, result, config)
    return exit_code_of(result)


Qrels = Annotated[str | None, typer.Option(help="Judgements: Parquet, TREC or BEIR's tsv.")]
Folder = Annotated[str | None, typer.Option(help="Folder for what is found, local or s3://.")]
Measures = Annotated[
    list[str] | None,
    typer.Option("--measure", help="ndcg@K, recall@K, any@K, all@K, map, mrr, precision@K; repeatable."),
]


AllowSeen = Annotated[
    bool, typer.Option("--allow-detection-queries", help="Measure queries that a run's heads were found on, too.")
]


def evaluate(
    runs: Annotated[
        list[str] | None, typer.Option("--input", help="Committed run, TREC run file or Parquet; repeatable.")
    ] = None,
    qrels: Qrels = None,
    output: Folder = None,
    measures: Measures = None,
    trec: Annotated[bool, typer.Option("--trec", help="Write TREC files, too.")] = False,
    detection_queries: AllowSeen = False,
    config: Config = None,
    assignments: Assignments = None,
    debug: Debug = False,
) -> None:
    """Measure rankings or bundles against judgements, and test the differences between runs."""
    flags = {
        "runs": runs or None,
        "qrels": qrels,
        "output": output,
        "measures": measures or None,
        "trec": trec or None,
        "detection_queries": detection_queries or None,
    }
    raise typer.Exit(guarded(lambda: _evaluate(config, flags, assignments or []), debug))


def _evaluate(config_file: str | None, flags: dict[str, Any], assignments: list[str]) -> int:
    from jobs.console import show_line
    from jobs.evaluate import EvaluateConfig, show_evaluation
    from jobs.evaluate import evaluate as run_evaluation

    config = validate(EvaluateConfig, gather(config_file, flags, assignments))
    console = Console()
    show_evaluation(console, run_evaluation(config))
    show_line(console, ("evaluated", "bold green"), f"  {config.output}/evaluation.json")
    return COMMITTED


def compare(
    run_a: Annotated[str | None, typer.Argument(help="Committed run, TREC run file or Parquet.")] = None,
    run_b: Annotated[str | None, typer.Argument(help="Another one of the same kind.")] = None,
    qrels: Qrels = None,
    output: Folder = None,
    measures: Measures = None,
    detection_queries: AllowSeen = False,
    config: Config = None,
    assignments: Assignments = None,
    debug: Debug = False,
) -> None:
    """Compare two runs query by query, with a page that shows where each is better."""
    flags = {
        "runs": [run for run in (run_a, run_b) if run is not None] or None,
        "qrels": qrels,
        "output": output,
        "measures": measures or None,
        "detection_queries": detection_queries or None,
    }
    raise typer.Exit(guarded(lambda: _compare(config, flags, assignments or []), debug))


def _compare(config_file: str | None, flags: dict[str, Any], assignments: list[str]) -> int:
    from jobs.console import show_line
    from jobs.evaluate import CompareConfig, show_evaluation
    from jobs.evaluate import compare as run_comparison

    config = validate(CompareConfig, gather(config_file, flags, assignments))
    console = Console()
    show_evaluation(console, run_comparison(config).evaluation)
    show_line(console, ("compared", "bold green"), f"  {config.output}/compare.html")
    return COMMITTED
