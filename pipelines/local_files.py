"""Local files that are put whole or not at all, and created by one of many at most."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from pathlib import Path
from typing import IO, Final

from qrcore.errors import ConfigError

_NO_HARD_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def create_local(target: Path, content: IO[bytes]) -> bool:
    """Put a file that must not exist yet; False if one is there. Raises :class:`ConfigError` without hard links."""
    temporary = write_temporary(target, content)
    try:
        os.link(temporary, target)  # atomic and exclusive, unlike rename (replaces) and open("x") (visible half done)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        raise ConfigError(
            f"{target.parent}: expected a file system with hard links, which make a commit exclusive; it has none "
            f"({error.strerror}). Use another folder, or s3://."
        ) from error
    finally:
        temporary.unlink()


def write_temporary(target: Path, content: IO[bytes]) -> Path:
    """What is to become ``target``, written to the disk under a hidden name beside it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex}"
    with temporary.open("xb") as stream:
        shutil.copyfileobj(content, stream)
        stream.flush()
        os.fsync(stream.fileno())
    return temporary
