"""The three forms of what is printed."""

from __future__ import annotations

import io
import json
import sys
from datetime import datetime
from typing import Any

import pytest
from rich.console import Console

from jobs.logs import use_format
from tests.jobs.test_cli import invoke


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminals(monkeypatch: pytest.MonkeyPatch) -> tuple[Terminal, Terminal]:
    """Called in a test and not before it: pytest puts streams of its own in place in between."""
    monkeypatch.setenv("TERM", "xterm")
    output, errors = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setattr(sys, "stderr", errors)
    return output, errors


def entries(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_is_one_object_a_line_whatever_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = terminals(monkeypatch)
    undo = use_format("json")
    Console().print("[bold]one[/bold]\ntwo")
    print("half a", end="")
    print(' "line"')
    print("no end", end="")
    Console(stderr=True).print("wrong")
    undo()
    assert [entry["message"] for entry in entries(streams[0])] == ["one", "two", 'half a "line"', "no end"]
    assert {entry["level"] for entry in entries(streams[0])} == {"info"}
    (error,) = entries(streams[1])
    assert (error["level"], error["message"]) == ("error", "wrong")
    assert datetime.fromisoformat(error["time"]).tzinfo is not None
    assert sys.stdout is streams[0]


def test_text_has_no_colours_on_a_terminal_and_auto_has(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = terminals(monkeypatch)
    undo = use_format("text")
    assert not Console().is_terminal
    Console().print("[bold red]x[/]")
    undo()
    assert streams[0].getvalue() == "x\n"
    use_format("auto")()
    assert Console().is_terminal
    Console().print("[bold red]x[/]")
    assert "\x1b[" in streams[0].getvalue()


def test_the_option_stands_before_the_command() -> None:
    result = invoke("--log-format", "json", "heads", "list")
    assert result.exit_code == 0
    lines = [json.loads(line) for line in result.output.splitlines()]
    assert any("qrhead-llama-3.1-8b" in line["message"] for line in lines)
    mistake = invoke("--log-format", "json", "heads", "show", "none")
    assert mistake.exit_code == 2
    (error,) = [json.loads(line) for line in mistake.output.splitlines()]
    assert (error["level"], error["exit_code"]) == ("error", 2)
    assert error["message"].startswith("heads: expected a list")
    assert invoke("--log-format", "xml", "heads", "list").exit_code == 2
