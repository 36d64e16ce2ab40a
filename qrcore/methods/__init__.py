"""One method per file; the file's name is the method's name, and no list of methods is kept anywhere."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from qrcore.contracts.method import Method
from qrcore.errors import ConfigError


@cache
def names() -> tuple[str, ...]:
    """Every method's name: the files of this folder."""
    return tuple(sorted(module.name for module in iter_modules(__path__)))


def load(name: str) -> Method:
    """What the method ``name`` says of itself. Raises :class:`ConfigError` for an unknown one."""
    if name not in names():
        raise ConfigError(f"method: expected one of {', '.join(names())}; got {name!r}. Choose one of these.")
    found: Method = import_module(f"{__name__}.{name}").METHOD
    return found
