"""What makes two runs the same: hashes of settings, code and inputs."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Sequence
from functools import cache
from importlib import metadata, resources
from typing import Any, Final

from pipelines.storage import FileInfo
from qrcore.errors import ConfigError

_NAME: Final = re.compile(r"[a-z0-9._-]{1,64}")
_PACKAGES: Final = ("qrbatch", "ray", "torch", "transformers", "tokenizers", "pyarrow", "s3fs", "fsspec")


def content_hash(value: Any) -> str:
    """SHA-256 of a JSON value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def input_hash(files: Sequence[FileInfo]) -> str:
    """Hash of which files go in, with their sizes and tags."""
    return content_hash([[file.uri, file.size, file.etag] for file in files])


def run_id(name: str, config_hash: str, inputs_hash: str) -> str:
    """``name-`` and 12 digits of the hash of settings and inputs. Raises :class:`ConfigError`."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"name: expected 1 to 64 of a-z, 0-9, '.', '_' and '-', got {name!r}. Choose another name.")
    return f"{name}-{content_hash([config_hash, inputs_hash])[:12]}"


def unit_id(config_hash: str, file: FileInfo, start: int, stop: int) -> str:
    """16 hexadecimal digits that name a range of rows under one configuration."""
    return content_hash([config_hash, file.uri, file.etag, start, stop])[:16]


def code_version() -> dict[str, str]:
    """Package version and a hash of the installed sources, which tells edited checkouts apart."""
    return {"version": metadata.version("qrbatch"), "source_sha256": _source_hash()}


@cache
def _source_hash() -> str:
    digest = hashlib.sha256()
    for package in ("qrcore", "pipelines"):
        root = resources.files(package)
        for path in sorted(_python_files(root)):
            digest.update(path.encode() + b"\0" + (root / path).read_bytes())
    return digest.hexdigest()


def _python_files(root: Any, prefix: str = "") -> list[str]:
    found = []
    for entry in root.iterdir():
        if entry.is_dir() and not entry.name.startswith((".", "__pycache__")):
            found += _python_files(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".py"):
            found.append(prefix + entry.name)
    return found


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that scores depend on."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in _PACKAGES}}
