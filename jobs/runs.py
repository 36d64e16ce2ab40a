"""Commands around runs: plan, status, verify, clean, rollback."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console

from jobs.config import RerankConfig, StorageConfig
from jobs.console import show_line, size_text
from jobs.settings import validate
from jobs.shell import Assignments, Config, Debug, Heads, Inputs, Model, Output, gather, guarded
from qrcore.errors import InputError

if TYPE_CHECKING:
    from pipelines.clean import Cleaning
    from pipelines.estimate import Estimate
    from pipelines.status import RunStatus
    from pipelines.storage import StorageOptions

_FINE: Final = 0
_WRONG: Final = 1
_MOST_SHOWN: Final = 200

RunUri = Annotated[str, typer.Argument(help="A run: OUTPUT/<run_id>, local or s3://.")]


def add_commands(app: typer.Typer, panel: str) -> None:
    """Put the commands of this file into ``app``, and into this panel of its help."""

    @app.command(rich_help_panel=panel)
    def status(uri: RunUri, config: Config = None, assignments: Assignments = None, debug: Debug = False) -> None:
        """Where a run stands: units, rows, errors, throughput, time to go, and who works on it or committed it."""
        raise typer.Exit(guarded(lambda: _status(uri, _storage(config, assignments)), debug))

    @app.command(rich_help_panel=panel)
    def verify(
        uri: RunUri,
        no_input: Annotated[bool, typer.Option("--no-input", help="Do not compare with the input.")] = False,
        config: Config = None,
        assignments: Assignments = None,
        debug: Debug = False,
    ) -> None:
        """Read a committed run again, every row, and name everything that is wrong (exit code 1)."""
        raise typer.Exit(guarded(lambda: _verify(uri, _storage(config, assignments), with_input=not no_input), debug))

    @app.command(rich_help_panel=panel)
    def clean(
        uri: RunUri,
        code: Annotated[str | None, typer.Argument(help="With --units-with-errors: only this error code.")] = None,
        units_with_errors: Annotated[
            bool, typer.Option("--units-with-errors", help="Also units with failed rows, to be scored again.")
        ] = False,
        yes: Annotated[bool, typer.Option("--yes", help="Remove what is listed without asking.")] = False,
        config: Config = None,
        assignments: Assignments = None,
        debug: Debug = False,
    ) -> None:
        """List what interrupted work left in a run's folder, and remove it; never what a manifest names."""
        errors_of = (code or "") if units_with_errors else None
        raise typer.Exit(guarded(lambda: _clean(uri, _storage(config, assignments), errors_of, yes=yes), debug))

    @app.command(rich_help_panel=panel)
    def rollback(
        output: Annotated[str, typer.Argument(help="Folder of runs.")],
        name: Annotated[str, typer.Argument(help="Name of the runs.")],
        run_id: Annotated[
            str | None,
            typer.Argument(help="The committed run that NAME.latest.json shall point at; else the one before."),
        ] = None,
        config: Config = None,
        assignments: Assignments = None,
        debug: Debug = False,
    ) -> None:
        """Point NAME.latest.json at an earlier committed run, until a later one commits."""
        raise typer.Exit(guarded(lambda: _rollback(output, name, run_id, _storage(config, assignments)), debug))

    @app.command(rich_help_panel=panel)
    def plan(
        inputs: Inputs = None,
        output: Output = None,
        model: Model = None,
        heads: Heads = None,
        tokens_per_s: Annotated[float | None, typer.Option(help="Throughput to reckon with.")] = None,
        config: Config = None,
        assignments: Assignments = None,
        debug: Debug = False,
    ) -> None:
        """What rerank would do with these settings: units, tokens, hours, memory. Loads no weights, writes nothing."""
        flags = {
            "input.uris": inputs or None,
            "output.uri": output,
            "model.id": model,
            "model.heads": heads,
        }
        raise typer.Exit(guarded(lambda: _plan(config, flags, assignments or [], tokens_per_s), debug))


def _storage(config: str | None, assignments: list[str] | None) -> Callable[[], StorageOptions]:
    def options() -> StorageOptions:
        from jobs.rerank import with_endpoint
        from pipelines.storage import StorageOptions

        chosen = validate(StorageConfig, gather(config, {}, assignments).get("storage") or {})
        return StorageOptions(**with_endpoint(chosen, os.environ).model_dump())

    return options


def _status(uri: str, storage: Callable[[], StorageOptions]) -> int:
    from pipelines.status import run_status

    show_status(Console(), run_status(uri, storage()))
    return _FINE


def show_status(console: Console, status: RunStatus) -> None:
    """A run's status as lines."""
    manifest = status.manifest
    word = ("committed", "bold green") if manifest else ("not committed", "bold yellow")
    show_line(console, (status.plan.run_id, "bold"), "  ", word)
    show_line(console, f"  units {status.units[0]}/{status.units[1]}, rows {status.rows[0]}/{status.rows[1]}")
    errors = ", ".join(f"{number} {code}" for code, number in sorted(status.errors.items()))
    show_line(console, f"  error rows {sum(status.errors.values())}" + (f": {errors}" if errors else ""))
    if status.rows_per_s is not None and status.tokens_per_s is not None:
        eta = f", {_duration(status.eta_s)} to go" if status.eta_s is not None else ""
        show_line(console, f"  {status.rows_per_s:,.1f} rows/s, {status.tokens_per_s:,.0f} tokens/s{eta}")
    for lease in status.drivers:
        show_line(console, f"  {'driver' if lease.fresh else 'driver that is gone'} {lease}")
    if manifest:
        show_line(console, f"  committed {manifest.committed_at} by driver {manifest.driver}")
    if status.plan.parent:
        show_line(console, f"  failed rows of {status.plan.parent}")


