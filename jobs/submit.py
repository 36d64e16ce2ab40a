"""``qrbatch submit``: a job's own command line, run on a Ray cluster."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console

from jobs.console import show_line
from jobs.job_configs import config_of
from jobs.logs import JsonLines
from jobs.settings import Section, Values, fact, leaves, lookup, merge, parse_assignments, read_config_file, validate
from qrcore.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.submission import Submission

_CONFIG_FILE: Final = "config.yaml"
_COMMITTED_WITH_FAILURES: Final = 3


def submission_of(job: str, arguments: Sequence[str], log_format: str) -> Submission:
    """What travels to the cluster: the command, and the configuration file that it names.

    Mistakes in file and ``--set`` are found here, before anything is sent, and relative paths are refused; variables of
    the environment are those of the cluster. Raises :class:`ConfigError`.
    """
    from pipelines.submission import Submission

    kind = config_of(job)
    path, rest = _without_option(arguments, "--config")
    text = ""
    values = parse_assignments(_option_values(rest, "--set"))
    if path is not None:
        values = merge(read_config_file(path), values)
        text = Path(path).read_text(encoding="utf-8")
    if path is not None and not _flags(rest) - {"--set", "--debug"}:
        named = {name: f"${{{name}}}" for name in re.findall(r"\$\{(\w+)\}", text + " ".join(rest))}
        validate(kind, values, named)
    _refuse_places_of_this_machine(kind, values, rest)
    name = _option_values(rest, "--name") or [str(lookup(values, "name") or job)]
    joined = ["--set", "cluster.address=auto"] if "cluster.address" in leaves(kind) else []
    command = ["qrbatch", "--log-format", log_format, job, *(["--config", _CONFIG_FILE] if path else [])]
    files = {_CONFIG_FILE: text} if path is not None else {}
    return Submission(job, name[-1], (*command, *joined, *rest), files)


def _refuse_places_of_this_machine(kind: type[Section], values: Values, arguments: Sequence[str]) -> None:
    """A path from the working directory on leads elsewhere on the cluster, where results would be lost with the job."""
    for name, field in leaves(kind).items():
        if not fact(field, "uri"):
            continue
        given = _told(arguments, fact(field, "flag") or "") or lookup(values, name) or ()
        for uri in [given] if isinstance(given, str) else given:
            if isinstance(uri, str) and not uri.startswith(("/", "${")) and "://" not in uri:
                raise ConfigError(
                    f"{name}: expected an address that the cluster's nodes know, got the relative path {uri!r}. Give "
                    f"an s3:// URI, or {str(Path(uri).absolute())!r} if they share this file system."
                )


def _without_option(arguments: Sequence[str], option: str) -> tuple[str | None, list[str]]:
    """The last value of an option, and the other arguments."""
    value, rest, waiting = None, [], False
    for argument in arguments:
        if waiting:
            value, waiting = argument, False
        elif argument == option:
            waiting = True
        elif argument.startswith(f"{option}="):
            value = argument.partition("=")[2]
        else:
            rest.append(argument)
    return value, rest


def _option_values(arguments: Sequence[str], option: str) -> list[str]:
    values = [after for before, after in itertools.pairwise(arguments) if before == option]
    return values + [one.partition("=")[2] for one in arguments if one.startswith(f"{option}=")]


def _told(arguments: Sequence[str], flag: str) -> list[str]:
    """What a setting's flag was given. Those of ``compare`` are no flag: its runs stand before any option."""
    if not flag or flag.startswith("-"):
        return _option_values(arguments, flag)
    return list(itertools.takewhile(lambda argument: not argument.startswith("-"), arguments))


def _flags(arguments: Sequence[str]) -> set[str]:
    return {argument.partition("=")[0] for argument in arguments if argument.startswith("--")}


def submit(console: Console, address: str, submission: Submission, *, wait: bool, failed_rows_exit: int) -> int:
    """Send the job and, with ``wait``, follow it; the exit code for the shell.

    Raises errors of :mod:`qrcore.errors`.
    """
    from pipelines.submission import connect, follow, send

    client = connect(address)
    submitted = send(client, submission)
    word = "found there already" if submitted.found else "submitted"
    show_line(console, (word, "bold"), f"  {submitted.submission_id} at {address}")
    if not wait:
        show_line(console, "  the same command without --no-wait follows it")
        return 0
    code = follow(client, submitted.submission_id, _pass_on)
    show_line(console, ("ended", "bold"), f"  {submitted.submission_id} with exit code {code}")
    return failed_rows_exit if code == _COMMITTED_WITH_FAILURES else code


def _pass_on(text: str) -> None:
    # The job writes its log in the form that was asked for here: it is not wrapped a second time.
    if isinstance(sys.stdout, JsonLines):
        sys.stdout.pass_on(text)
    else:
        sys.stdout.write(text)
        sys.stdout.flush()
