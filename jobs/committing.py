"""What the commands of jobs with runs do alike: check the configuration, show progress, tell what was committed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console

from jobs.settings import ConfigType, Values, validate
from jobs.shell import exit_code_of

if TYPE_CHECKING:
    from pipelines.job import Observer, RunResult

Result = TypeVar("Result")


def with_progress(console: Console, run: Callable[[Observer], Result]) -> Result:
    """Run a pipeline, its progress shown and the noise of native code held back until something breaks."""
    from jobs.console import ConsoleObserver
    from jobs.native_output import native_stderr_held

    with native_stderr_held(), ConsoleObserver(console) as observer:
        return run(observer)


def commit_job(
    kind: type[ConfigType],
    values: Values,
    run: Callable[[ConfigType, Observer], RunResult],
    *,
    done: str = "scored",
    judged_by: Callable[[ConfigType], str | None] = lambda _config: None,
) -> int:
    """A job that commits one run; the exit code. ``done``: what became of rows; ``judged_by``: the judgements that
    this command was given for the report."""
    from jobs.console import show_result

    config = validate(kind, values)
    console = Console()
    result = with_progress(console, lambda observer: run(config, observer))
    show_result(console, result, judged_by(config), done)
    return exit_code_of(result)
