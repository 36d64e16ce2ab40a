"""Methods are found by listing their folder, and say the truth of themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

import qrcore.methods
from qrcore import methods
from qrcore.errors import ConfigError

FILES = sorted(path.stem for path in Path(str(qrcore.methods.__file__)).parent.glob("[a-z]*.py"))


def test_every_file_is_a_method() -> None:
    assert list(methods.names()) == FILES
    assert {"all", "core", "ndcg", "qrhead", "qrscore", "random"} <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_method_is_what_its_file_is_called(name: str) -> None:
    method = methods.load(name)
    assert method.name == name
    assert method.source
    assert callable(method.build)


@pytest.mark.parametrize("name", ["qr", "__init__", "", "../core", "os"])
def test_unknown_methods_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError, match="expected one of all, "):
        methods.load(name)
