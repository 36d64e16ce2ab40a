"""Holds command lines that are written somewhere against what the program takes."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import typer

from jobs.cli import app


def misunderstood(line: str) -> list[str]:
    """Words of ``qrbatch …`` that the program has no command or option for."""
    program, *words = shlex.split(line)
    assert program == "qrbatch", line
    return list(_misunderstood(typer.main.get_command(app), words))


def _misunderstood(command: Any, words: list[str]) -> Iterator[str]:
    options = {name: parameter for parameter in command.params for name in parameter.opts + parameter.secondary_opts}
    while words:
        word, *words = words
        if word.startswith("--"):
            name, _, value = word.partition("=")
            if name not in options:
                yield word
            elif not value and not options[name].is_flag:
                words = words[1:]
        elif hasattr(command, "commands"):
            if word not in command.commands:
                yield word
                return
            yield from _misunderstood(command.commands[word], words)
            return
        elif command.context_settings.get("allow_extra_args"):  # submit: the rest is a command line of its own
            yield from _misunderstood(typer.main.get_command(app), [word, *words])
            return
