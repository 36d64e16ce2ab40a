"""Marks that are put before an actor's model is loaded: Ray starts an actor whose process died again for ever.

Only while no actor of the driver was ever ready: later deaths are those of a node, and work goes on elsewhere.
"""

from __future__ import annotations

from typing import Final

import ray

from pipelines.attempts import ATTEMPTS
from pipelines.cluster import START_ATTEMPTS
from pipelines.storage import Storage, join
from qrcore.errors import RunError

_READY: Final = "ready"
_GIVEN_UP: Final = "given-up"


def begin_start(storage: Storage, run_uri: str, driver: str) -> None:
    """Mark that this actor starts. Raises :class:`RunError` if that has killed its process too often."""
    folder = join(run_uri, ATTEMPTS, f"starts-{driver}")
    names = [file.uri.rsplit("/", 1)[1] for file in storage.list_files(folder)]
    if _READY in names:
        return
    actor = ray.get_runtime_context().get_actor_id()
    earlier = sum(name.startswith(f"{actor}-") for name in names)
    if earlier >= START_ATTEMPTS or _GIVEN_UP in names:
        storage.create(join(folder, _GIVEN_UP), b"")
        raise RunError(f"the process that loads the model died {START_ATTEMPTS} times in a row")
    storage.create(join(folder, f"{actor}-{earlier}"), b"")


def started(storage: Storage, run_uri: str, driver: str) -> None:
    """Mark that an actor of this driver is ready."""
    storage.create(join(run_uri, ATTEMPTS, f"starts-{driver}", _READY), b"")
