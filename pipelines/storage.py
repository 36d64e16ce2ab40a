"""Files by URI: list, read, and put whole objects, create-only where a commit depends on it.

Every object is serialised first and put in one call, so that an exception in the middle leaves nothing behind.
File systems are built where they are used, from that process's own credentials; no key travels in a setting.
"""

from __future__ import annotations

import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import fsspec
from fsspec.utils import stringify_path

from qrcore.errors import ConfigError, StorageError

_CONFLICT_ATTEMPTS: Final = 8
_PUT_CHUNK_BYTES: Final = 5 * 2**30 - 1  # one PUT may carry up to 5 GiB; a larger chunk size means no multipart


@dataclass(frozen=True, slots=True)
class StorageOptions:
    """How to reach an object store; credentials come from the environment or the machine's role.

    ``endpoint_url``: None uses ``AWS_ENDPOINT_URL`` or AWS itself. ``timeout_s`` bounds connecting and reading.
    """

    endpoint_url: str | None = None
    region: str | None = None
    path_style: bool = False
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A stored object: its URI, size in bytes, and a tag that changes when its content does."""

    uri: str
    size: int
    etag: str


class Storage:
    """One file system (local or S3) with the few operations that runs are built on."""

    def __init__(self, uri: str, options: StorageOptions | None = None) -> None:
        self.protocol = protocol_of(uri)
        self._fs = _open_filesystem(self.protocol, options or StorageOptions())

    def exists(self, uri: str) -> bool:
        """Whether an object stands at ``uri``."""
        return bool(self._fs.exists(_path(uri)))

    def info(self, uri: str) -> FileInfo:
        """Size and tag of one object; raises :class:`StorageError` if it is missing."""
        try:
            return self._file_info(self._fs.info(_path(uri)))
        except FileNotFoundError as error:
            raise StorageError(f"{uri}: expected an object, found none. Check the URI.") from error

    def list_files(self, uri: str, suffix: str = "") -> list[FileInfo]:
        """Files below a folder, sorted by name; names that begin with ``_`` or ``.`` are skipped at every level."""
        root = _path(uri)
        try:
            found = self._fs.find(root, detail=True)
        except FileNotFoundError:
            return []
        kept = [info for path, info in found.items() if _is_visible(path, root) and path.endswith(suffix)]
        return sorted((self._file_info(info) for info in kept), key=lambda info: info.uri)

    def read(self, uri: str) -> bytes:
        """The whole object; raises :class:`StorageError` if it is missing."""
        try:
            return bytes(self._fs.cat_file(_path(uri)))
        except FileNotFoundError as error:
            raise StorageError(f"{uri}: expected an object, found none. Check the URI.") from error

    def open(self, uri: str) -> Any:
        """A seekable binary stream for range reads."""
        return self._fs.open(_path(uri), "rb")

    def create(self, uri: str, data: bytes) -> bool:
        """Put an object that must not exist yet; False if one is there. Exactly one of many creators wins."""
        if self.protocol == "file":
            return _create_local(Path(_path(uri)), data)
        return self._create_remote(uri, data)

    def replace(self, uri: str, data: bytes) -> None:
        """Put an object, whatever stood there; readers see the old or the new one, never a mixture."""
        if self.protocol == "file":
            target = Path(_path(uri))
            temporary = _write_temporary(target, data)
            temporary.replace(target)
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
                if not _is_conflict(error):
                    raise
                time.sleep(0.05 * 2**attempt)  # another creator is at work right now; look again
        raise StorageError(
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
    return str(Path(_path(uri)).absolute()) if protocol_of(uri) == "file" else uri.rstrip("/")


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


def _is_conflict(error: BaseException | None) -> bool:
    """Whether a 409 (another conditional put in flight) stands behind an error that s3fs translated."""
    while error is not None:
        response = getattr(error, "response", None) or {}
        if response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 409:
            return True
        error = error.__cause__ or error.__context__
    return False


def _create_local(target: Path, data: bytes) -> bool:
    temporary = _write_temporary(target, data)
    try:
        os.link(temporary, target)  # atomic and exclusive, unlike rename (replaces) and open("x") (visible half done)
        return True
    except FileExistsError:
        return False
    finally:
        temporary.unlink()


def _write_temporary(target: Path, data: bytes) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex}"
    with temporary.open("xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    return temporary
