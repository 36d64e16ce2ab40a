"""What every command shares: settings from file and flags, one screen of text for an error, and exit codes."""

from __future__ import annotations

import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.text import Text

from jobs.logs import JsonLines
from jobs.settings import Values, merge, nest, parse_assignments, read_config_file
from qrcore.errors import (
    ConfigError,
    ErrorLimitError,
    IncompleteRunError,
    InputError,
    PlanConflictError,
    QRBatchError,
    RunHeldError,
    StorageError,
    TrainingError,
)

if TYPE_CHECKING:
    from pipelines.job import RunResult

COMMITTED: Final = 0
DEFECT: Final = 1
BAD_INPUT: Final = 2
COMMITTED_WITH_FAILURES: Final = 3
RESUMABLE: Final = 4
TOO_MANY_ERRORS: Final = 5
HELD: Final = 6

#: Options that many commands have.
Config = Annotated[str | None, typer.Option(help="YAML file with all settings.")]
Assignments = Annotated[list[str] | None, typer.Option("--set", help="section.field=value; repeatable.")]
Debug = Annotated[bool, typer.Option(help="Show the traceback of an error.")]
Inputs = Annotated[list[str] | None, typer.Option("--input", help="Parquet file, folder or run; repeatable.")]
Output = Annotated[str | None, typer.Option(help="Folder of runs, local or s3://.")]
Name = Annotated[str | None, typer.Option(help="Name of the run.")]
Model = Annotated[str | None, typer.Option(help="Model folder, hub id, 'embedded' or 'embedded-gqa'.")]
Heads = Annotated[str | None, typer.Option(help="Head set: list, 'all', name or JSON file.")]
Prompt = Annotated[str | None, typer.Option(help="Prompt format: auto, chat, plain or a name.")]
Style = Annotated[
    str | None, typer.Option(help="paragraphs (the model's retrieval prompt), longmemeval, clipper or plain.")
]
Context = Annotated[str | None, typer.Option(help="bundle, full (all candidates) or oracle (judged relevant ones).")]
Texts = Annotated[list[str] | None, typer.Option("--input", help="Parquet text shards; repeatable.")]
ToAnswer = Annotated[
    str | None, typer.Option("--input", help="Committed run of select; or shards: file, folder, run of prepare.")
]
AllowMismatch = Annotated[
    bool, typer.Option("--allow-model-mismatch", help="Use heads found for another revision or other weights.")
]


def exit_code_of(*committed: RunResult) -> int:
    """0 for commits in which everything was scored, 3 where something was not."""
    manifests = [result.manifest for result in committed]
    return COMMITTED_WITH_FAILURES if any(m.failed or m.skipped_files for m in manifests) else COMMITTED


def gather(config_file: str | None, flags: dict[str, Any], assignments: Sequence[str] | None) -> Values:
    """File, then flags, then --set: the later one wins."""
    values = read_config_file(config_file) if config_file else {}
    for key, value in flags.items():
        if value is not None:
            values = merge(values, nest(key, value))
    return merge(values, parse_assignments(assignments or []))


def guarded(command: Callable[[], int], debug: bool) -> int:
    """Run a command; turn its errors into one screen of text and an exit code."""
    errors = Console(stderr=True)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return int(command())
    except KeyboardInterrupt:
        _show_end(errors, ("interrupted", "bold yellow"), _how_to_resume(), RESUMABLE)
        return RESUMABLE
    except QRBatchError as error:
        if debug:
            traceback.print_exc()
        code = _code_of(error)
        text = f"{error}\n{_how_to_resume()}" if code == RESUMABLE else str(error)
        _show_end(errors, ("error", "bold red"), text, code)
        return code


def _show_end(errors: Console, word: tuple[str, str], text: str, code: int) -> None:
    """Why a command ended; one line in a log for programs, however many it takes for people."""
    if isinstance(errors.file, JsonLines):
        errors.file.event(text, exit_code=code)
    else:
        errors.print(Text.assemble(word, "  ", text), soft_wrap=True)


def _how_to_resume() -> str:
    command = shlex.join(["qrbatch", *sys.argv[1:]])
    return f"Run the same command again to go on:\n  {command}"


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _code_of(error: QRBatchError) -> int:
    if isinstance(error, (ConfigError, InputError, PlanConflictError, TrainingError)):
        return BAD_INPUT
    if isinstance(error, ErrorLimitError):
        return TOO_MANY_ERRORS
    if isinstance(error, RunHeldError):
        return HELD
    return RESUMABLE if isinstance(error, (IncompleteRunError, StorageError)) else DEFECT
