"""Commands around the jobs: configurations, the doctor, submission."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from jobs.job_configs import JOB_CONFIGS, config_of
from jobs.settings import Values, flatten, parse_assignments, read_config_file, validate
from jobs.shell import Assignments, Config, Debug, gather, guarded

_JOB = f"Job: {', '.join(JOB_CONFIGS)}."
JobName = Annotated[str, typer.Argument(help=_JOB)]


def add_commands(app: typer.Typer, panel: str) -> None:
    """Put the commands of this file into ``app``, and into this panel of its help."""
    _add_submit(app, panel)
    app.add_typer(_config_app(), name="config", rich_help_panel=panel)
    _add_doctor(app, panel)


def _config_app() -> typer.Typer:
    config_app = typer.Typer(help="Configurations: an example, the resolved one, a JSON Schema.", no_args_is_help=True)

    @config_app.command("init")
    def init(
        job: JobName,
        output: Annotated[str | None, typer.Option(help="File to write, which must not exist; else print it.")] = None,
        debug: Debug = False,
    ) -> None:
        """Write a commented example."""
        raise typer.Exit(guarded(lambda: _init(job, output), debug))

    @config_app.command("show")
    def show(job: JobName, config: Config = None, assignments: Assignments = None, debug: Debug = False) -> None:
        """Print every setting as a run would have it, with where its value comes from."""
        raise typer.Exit(guarded(lambda: _show(job, config, assignments or []), debug))

    @config_app.command("schema")
    def schema(job: JobName, debug: Debug = False) -> None:
        """Print the JSON Schema of a job's configuration, for editors."""
        raise typer.Exit(guarded(lambda: _schema(job), debug))

    return config_app


def _init(job: str, output: str | None) -> int:
    from jobs.config_files import example
    from qrcore.errors import ConfigError

    text = example(job, config_of(job))
    if output is None:
        typer.echo(text, nl=False)
        return 0
    try:
        with Path(output).open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(
            f"{output}: expected a new file in a folder that exists; {error.strerror}. Choose another."
        ) from error
    typer.echo(f"{output}: edit it, then run: qrbatch {job} --config {output}")
    return 0


def _sources(config_file: str | None, assignments: list[str]) -> list[tuple[str, Values]]:
    file = [(config_file, read_config_file(config_file))] if config_file else []
    return [*file, ("--set", parse_assignments(assignments))]


def _show(job: str, config_file: str | None, assignments: list[str]) -> int:
    from jobs.config_files import resolve, shown

    typer.echo(shown(resolve(config_of(job), _sources(config_file, assignments), os.environ)))
    return 0


def _schema(job: str) -> int:
    from jobs.config_files import schema

    typer.echo(schema(job, config_of(job)))
    return 0


def _add_doctor(app: typer.Typer, panel: str) -> None:
    @app.command(rich_help_panel=panel)
    def doctor(
        job: Annotated[str, typer.Option(help=_JOB)] = "rerank",
        config: Config = None,
        assignments: Assignments = None,
        debug: Debug = False,
    ) -> None:
        """Check what a job needs here: Python, torch, CUDA, Ray, storage, model and heads; say what to fix."""
        raise typer.Exit(guarded(lambda: _doctor(job, config, assignments or []), debug))


def _doctor(job: str, config_file: str | None, assignments: list[str]) -> int:
    from jobs.doctor import doctor_settings, show_checks
    from jobs.native_output import native_stderr_held

    config: dict[str, Any] = {}
    if config_file or assignments:
        config = flatten(validate(config_of(job), gather(config_file, {}, assignments)))
    with native_stderr_held():
        checks = show_checks(Console(), doctor_settings(config, config_of(job)))
    return 2 if any(check.state == "failed" for check in checks) else 0


def _add_submit(app: typer.Typer, panel: str) -> None:
    @app.command(rich_help_panel=panel, context_settings={"allow_extra_args": True, "allow_interspersed_args": False})
    def submit(
        context: typer.Context,
        job: JobName,
        address: Annotated[
            str,
            typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="The cluster's dashboard, such as http://host:8265."),
        ],
        wait: Annotated[bool, typer.Option(help="Follow the job's log and end with its exit code.")] = True,
        failed_rows_exit: Annotated[
            int, typer.Option(min=0, max=3, help="Exit code of a committed run with failed rows: 3, or 0.")
        ] = 3,
        debug: Debug = False,
    ) -> None:
        """Run a job on a Ray cluster: options of submit, then the job and its own options."""
        raise typer.Exit(guarded(lambda: _submit(address, job, context.args, wait, failed_rows_exit), debug))


def _submit(address: str, job: str, arguments: list[str], wait: bool, failed_rows_exit: int) -> int:
    from jobs.logs import format_in_use
    from jobs.submit import submission_of, submit

    submission = submission_of(job, arguments, format_in_use())
    return submit(Console(), address, submission, wait=wait, failed_rows_exit=failed_rows_exit)
