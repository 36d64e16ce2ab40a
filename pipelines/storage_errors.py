"""What stores and networks answer, as errors of ours that repeat no credential."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import aiohttp
from botocore.exceptions import BotoCoreError, ClientError

from qrcore.errors import StorageError

_STORE_ERRORS: Final = (OSError, BotoCoreError, ClientError, aiohttp.ClientError)
#: What must never be repeated in a message, whoever's error text it comes in.
_SECRETS: Final = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "AWS_ACCESS_KEY_ID")
_SHORTEST_SECRET: Final = 8


@contextmanager
def translated(uri: str, verb: str) -> Iterator[None]:
    """Errors of the file system and of the network as :class:`StorageError`."""
    try:
        yield
    except _STORE_ERRORS as error:
        if isinstance(error, FileNotFoundError) and verb != "write":
            raise StorageError(f"{uri}: expected an object, found none. Check the URI.") from error
        raise StorageError(
            f"{uri}: expected to {verb} it, got {type(error).__name__}: {without_secrets(str(error))}. Check the path, "
            "the credentials, their permissions and the endpoint."
        ) from _harmless(error)


def without_secrets(text: str) -> str:
    """The text without credentials that this process knows from its environment."""
    for name in _SECRETS:
        secret = os.environ.get(name, "")
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, f"<{name}>")
    return text


def _harmless(error: Exception) -> Exception | None:
    # A traceback prints the causes of an error, too: one that repeats a secret is not passed on.
    return error if without_secrets(str(error)) == str(error) else None


class CheckedStream(io.RawIOBase):
    """A stream whose failures are told apart from those of a parser that reads it: both use OSError otherwise."""

    def __init__(self, uri: str, stream: Any) -> None:
        self._uri = uri
        self._stream = stream

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        with translated(self._uri, "read"):
            return bytes(self._stream.read(size))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with translated(self._uri, "read"):
            return int(self._stream.seek(offset, whence))

    def tell(self) -> int:
        return int(self._stream.tell())

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def http_statuses(error: BaseException | None) -> set[int]:
    """The HTTP statuses that stand behind an error that s3fs translated."""
    statuses = set()
    while error is not None:
        response = getattr(error, "response", None) or {}
        statuses.add(response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
        error = error.__cause__ or error.__context__
    return statuses
