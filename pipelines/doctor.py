"""Whether this installation could run a job: what is there, what is missing, and what to do about it."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from typing import Final, Literal

from packaging.requirements import Requirement

from pipelines.cluster import ClusterSettings, check_resources, ray_session
from pipelines.inputs import list_inputs
from pipelines.storage import Storage, StorageOptions, absolute, join
from pipelines.work import PoolSettings
from qrcore.errors import InputError, QRBatchError

_OLDEST_PYTHON: Final = (3, 11)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: what was found, and what to do unless it is ``ok``."""

    name: str
    state: Literal["ok", "warning", "failed"]
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class DoctorSettings:
    """What the job would use. ``inputs``: Parquet rows; ``reads``: what else it reads, by setting; these and ``output``
    may be empty: then no storage is looked at."""

    model: str
    revision: str | None
    heads: str | None
    on_mismatch: Literal["refuse", "warn"]
    inputs: tuple[str, ...]
    reads: tuple[tuple[str, str], ...]
    output: str | None
    pool: PoolSettings
    cluster: ClusterSettings
    storage: StorageOptions


def examine(settings: DoctorSettings) -> Iterator[Check]:
    """Every check in the order in which a run would meet it; later ones are made whatever the earlier ones found."""
    yield _python()
    yield from _packages()
    yield _cuda(settings)
    yield _guarded("model and heads", lambda: _model(settings))
    if settings.inputs:
        yield _guarded("input", lambda: _inputs(settings))
    for name, uri in settings.reads:
        yield _guarded(name, partial(_reads, name, uri, settings.storage))
    if settings.output:
        yield _guarded("output", lambda: _output(settings))
    yield _guarded("ray", lambda: _ray(settings))


def _guarded(name: str, look: Callable[[], Check]) -> Check:
    try:
        return look()
    except QRBatchError as error:
        # The message of an error of ours ends in what to do.
        return Check(name, "failed", str(error))


def _python() -> Check:
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < _OLDEST_PYTHON:
        return Check("python", "failed", found, "Make the environment with Python 3.11 or later.")
    return Check("python", "ok", found)


def _packages() -> Iterator[Check]:
    for text in metadata.requires("qrbatch") or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Check(requirement.name, "failed", "not installed", f"pip install '{text}'")
            continue
        if requirement.specifier.contains(version, prereleases=True):
            if requirement.name in ("torch", "transformers", "ray", "pyarrow"):
                yield Check(requirement.name, "ok", version)
        else:
            yield Check(requirement.name, "failed", f"{version}, not {requirement.specifier}", f"pip install '{text}'")


def _cuda(settings: DoctorSettings) -> Check:
    import torch

    wanted = settings.pool.gpus_per_actor > 0
    if torch.cuda.is_available():
        sizes = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        found = ", ".join(f"{one.name} with {one.total_memory / 2**30:.0f} GiB" for one in sizes)
        return Check("cuda", "ok", f"{found} (CUDA {torch.version.cuda})")
    if not wanted:
        return Check("cuda", "ok", "no GPU here; actors.gpus is 0, scoring runs on CPUs")
    if settings.cluster.address:
        return Check("cuda", "ok", "no GPU here; the actors run on the cluster's nodes")
    reason = "torch was built without CUDA" if torch.version.cuda is None else "torch sees no GPU"
    return Check("cuda", "failed", reason, "Install torch's CUDA build and the node's driver, or set actors.gpus to 0.")


def _model(settings: DoctorSettings) -> Check:
    from qrcore.heads import resolve_heads
    from qrcore.matching import check_origin
    from qrcore.models import open_model

    source = open_model(settings.model, settings.revision)
    heads = resolve_heads(settings.heads, source.head_set, source.shape)
    warnings = check_origin(heads, source, settings.on_mismatch)
    found = (
        f"{settings.model}: {len(heads.head_list)} heads of {heads.name}, {heads.depth} of {source.shape.layers} layers"
    )
    if warnings:
        return Check("model and heads", "warning", f"{found}; {'; '.join(warnings)}", "The run's manifest keeps this.")
    return Check("model and heads", "ok", found)


def _inputs(settings: DoctorSettings) -> Check:
    files = list_inputs(settings.inputs, settings.storage)
    return Check("input", "ok", f"{len(files)} files, {sum(file.size for file in files) / 2**20:,.1f} MiB")


def _reads(name: str, uri: str, options: StorageOptions) -> Check:
    storage, place = Storage(uri, options), absolute(uri)
    if storage.exists(place) and not storage.is_folder(place):
        return Check(name, "ok", f"{uri}: {storage.info(place).size / 2**20:,.1f} MiB")
    files = storage.list_everything(place)
    if not files:
        raise InputError(f"{name} {uri}: expected a file or a folder with some, found none. Check the URI.")
    if storage.exists(join(place, "_plan.json")) and not storage.exists(join(place, "_manifest.json")):
        raise InputError(f"{name} {uri}: expected a committed run, got one without a manifest. Finish it first.")
    return Check(name, "ok", f"{uri}: {len(files)} files, {sum(file.size for file in files) / 2**20:,.1f} MiB")


def _output(settings: DoctorSettings) -> Check:
    output = absolute(settings.output or "")
    # Nothing is written: least-privilege policies let nobody remove it again.
    Storage(output, settings.storage).exists(join(output, "none.latest.json"))
    return Check("output", "ok", f"{output} can be reached (writing was not tried)")


def _ray(settings: DoctorSettings) -> Check:
    pool = settings.pool
    with ray_session(settings.cluster):
        check_resources(pool.actors, pool.cpus_per_actor, pool.gpus_per_actor)
        import ray

        have = ray.cluster_resources()
        where = settings.cluster.address or "on this machine"
        return Check(
            "ray",
            "ok",
            f"{where}: {have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs hold {pool.actors} actors",
        )
