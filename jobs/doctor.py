"""``qrbatch doctor``: what this machine lacks for a job, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console

from jobs.console import show_line
from jobs.prepare import PrepareConfig
from jobs.settings import Section, fact, leaves

if TYPE_CHECKING:
    from pipelines.doctor import Check, DoctorSettings

_MARKS: Final = {"ok": ("ok", "green"), "warning": ("look", "yellow"), "failed": ("FIX", "bold red")}


def doctor_settings(config: dict[str, Any], kind: type[Section]) -> DoctorSettings:
    """What to look at for a configuration (dotted name to value) of any job, which may be empty; a job without a part
    leaves it out."""
    from pipelines.cluster import ClusterSettings
    from pipelines.doctor import DoctorSettings
    from pipelines.storage import StorageOptions
    from pipelines.work import PoolSettings

    def section(name: str) -> dict[str, Any]:
        return {key.removeprefix(f"{name}."): value for key, value in config.items() if key.startswith(f"{name}.")}

    model, actors = section("model"), section("actors")
    rows = () if kind is PrepareConfig else tuple(config.get("input.uris", ()))
    return DoctorSettings(
        model=model.get("id", "embedded"),
        revision=model.get("revision"),
        heads=model.get("heads") if "heads" in model else "all" if model else None,
        on_mismatch=model.get("on_mismatch", "refuse"),
        inputs=rows,
        reads=tuple(_further_places(config, kind)) if config else (),
        output=config.get("output.uri"),
        pool=PoolSettings(actors["count"], actors["cpus"], actors["gpus"]) if actors else PoolSettings(),
        cluster=ClusterSettings(section("cluster").get("address")),
        storage=StorageOptions(**section("storage")),
    )


def _further_places(config: dict[str, Any], kind: type[Section]) -> Iterator[tuple[str, str]]:
    """Files and folders that the job reads beside Parquet rows, by the setting that names them."""
    for name, field in leaves(kind).items():
        read = fact(field, "uri") and name.partition(".")[0] not in ("output", "storage", "lineage")
        if read and (name != "input.uris" or kind is PrepareConfig):
            given = config[name] or ()
            yield from ((name, uri) for uri in ([given] if isinstance(given, str) else given))


def show_checks(console: Console, settings: DoctorSettings) -> list[Check]:
    """Print each check as it is made; all of them."""
    from pipelines.doctor import examine

    checks = []
    for check in examine(settings):
        checks.append(check)
        word, style = _MARKS[check.state]
        show_line(console, (f"{word:5}", style), f"{check.name:16}", check.found)
        if check.advice:
            show_line(console, " " * 21, (check.advice, "bold"))
    return checks