def _duration(seconds: float) -> str:
    minutes, left = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{left:02}"


def _verify(uri: str, storage: Callable[[], StorageOptions], *, with_input: bool) -> int:
    from pipelines.verify import open_run, verify

    console = Console()
    run = open_run(uri, storage())
    found = 0
    for problem in verify(run, with_input=with_input):
        found += 1
        if found <= _MOST_SHOWN:
            show_line(console, (problem.code, "bold red"), f"  {problem.where}: {problem.what}")
    manifest = run.manifest
    if found:
        show_line(console, (f"{found} problems", "bold red"), f"  in {manifest.run_id}")
        return _WRONG
    compared = "and compared with the input" if with_input else "without the input"
    show_line(
        console,
        ("verified", "bold green"),
        f"  {manifest.rows} rows = {manifest.scored} scored + {manifest.failed} failed in {len(manifest.objects)} "
        f"objects, read again {compared}",
    )
    return _FINE


def _clean(uri: str, storage: Callable[[], StorageOptions], errors_of: str | None, *, yes: bool) -> int:
    from pipelines.clean import clean, what_to_clean

    console, options = Console(), storage()
    cleaning = what_to_clean(uri, options, errors_of)
    show_cleaning(console, cleaning)
    if not cleaning.removals:
        return _FINE
    if not yes and not (console.is_terminal and typer.confirm("Remove these?", default=False)):
        show_line(console, "nothing is removed; add --yes to remove what is listed")
        return _FINE
    clean(cleaning, options)
    show_line(console, ("removed", "bold green"), f"  {len(cleaning.removals)} of {len(cleaning.removals)}")
    return _FINE


def show_cleaning(console: Console, cleaning: Cleaning) -> None:
    """What would be removed, as lines."""
    for removal in cleaning.removals:
        show_line(console, f"  {removal.uri}  ({removal.why})")
    show_line(console, f"{len(cleaning.removals)} to remove in {cleaning.uri}")


def _rollback(output: str, name: str, run_id: str | None, storage: Callable[[], StorageOptions]) -> int:
    from pipelines.commit import latest, load_manifest, roll_back
    from pipelines.storage import Storage, absolute, join

    folder, options = absolute(output), storage()
    store = Storage(folder, options)
    run_id = run_id or (latest(store, folder, name) or {}).get("previous")
    if run_id is None:
        raise InputError(
            f"{join(folder, name)}.latest.json: expected it to name the run before, it does not. Give the run's id."
        )
    manifest = load_manifest(store, join(folder, run_id))
    if manifest is None or (manifest.name, manifest.run_id) != (name, run_id):
        raise InputError(
            f"{join(folder, run_id)}: expected a committed run named {name!r}, found "
            f"{'none' if manifest is None else f'one named {manifest.name!r}'}. Correct the name or the run's id."
        )
    before = roll_back(store, folder, manifest)
    show_line(Console(), ("rolled back", "bold green"), f"  {name}.latest.json points at {run_id}, before at {before}")
    return _FINE


def _plan(config: str | None, flags: dict[str, Any], assignments: list[str], tokens_per_s: float | None) -> int:
    from jobs.native_output import native_stderr_held
    from jobs.rerank import pipeline_settings
    from pipelines.estimate import estimate
    from pipelines.scorers import on_requested_device

    settings = pipeline_settings(validate(RerankConfig, gather(config, flags, assignments)), os.environ)
    scorer = on_requested_device(settings.scorer, settings.run.pool)
    in_windows = not settings.contexts.plain
    with native_stderr_held():
        found = estimate(settings.run, scorer, tokens_per_s, settings.contexts.window_tokens, in_windows=in_windows)
    show_estimate(Console(), found, settings.run.pool.actors)
    return _FINE


def show_estimate(console: Console, found: Estimate, actors: int) -> None:
    """A run before it is run, as lines."""
    show_line(console, f"{found.files} files, {found.rows} rows in {len(found.units)} units")
    for file in found.skipped_files:
        show_line(console, ("skipped", "yellow"), f"  {file.uri}: {file.reason}")
    show_line(
        console,
        f"  about {found.tokens:,} tokens, longest row {found.largest_row_tokens:,}, model cut to {found.depth} of "
        f"{found.layers} layers",
    )
    if found.too_long_rows:
        show_line(
            console,
            ("too long", "yellow"),
            f"  about {found.too_long_rows:,} rows, over the {found.prompt_tokens:,} tokens that model and "
            "engine.memory_bytes allow a prompt: error rows, unless --contexts tournament cuts them into windows",
        )
    if found.hours is None:
        show_line(console, "  hours unknown: no committed run of this name tells how fast it is; give --tokens-per-s")
    else:
        show_line(console, f"  about {found.hours:.2f} h at {found.tokens_per_s:,.0f} tokens/s")
    memory = found.memory
    parts = {
        "weights": memory.weights,
        f"a pass of {found.pass_tokens:,} tokens": memory.tokens + memory.chunk,
        "attention of the heads": memory.readings,
        "lost between chunks": memory.heap,
        "texts of a unit": found.text_bytes,
    }
    show_line(
        console, f"  about {size_text(found.actor_bytes)} for each of {actors} actors, Python and torch beside it:"
    )
    for name, size in parts.items():
        show_line(console, f"    {size_text(size):>9}  {name}")
