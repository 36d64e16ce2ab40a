"""What every command shares: settings from file and flags, one screen of text for an error, and exit codes."""

from __future__ import annotations

import signal
import traceback
from types import FrameType
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from jobs.settings import Values, merge, nest, parse_assignments, read_config_file
from qrcore.errors import (
    ConfigError,
    IncompleteRunError,
    InputError,
    PlanConflictError,
    QRBatchError,
    StorageError,
    TrainingError,
)

COMMITTED: Final = 0
DEFECT: Final = 1
BAD_INPUT: Final = 2
COMMITTED_WITH_FAILURES: Final = 3
RESUMABLE: Final = 4


def exit_code(failed_rows: int, skipped_files: int) -> int:
    """0 for a commit in which everything was scored, 3 for one in which something was not."""
    return COMMITTED_WITH_FAILURES if failed_rows or skipped_files else COMMITTED


def gather(config_file: str | None, flags: dict[str, Any], assignments: list[str]) -> Values:
    """File, then flags, then --set: the later one wins."""
    values = read_config_file(config_file) if config_file else {}
    for key, value in flags.items():
        if value is not None:
            values = merge(values, nest(key, value))
    return merge(values, parse_assignments(assignments))


def guarded(command: Any, debug: bool) -> int:
    """Run a command; turn its errors into one screen of text and an exit code."""
    errors = Console(stderr=True)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return int(command())
    except KeyboardInterrupt:
        errors.print("[bold yellow]interrupted[/bold yellow]  Run the same command again to go on.", highlight=False)
        return RESUMABLE
    except QRBatchError as error:
        if debug:
            traceback.print_exc()
        errors.print("[bold red]error[/bold red]  ", end="", highlight=False)
        errors.print(Text(str(error)), soft_wrap=True)
        return _code_of(error)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _code_of(error: QRBatchError) -> int:
    if isinstance(error, (ConfigError, InputError, PlanConflictError, TrainingError)):
        return BAD_INPUT
    return RESUMABLE if isinstance(error, (IncompleteRunError, StorageError)) else DEFECT
