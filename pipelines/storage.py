"""Files by URI: list, read, and put whole objects, create-only where a commit depends on it.

Every object is serialised first and put in one call, so that an exception in the middle leaves nothing behind.
File systems are built in the process that uses them, from its own credentials; no key travels in a setting.
"""

from __future__ import annotations

import io
import os
import shutil
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Final

import fsspec
from fsspec.utils import stringify_path

from pipelines.local_files import create_local, write_temporary
from pipelines.storage_errors import CheckedStream, http_statuses, translated
from qrcore.errors import ConfigError, IncompleteRunError, StorageError

_CONFLICT_ATTEMPTS: Final = 8
_PUT_CHUNK_BYTES: Final = 5 * 2**30 - 1  # one PUT may carry up to 5 GiB; a larger chunk size means no multipart
#: Attempts of s3fs around those of botocore: for bodies that break off, which botocore does not try again.
_BODY_ATTEMPTS: Final = 3
_CLIENT_LIFE_S: Final = 300  # a process uses one client for this long at most


@dataclass(frozen=True, slots=True)
class StorageOptions:
    """How to reach an object store; credentials come from the environment or the machine's role.

    ``endpoint_url``: None uses ``AWS_ENDPOINT_URL`` or AWS itself. ``timeout_s`` bounds connecting and reading.
    ``retries``: attempts of a request that was throttled, reset or answered with a server's error, with growing
    pauses between them. ``shared``: local paths are the same files on every node.
    """

    endpoint_url: str | None = None
    region: str | None = None
    path_style: bool = False
    timeout_s: float = 60.0
    retries: int = 6
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
        with translated(uri, "open"):
            self._fs = _open_filesystem(self.protocol, options or StorageOptions())

    def exists(self, uri: str) -> bool:
        """Whether an object stands at ``uri``."""
        with translated(uri, "look for"):
            return bool(self._fs.exists(_path(uri)))

    def is_folder(self, uri: str) -> bool:
        """Whether objects stand below ``uri``, whatever its name, and none stands at it."""
        with translated(uri, "look for"):
            try:
                return bool(self._fs.info(_path(uri))["type"] == "directory")
            except FileNotFoundError:
                return False

    def info(self, uri: str) -> FileInfo:
        """Size and tag of one object."""
        with translated(uri, "look up"):
            return self._file_info(self._fs.info(_path(uri)))

    def list_files(self, uri: str, suffix: str = "") -> list[FileInfo]:
        """Files below a folder, sorted by name; names that begin with ``_`` or ``.`` are skipped at every level."""
        root = _path(uri)
        with translated(uri, "list"):
            try:
                found = self._fs.find(root, detail=True)
            except FileNotFoundError:
                return []
            kept = [info for path, info in found.items() if _is_visible(path, root) and path.endswith(suffix)]
            return sorted((self._file_info(info) for info in kept), key=lambda info: info.uri)

    def list_everything(self, uri: str) -> list[FileInfo]:
        """Files below a folder, hidden ones and temporary ones of interrupted writes included, sorted by name."""
        with translated(uri, "list"):
            try:
                found = self._fs.find(_path(uri), detail=True)
            except FileNotFoundError:
                return []
            return sorted((self._file_info(info) for info in found.values()), key=lambda info: info.uri)

    def delete(self, uri: str) -> None:
        """Remove one object; none there is as good."""
        with translated(uri, "write"):
            try:
                self._fs.rm_file(_path(uri))
            except FileNotFoundError:
                return

    def open_uploads(self, uri: str) -> list[tuple[str, str]]:
        """(URI, upload id) of uploads in parts below ``uri`` that were begun and not ended; their parts cost money."""
        if self.protocol == "file":
            return []
        bucket, _, prefix = _path(uri).partition("/")
        with translated(uri, "list"):
            answer = self._fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix)
        uploads = [(entry["Key"], entry["UploadId"]) for entry in answer.get("Uploads", ())]
        return [(f"s3://{bucket}/{key}", upload) for key, upload in uploads if key.startswith(prefix)]

    def abort_upload(self, uri: str, upload: str) -> None:
        """Give up one upload in parts."""
        bucket, _, key = _path(uri).partition("/")
        with translated(uri, "write"):
            self._fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload)

    def check_creates(self, folder: str) -> None:
        """Raise :class:`ConfigError` unless a second create of one name is refused here: commits rest on it."""
        probe = join(folder, f"_probe-{uuid.uuid4().hex}")
        try:
            self.create(probe, b"first")
            refused = not self.create(probe, b"second")
        finally:
            with suppress(StorageError):  # some roles may put and not delete; a probe is no harm
                self.delete(probe)
        if not refused:
            raise ConfigError(
                f"{folder}: expected a store that refuses to create an object twice (If-None-Match: *), this one "
                "replaced it. Two drivers could both commit here: use a store with conditional puts."
            )

    def read(self, uri: str) -> bytes:
        """The whole object."""
        with translated(uri, "read"):
            return bytes(self._fs.cat_file(_path(uri)))

    def open(self, uri: str) -> io.RawIOBase:
        """A seekable binary stream for range reads; it raises :class:`StorageError` where the store fails."""
        with translated(uri, "read"):
            return CheckedStream(uri, self._fs.open(_path(uri), "rb"))

    def create(self, uri: str, data: bytes) -> bool:
        """Put an object that must not exist yet; False if one is there. Exactly one of many creators wins.

        Raises :class:`IncompleteRunError` if the store does not settle who was first.
        """
        with translated(uri, "write"):
            if self.protocol == "file":
                return create_local(Path(_path(uri)), io.BytesIO(data))
            return self._create_remote(uri, data)

    def create_from_file(self, uri: str, stream: IO[bytes]) -> None:
        """Put what ``stream`` holds from its position on, without holding it in memory.

        For names that nobody else uses: on S3 a large object goes up in parts, which cannot be refused at the end.
        """
        with translated(uri, "write"):
            if self.protocol == "file":
                create_local(Path(_path(uri)), stream)
                return
            with self._fs.open(_path(uri), "wb") as target:
                shutil.copyfileobj(stream, target)

    def replace(self, uri: str, data: bytes) -> None:
        """Put an object, whatever stood there; readers see the old or the new one, never a mixture."""
        with translated(uri, "write"):
            if self.protocol == "file":
                target = Path(_path(uri))
                write_temporary(target, io.BytesIO(data)).replace(target)
            else:
                self._fs.pipe_file(_path(uri), data, chunksize=_PUT_CHUNK_BYTES)

    def _create_remote(self, uri: str, data: bytes) -> bool:
        for attempt in range(_CONFLICT_ATTEMPTS):
            try:
                self._fs.pipe_file(_path(uri), data, mode="create", chunksize=_PUT_CHUNK_BYTES)
                return True
            except OSError as error:
                # s3fs knows a failed precondition by its name only, which some stores leave out.
                statuses = http_statuses(error) | ({412} if isinstance(error, FileExistsError) else set())
                if not statuses & {409, 412}:
                    raise
                # 412 says that an object stands there, and then one does; anything else is a conflict like 409.
                if 412 in statuses and self._fs.exists(_path(uri)):
                    return False
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
    if scheme == "s3" and "@" in uri.split("://", 1)[1].split("/", 1)[0]:
        raise ConfigError("URI s3://…@…: expected a bucket without credentials. Put them into the environment.")
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
    # fsspec's own caches are off: a resumed run would see yesterday's listing, or use another run's credentials.
    if protocol == "file":
        return fsspec.filesystem("file", skip_instance_cache=True, use_listings_cache=False)
    told = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    return _s3_filesystem(options, told, os.getpid(), int(time.monotonic() // _CLIENT_LIFE_S))


@lru_cache(maxsize=8)
def _s3_filesystem(options: StorageOptions, _told: object, _process: int, _period: int) -> Any:
    # Building a client costs a quarter of a second of CPU, and a plan surveys thousands of files. Whoever tells other
    # credentials gets another client; a period's end also brings those that a file or the machine's role renewed.
    client: dict[str, Any] = {
        "connect_timeout": options.timeout_s,
        "read_timeout": options.timeout_s,
        "retries": {"mode": "standard", "total_max_attempts": options.retries},
    }
    if options.path_style:
        client["s3"] = {"addressing_style": "path"}
    filesystem = fsspec.filesystem(
        "s3",
        skip_instance_cache=True,
        use_listings_cache=False,
        endpoint_url=options.endpoint_url,
        client_kwargs={"region_name": options.region} if options.region else {},
        config_kwargs=client,
    )
    filesystem.retries = min(options.retries, _BODY_ATTEMPTS)
    return filesystem


def _is_visible(path: str, root: str) -> bool:
    relative = path[len(root) :].strip("/") if path.startswith(root) else Path(path).name
    return not any(part.startswith(("_", ".")) for part in relative.split("/"))
