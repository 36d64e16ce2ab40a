"""Users' templates: the usual context, mistakes with their line, and no way out of the sandbox."""

from __future__ import annotations

import pytest

from qrcore.errors import ConfigError, ScoreError
from qrcore.rendering import CONTEXT_TEMPLATE, TextTemplate


def test_the_usual_context() -> None:
    segments = [{"title": "T", "text": "one"}, {"title": None, "text": "two\n"}]
    assert TextTemplate(CONTEXT_TEMPLATE, "template").render({"segments": segments}) == "T\none\n\ntwo"


def test_a_mistake_is_named_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"render\.user, line 2: expected a Jinja template"):
        TextTemplate("fine\n{% if %}", "render.user")
    with pytest.raises(ScoreError, match=r"render\.user, line 3: expected to render it, got 'missing' is undefined"):
        TextTemplate("a\nb\n{{ missing }}", "render.user").render({})
    with pytest.raises(ScoreError, match=r"line 1: .*"):
        TextTemplate("{{ 1 // 0 }}", "render.user").render({})


@pytest.mark.parametrize(
    "escape", ["{{ x.__class__.__mro__ }}", "{{ ''.format.__globals__ }}", "{{ values.append(1) }}"]
)
def test_templates_stay_in_their_sandbox(escape: str) -> None:
    with pytest.raises(ScoreError) as caught:
        TextTemplate(escape, "template").render({"x": 1, "values": [0]})
    assert caught.value.code == "template_error"
