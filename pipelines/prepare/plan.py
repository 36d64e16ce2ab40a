"""The plan of ``prepare``: which parts of which files make up which unit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import NamedTuple

from pipelines.cluster import get
from pipelines.identity import code_version, content_hash, input_hash, package_versions, run_id
from pipelines.job import Observer
from pipelines.plan import RunPlan
from pipelines.prepare.beside import task
from pipelines.prepare.settings import JOB, PrepareSettings
from pipelines.prepare.sources import Part, cut_file
from pipelines.prepare.work import PreparedUnit
from pipelines.storage import FileInfo


class Identity(NamedTuple):
    """A run's id, and the two hashes that it comes of."""

    run_id: str
    config_hash: str
    input_hash: str


class PreparePlan(RunPlan):
    """Which parts of which files make up which unit; stored once and never cut anew."""

    job: str = JOB
    order: str = "as_given"
    files: tuple[tuple[str, int, str], ...]
    units: tuple[PreparedUnit, ...]

    @property
    def rows(self) -> int:
        """Source rows."""
        return sum(unit.rows for unit in self.units)


def identity_of(settings: PrepareSettings, files: Sequence[FileInfo], beside: Sequence[FileInfo]) -> Identity:
    """What makes two runs the same: settings, code, and all files."""
    affecting = {"job": JOB, "code": code_version(), "config": settings.affecting_output, "beside": input_hash(beside)}
    config_hash, inputs = content_hash(affecting), input_hash(files)
    return Identity(run_id(settings.name, config_hash, inputs), config_hash, inputs)


def make_plan(
    settings: PrepareSettings,
    files: Sequence[FileInfo],
    identity: Identity,
    unit_rows: int,
    observer: Observer,
) -> PreparePlan:
    """Cut every file into parts of about a shard, and parts into units."""
    observer.stage(f"reading {len(files)} input files for the plan")
    cutting = task(cut_file)
    references = [
        cutting.remote(number, file, settings.shard_bytes, unit_rows, settings.storage)
        for number, file in enumerate(files)
    ]
    parts = [part for reference in references for part in get(reference)]
    code = code_version()
    return PreparePlan(
        run_id=identity.run_id,
        name=settings.name,
        config_hash=identity.config_hash,
        input_hash=identity.input_hash,
        config=settings.config,
        provenance={
            "told": f"recipe {settings.recipe}",
            "code_version": code["version"],
            "source_sha256": code["source_sha256"],
            "packages": package_versions(),
            "recipe": settings.recipe,
            "split": asdict(settings.split),
        },
        files=tuple((file.uri, file.size, file.etag) for file in files),
        units=tuple(_units(parts, files, identity.config_hash, settings.shard_bytes, unit_rows)),
    )


def _units(
    parts: Sequence[Part], files: Sequence[FileInfo], config_hash: str, max_bytes: int, max_rows: int
) -> Iterator[PreparedUnit]:
    """Small parts of files that follow one another share a unit."""
    together: list[Part] = []
    for part in parts:
        size, rows = sum(one.bytes for one in together), sum(one.rows for one in together)
        if together and (size + part.bytes > max_bytes or rows + part.rows > max_rows):
            yield _unit(together, files, config_hash)
            together = []
        together.append(part)
    if together:
        yield _unit(together, files, config_hash)


def _unit(parts: Sequence[Part], files: Sequence[FileInfo], config_hash: str) -> PreparedUnit:
    places = [[files[part.file].uri, files[part.file].etag, part.start, part.stop] for part in parts]
    # Names sort as the plan does, so that shards read in order of name are in order of input.
    number = f"{parts[0].file:05d}-{parts[0].first_row:09d}"
    return PreparedUnit(unit_id=f"{number}-{content_hash([config_hash, places])[:12]}", parts=tuple(parts))
