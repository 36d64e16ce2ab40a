"""Files by URI: list, read, and put whole objects, create-only where a commit depends on it.

Every object is serialised first and put in one call, so that an exception in the middle leaves nothing behind.
File systems are built where they are used, from that process's own credentials; no key travels in a setting.
"""

from __future__ import annotations

import io
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import aiohttp
import fsspec
from botocore.exceptions import BotoCoreError, ClientError
from fsspec.utils import stringify_path

from qrcore.errors import ConfigError, IncompleteRunError, StorageError

_CONFLICT_ATTEMPTS: Final = 8
_PUT_CHUNK_BYTES: Final = 5 * 2**30 - 1  # one PUT may carry up to 5 GiB; a larger chunk size means no multipart
_STORE_ERRORS: Final = (OSError, BotoCoreError, ClientError, aiohttp.ClientError)


@dataclass(frozen=True, slots=True)
class StorageOptions:
    """How to reach an object store; credentials come from the environment or the machine's role.

    ``endpoint_url``: None uses ``AWS_ENDPOINT_URL`` or AWS itself. ``timeout_s`` bounds connecting and reading.
    ``shared``: local paths are the same files on every node.
    """

    endpoint_url: str | None = None
    region: str | None = None
    path_style: bool = False
    timeout_s: float = 60.0
    shared: bool = False


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A stored object: its URI, size in bytes, and a tag that changes when its content does."""

    uri: str
    size: int
    etag: str


class Storage:
    """One file system (local or S3) with the few operations that runs are built on.

    Whatever the store or the network answers that is not a plain result is raised as :class:`StorageError`.
    """

    def __init__(self, uri: str, options: StorageOptions | None = None) -> None:
        self.protocol = protocol_of(uri)
        with _translated(uri, "open"):
            self._fs = _open_filesystem(self.protocol, options or StorageOptions())

    def exists(self, uri: str) -> bool:
        """Whether an object stands at ``uri``."""
        with _translated(uri, "look for"):
            return bool(self._fs.exists(_path(uri)))

    def is_folder(self, uri: str) -> bool:
        """Whether objects stand below ``uri``, whatever its name, and none stands at it."""
        with _translated(uri, "look for"):
            try:
                return bool(self._fs.info(_path(uri))["type"] == "directory")
            except FileNotFoundError:
                return False

    def info(self, uri: str) -> FileInfo:
        """Size and tag of one object."""
        with _translated(uri, "look up"):
            return self._file_info(self._fs.info(_path(uri)))

    def list_files(self, uri: str, suffix: str = "") -> list[FileInfo]:
        """Files below a folder, sorted by name; names that begin with ``_`` or ``.`` are skipped at every level."""
        root = _path(uri)
        with _translated(uri, "list"):
            try:
                found = self._fs.find(root, detail=True)
            except FileNotFoundError:
                return []
            kept = [info for path, info in found.items() if _is_visible(path, root) and path.endswith(suffix)]
            return sorted((self._file_info(info) for info in kept), key=lambda info: info.uri)

    def read(self, uri: str) -> bytes:
        """The whole object."""
        with _translated(uri, "read"):
            return bytes(self._fs.cat_file(_path(uri)))

    def open(self, uri: str) -> io.RawIOBase:
        """A seekable binary stream for range reads; it raises :class:`StorageError` where the store fails."""
        with _translated(uri, "read"):
            return _CheckedStream(uri, self._fs.open(_path(uri), "rb"))

    def create(self, uri: str, data: bytes) -> bool:
        """Put an object that must not exist yet; False if one is there. Exactly one of many creators wins.

        Raises :class:`IncompleteRunError` if the store does not settle who was first.
        """
        with _translated(uri, "write"):
            if self.protocol == "file":
                return _create_local(Path(_path(uri)), io.BytesIO(data))
            return self._create_remote(uri, data)

    def create_from_file(self, uri: str, stream: IO[bytes]) -> None:
        """Put what ``stream`` holds from its position on, without holding it in memory.

        For names that nobody else uses: on S3 a large object goes up in parts, which cannot be refused at the end.
        """
        with _translated(uri, "write"):
            if self.protocol == "file":
                _create_local(Path(_path(uri)), stream)
                return
            with self._fs.open(_path(uri), "wb") as target:
                shutil.copyfileobj(stream, target)

    def replace(self, uri: str, data: bytes) -> None:
        """Put an object, whatever stood there; readers see the old or the new one, never a mixture."""
        with _translated(uri, "write"):
            if self.protocol == "file":
                target = Path(_path(uri))
                _write_temporary(target, io.BytesIO(data)).replace(target)
            else:
                self._fs.pipe_file(_path(uri), data, chunksize=_PUT_CHUNK_BYTES)

    def _create_remote(self, uri: str, data: bytes) -> bool:
        for attempt in range(_CONFLICT_ATTEMPTS):
            try:
                self._fs.pipe_file(_path(uri), data, mode="create", chunksize=_PUT_CHUNK_BYTES)
                return True
            except FileExistsError:
                return False
            except OSError as error:
                statuses = _http_statuses(error)
                if 412 in statuses:  # s3fs knows the precondition by its name only, which some stores leave out
                    return False
                if 409 not in statuses:
                    raise
                time.sleep(0.05 * 2**attempt)  # another creator is at work right now; look again
        raise IncompleteRunError(
            f"{uri}: expected the store to settle a conflict within {_CONFLICT_ATTEMPTS} attempts, it did not. "
            "Run the same command again."
        )

    def _file_info(self, info: dict[str, Any]) -> FileInfo:
        if self.protocol == "file":
            stamp = Path(info["name"]).stat()
            return FileInfo(str(info["name"]), stamp.st_size, f"{stamp.st_size}-{stamp.st_mtime_ns}")
        return FileInfo(f"{self.protocol}://{info['name']}", int(info["size"]), str(info.get("ETag", "")).strip('"'))


def protocol_of(uri: str) -> str:
    """``file`` or ``s3``; raises :class:`ConfigError` for any other scheme."""
    scheme = uri.split("://", 1)[0] if "://" in uri else "file"
    if scheme not in ("file", "s3"):
        raise ConfigError(f"URI {uri!r}: expected a path, file:// or s3://, got scheme {scheme!r}. Use one of these.")
    return scheme


def join(uri: str, *names: str) -> str:
    """``uri`` with path parts appended."""
    return "/".join([uri.rstrip("/"), *names])


def absolute(uri: str) -> str:
    """The same place, independent of the working directory of the process that uses it."""
    if protocol_of(uri) != "file":
        return uri.rstrip("/")
    return os.path.abspath(_path(uri))  # noqa: PTH100 - links must keep their names, which resolve() would follow


def _path(uri: str) -> str:
    return str(stringify_path(uri.split("://", 1)[1] if "://" in uri else uri))


def _open_filesystem(protocol: str, options: StorageOptions) -> Any:
    # Instances and listings are cached per process by default: a resumed run would see yesterday's listing.
    if protocol == "file":
        return fsspec.filesystem("file", skip_instance_cache=True, use_listings_cache=False)
    client: dict[str, Any] = {"connect_timeout": options.timeout_s, "read_timeout": options.timeout_s}
    if options.path_style:
        client["s3"] = {"addressing_style": "path"}
    return fsspec.filesystem(
        "s3",
        skip_instance_cache=True,
        use_listings_cache=False,
        endpoint_url=options.endpoint_url,
        client_kwargs={"region_name": options.region} if options.region else {},
        config_kwargs=client,
    )


def _is_visible(path: str, root: str) -> bool:
    relative = path[len(root) :].strip("/") if path.startswith(root) else Path(path).name
    return not any(part.startswith(("_", ".")) for part in relative.split("/"))


def _http_statuses(error: BaseException | None) -> set[int]:
    """The HTTP statuses that stand behind an error that s3fs translated."""
    statuses = set()
    while error is not None:
        response = getattr(error, "response", None) or {}
        statuses.add(response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
        error = error.__cause__ or error.__context__
    return statuses


@contextmanager
def _translated(uri: str, verb: str) -> Iterator[None]:
    """Errors of the file system and of the network as :class:`StorageError`."""
    try:
        yield
    except _STORE_ERRORS as error:
        if isinstance(error, FileNotFoundError) and verb != "write":
            raise StorageError(f"{uri}: expected an object, found none. Check the URI.") from error
        raise StorageError(
            f"{uri}: expected to {verb} it, got {type(error).__name__}: {error}. Check the path, the credentials, "
            "their permissions and the endpoint."
        ) from error


class _CheckedStream(io.RawIOBase):
    """A stream whose failures are told apart from those of a parser that reads it: both use OSError otherwise."""

    def __init__(self, uri: str, stream: Any) -> None:
        self._uri = uri
        self._stream = stream

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        with _translated(self._uri, "read"):
            return bytes(self._stream.read(size))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with _translated(self._uri, "read"):
            return int(self._stream.seek(offset, whence))

    def tell(self) -> int:
        return int(self._stream.tell())

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def _create_local(target: Path, content: IO[bytes]) -> bool:
    temporary = _write_temporary(target, content)
    try:
        os.link(temporary, target)  # atomic and exclusive, unlike rename (replaces) and open("x") (visible half done)
        return True
    except FileExistsError:
        return False
    finally:
        temporary.unlink()


def _write_temporary(target: Path, content: IO[bytes]) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex}"
    with temporary.open("xb") as stream:
        shutil.copyfileobj(content, stream)
        stream.flush()
        os.fsync(stream.fileno())
    return temporary
