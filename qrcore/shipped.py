"""The models that ship in this package, by name."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Final

#: The folder of each beside this file. A name means the same in every process.
EMBEDDED_MODELS: Final = {"embedded": "embedded", "embedded-gqa": "embedded_gqa"}


def embedded_folder(name: str = "embedded") -> Path:
    """The folder of a model that ships in this package, see :data:`EMBEDDED_MODELS`."""
    return Path(str(resources.files("qrcore") / EMBEDDED_MODELS[name]))
