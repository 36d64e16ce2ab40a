"""The whole examination of one trained model: which heads, how good, how long, and whether they matter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from pipelines.identity import content_hash
from pipelines.splits import Part
from pipelines.storage import Storage, StorageOptions, join
from pipelines.training.answer_study import answer_quality, verdict_quality
from pipelines.training.causal_study import causal_check
from pipelines.training.findings import (
    AnswerQuality,
    CausalCheck,
    Findings,
    HeadTable,
    LengthPoint,
    ListQuality,
    VerdictQuality,
)
from pipelines.training.head_study import head_table, write_head_set
from pipelines.training.judged import JudgedSet, read_judged_set
from pipelines.training.length_study import length_curve
from pipelines.training.ranking_study import comparisons, list_qualities
from pipelines.training.readings import Reading, check_log, log_read, log_reading
from qrcore.errors import ConfigError, InputError
from qrcore.models import weights_sha256

_LISTS = "lists.parquet"
_QRELS = "qrels.parquet"
_ANSWERS = "answers.parquet"


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """What models are measured on.

    ``lists``: a folder with one folder a list name. ``heads_on``: lists whose dev queries choose the ``top`` heads,
    empty: all; ``length_on``, ``answers_on``: the list for quality against length, and for generated answers.
    ``part``: ``dev`` while choosing, ``test`` for a release; readings of test queries are added to ``log``, a local
    file that these need.
    """

    lists: str
    heads_on: tuple[str, ...] = ()
    length_on: str | None = None
    answers_on: str | None = None
    top: int = 4
    part: Literal["dev", "test"] = "dev"
    log: str | None = None


def read_judged_sets(settings: EvaluationSettings, options: StorageOptions) -> dict[str, JudgedSet]:
    """Every judged set of the folder by name. Raises InputError if there is none, ConfigError for unknown names."""
    storage = Storage(settings.lists, options)
    names = sorted(file.uri.split("/")[-2] for file in storage.list_files(settings.lists, f"/{_LISTS}"))
    if not names:
        raise InputError(f"evaluation {settings.lists}: expected folders with {_LISTS} in it, found none. Check it.")
    wanted = {*settings.heads_on, settings.length_on, settings.answers_on} - {None}
    if unknown := wanted - set(names):
        raise ConfigError(
            f"evaluation: expected names of {', '.join(names)}; got {', '.join(map(str, unknown))}. Choose among these."
        )
    return {name: _read_set(name, settings.lists, storage, options) for name in names}


def _read_set(name: str, folder: str, storage: Storage, options: StorageOptions) -> JudgedSet:
    answers = join(folder, name, _ANSWERS)
    return read_judged_set(
        name,
        [join(folder, name, _LISTS)],
        join(folder, name, _QRELS),
        answers if storage.exists(answers) else None,
        options,
    )


def lists_hash(sets: Mapping[str, JudgedSet]) -> str:
    """SHA-256 of the content of judged sets, whatever folder they lie in, hexadecimal."""
    return content_hash({name: judged.hash for name, judged in sets.items()})


def chosen_from(sets: Mapping[str, JudgedSet], settings: EvaluationSettings) -> list[JudgedSet]:
    """The sets whose dev queries choose the heads."""
    return [judged for name, judged in sets.items() if not settings.heads_on or name in settings.heads_on]


def study(
    folder: str,
    seed: int,
    sets: Mapping[str, JudgedSet],
    settings: EvaluationSettings,
    name: str,
    device: str,
    on_phase: Callable[[str], None] = lambda phase: None,
) -> Findings:
    """Choose heads on dev queries, write them as the folder's head set, and measure; ``on_phase``: is told what begins.

    Test queries are read for rankings and answers only, after everything else and only if ``settings.part`` says so;
    the log tells of it before and after. Raises ConfigError for test queries without a log.
    """
    if settings.part == "test":
        check_log(settings.log)
    examined = _Study(folder, sets, settings, name, device, on_phase)
    table = examined.choose()
    found = examined.on_dev(seed, table)
    if settings.part == "test":
        found = examined.on_test(found)
    return replace(found, comparisons=comparisons(found.qualities))


@dataclass(frozen=True, slots=True)
class _Study:
    folder: str
    sets: Mapping[str, JudgedSet]
    settings: EvaluationSettings
    name: str
    device: str
    on_phase: Callable[[str], None]

    def choose(self) -> HeadTable:
        self.on_phase("heads")
        table = head_table(self.folder, chosen_from(self.sets, self.settings), self.settings.top, device=self.device)
        write_head_set(self.folder, table, name=self.name)
        return table

    def on_dev(self, seed: int, table: HeadTable) -> Findings:
        return Findings(
            seed=seed,
            weights_sha256=weights_sha256(self.folder),
            head_table=table,
            qualities=self._qualities("dev"),
            comparisons=(),
            lengths=self._lengths(),
            causal=self._causal(table),
            answers=self._answers("dev"),
            verdicts=self._verdicts(),
            lists_sha256=lists_hash(self.sets),
        )

    def on_test(self, found: Findings) -> Findings:
        log, heads = str(self.settings.log), found.head_table.chosen
        reading = Reading(self.name, found.seed, found.weights_sha256, found.lists_sha256, heads)
        log_reading(log, reading)
        qualities, answers = self._qualities("test"), self._answers("test")
        log_read(log, reading, qualities)
        return replace(found, qualities=(*found.qualities, *qualities), answers=(*found.answers, *answers))

    def _qualities(self, part: Part) -> tuple[ListQuality, ...]:
        self.on_phase(f"rankings of {part} queries")
        sets = self.sets.values()
        return tuple(q for judged in sets for q in list_qualities(self.folder, judged, part, device=self.device))

    def _lengths(self) -> tuple[LengthPoint, ...]:
        if (judged := self.sets.get(self.settings.length_on or "")) is None:
            return ()
        self.on_phase("lengths")
        return length_curve(self.folder, judged, device=self.device)

    def _causal(self, table: HeadTable) -> CausalCheck | None:
        self.on_phase("causal check")
        sets = chosen_from(self.sets, self.settings)
        return causal_check(self.folder, sets, table.chosen, device=self.device)

    def _answers(self, part: Part) -> tuple[AnswerQuality, ...]:
        if (judged := self.sets.get(self.settings.answers_on or "")) is None:
            return ()
        self.on_phase(f"answers to {part} queries")
        found = answer_quality(self.folder, judged, part, device=self.device)
        return () if found is None else (found,)

    def _verdicts(self) -> VerdictQuality | None:
        if (judged := self.sets.get(self.settings.answers_on or "")) is None:
            return None
        self.on_phase("verdicts")
        return verdict_quality(self.folder, judged, "dev", device=self.device)
