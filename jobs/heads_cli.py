"""The commands ``qrbatch heads …``: list, show, validate, compare."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from jobs.shell import COMMITTED, Debug, guarded

app = typer.Typer(help="Head sets: list, show, validate against a model, compare.", no_args_is_help=True)


@app.command("list")
def heads_list(debug: Debug = False) -> None:
    """The head sets that ship with the package."""
    raise typer.Exit(guarded(_list_heads, debug))


@app.command("show")
def heads_show(
    name: Annotated[str, typer.Argument(help="Name or JSON file of a head set.")],
    debug: Debug = False,
) -> None:
    """One head set with everything that is recorded of it, as JSON."""
    raise typer.Exit(guarded(lambda: _show_heads(name), debug))


@app.command("validate")
def heads_validate(
    name: Annotated[str, typer.Argument(help="Name or JSON file of a head set.")],
    model: Annotated[str, typer.Option(help="Model folder, hub id, 'embedded' or 'embedded-gqa'.")] = "embedded",
    revision: Annotated[str | None, typer.Option(help="Revision of a hub model.")] = None,
    allow_model_mismatch: Annotated[bool, typer.Option("--allow-model-mismatch", help="Only warn of it.")] = False,
    debug: Debug = False,
) -> None:
    """Check a head set against a model's configuration, and say what it needs."""
    raise typer.Exit(guarded(lambda: _validate_heads(name, model, revision, allow_model_mismatch), debug))


@app.command("compare")
def heads_compare(
    first: Annotated[str, typer.Argument(help="Name or JSON file of a head set.")],
    second: Annotated[str, typer.Argument(help="Another one.")],
    debug: Debug = False,
) -> None:
    """What two head sets share."""
    raise typer.Exit(guarded(lambda: _compare_heads(first, second), debug))


def _list_heads() -> int:
    from jobs.head_tables import show_head_sets
    from jobs.heads import every_head_set

    show_head_sets(Console(), every_head_set())
    return COMMITTED


def _show_heads(name: str) -> int:
    from jobs.heads import find_head_set

    typer.echo(find_head_set(name).model_dump_json(indent=1, exclude_none=True))
    return COMMITTED


def _validate_heads(name: str, model: str, revision: str | None, allow_mismatch: bool) -> int:
    from jobs.head_tables import show_fit
    from jobs.heads import fit

    show_fit(Console(), fit(name, model, revision, allow_mismatch=allow_mismatch))
    return COMMITTED


def _compare_heads(first: str, second: str) -> int:
    from jobs.head_tables import show_comparison
    from jobs.heads import compare

    show_comparison(Console(), *compare(first, second))
    return COMMITTED
