"""Templates that users write, rendered in a sandbox."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from qrcore.errors import ConfigError, ScoreError

#: Segments one after the other, titles on a line of their own, an empty line between two; white space at the end of a
#: piece belongs to the place that it was cut at.
CONTEXT_TEMPLATE: Final = (
    "{% for segment in segments %}{% if segment.title %}{{ segment.title }}\n{% endif %}"
    "{{ segment.text.rstrip() }}{% if not loop.last %}\n\n{% endif %}{% endfor %}"
)
_FILE: Final = "<template>"


class TextTemplate:
    """A Jinja template that can neither reach Python's insides nor change what it is given.

    ``name`` is said in messages. Raises :class:`ConfigError` naming the line of a mistake.
    """

    def __init__(self, source: str, name: str) -> None:
        self._name = name
        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
        try:
            self._template = environment.from_string(source)
        except TemplateSyntaxError as error:
            raise ConfigError(
                f"{name}, line {error.lineno}: expected a Jinja template; {error.message}. Correct the line."
            ) from error

    def render(self, values: Mapping[str, Any]) -> str:
        """The text for these values. Raises :class:`ScoreError` naming the line that cannot be rendered."""
        try:
            return self._template.render(**values)
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            said = str(error).rstrip(".")
            raise ScoreError(
                "template_error",
                f"{self._name}, line {_line_of(error)}: expected to render it, got {said}. Correct the line.",
                stage="render",
            ) from error


def _line_of(error: BaseException) -> int:
    """The template's line at which an error was raised; Jinja rewrites tracebacks so that they name it."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename in (_FILE, "<unknown>"):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
