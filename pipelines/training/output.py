"""The model folder of a training: weights, tokenizer, head set, curves, a report for programs and a card for people."""

from __future__ import annotations

import json
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final

from pipelines.identity import package_versions
from pipelines.storage import Storage, absolute, join
from pipelines.training.card import CardFacts, SeedFacts, TrainingText, best_on_dev, model_card
from pipelines.training.corpus import Corpus
from pipelines.training.curves import LENGTH_CURVE, TRAINING_CURVE, length_curve, training_curve
from pipelines.training.findings import Findings
from pipelines.training.head_study import HEAD_SET_FILE
from pipelines.training.material import Material
from pipelines.training.seeds import SeedRun
from pipelines.training.settings import TrainEmbeddedSettings
from qrcore.prompts import EMBEDDED
from qrcore.training.curriculum import Stage
from qrcore.training.progress import Progress

_REPORT: Final = "training.json"
_CARD: Final = "MODEL_CARD.md"
#: What not every training writes; left over from an earlier one, it would tell of another model.
_NOT_ALWAYS: Final = (HEAD_SET_FILE, LENGTH_CURVE)
#: Settings that say where something lies or how it is kept, not what was trained.
_WHERE: Final = ("texts", "questions", "output", "work", "storage", "save_every_s", "lists", "log")


def card_facts(
    settings: TrainEmbeddedSettings, material: Material, runs: Sequence[SeedRun], found: Sequence[Findings | None]
) -> CardFacts:
    """What the card is written from; the seed that ranks dev lists best is the one to ship."""
    machine = f"{platform.machine()}, {settings.device}, {settings.parts} parts" + ", compiled" * settings.compiled
    seeds = tuple(
        SeedFacts(
            run.seed, run.stages[-1].tokens, run.stages[-1].steps, run.stages[-1].seconds, machine, run.stages, findings
        )
        for run, findings in zip(runs, found, strict=True)
    )
    chosen_on = settings.evaluation.heads_on if settings.evaluation else ()
    shipped = best_on_dev(seeds, chosen_on)
    return CardFacts(
        name=settings.name,
        parameters=runs[0].parameters,
        file_bytes=(Path(runs[0].folder) / "model.safetensors").stat().st_size,
        shape=settings.shape,
        vocabulary=len(material.tokenizer),
        prompt=_prompt_line(),
        limit_tokens=min(settings.shape.max_positions, longest_prompt(settings.stages)),
        texts=_training_texts(material.corpus, settings.question_licence),
        seeds=seeds,
        shipped=seeds[0].seed if shipped is None else shipped,
        taught=settings.taught,
        notes=settings.notes,
        chosen_on=chosen_on,
        length_on=settings.evaluation.length_on if settings.evaluation else None,
    )


def longest_prompt(stages: Sequence[Stage]) -> int:
    """Tokens of the longest sample in which something is to be found."""
    return max((stage.lengths[1] for stage in stages if stage.task == "retrieval"), default=0)


def write_model_folder(
    settings: TrainEmbeddedSettings, material: Material, runs: Sequence[SeedRun], facts: CardFacts
) -> None:
    """Put the shipped seed's model folder, with its report, card and curves, to the output."""
    shipped = next(run for run in runs if run.seed == facts.shipped)
    with tempfile.TemporaryDirectory() as name:
        extra = Path(name)
        report = json.dumps(_report(settings, material, runs, facts), indent=1) + "\n"
        (extra / _REPORT).write_text(report, encoding="utf-8")
        (extra / _CARD).write_text(model_card(facts), encoding="utf-8")
        (extra / TRAINING_CURVE).write_text(training_curve(shipped.history), encoding="utf-8")
        lengths = {f"seed {one.seed}": one.findings.lengths for one in facts.seeds if one.findings}
        if any(lengths.values()):
            (extra / LENGTH_CURVE).write_text(length_curve(lengths), encoding="utf-8")
        paths = [*sorted(Path(shipped.folder).iterdir()), *sorted(extra.iterdir())]
        storage = Storage(settings.output, settings.storage)
        for path in paths:
            storage.replace(join(settings.output, path.name), path.read_bytes())
    _remove_others(storage, settings.output, {path.name for path in paths})


def _remove_others(storage: Storage, output: str, written: set[str]) -> None:
    if storage.protocol == "file":
        for name in set(_NOT_ALWAYS) - written:
            Path(absolute(join(output, name))).unlink(missing_ok=True)


def _prompt_line() -> str:
    frame = EMBEDDED
    return (
        f"`<s>{frame.prefix}`, blocks `[i] title` newline `text`, “{frame.instruction}”, `{frame.query_label}…`, "
        f"`{frame.suffix}`; answers were trained as `[i] sentence<end>`"
    )


def _training_texts(corpus: Corpus, question_licence: str) -> tuple[TrainingText, ...]:
    texts = [TrainingText(use.family, ", ".join(use.licences), characters=use.characters) for use in corpus.sources]
    if corpus.questions:
        characters = sum(map(len, corpus.paragraphs))
        texts.append(TrainingText("questions to paragraphs", question_licence, characters, len(corpus.questions)))
    return tuple(texts)


def _report(
    settings: TrainEmbeddedSettings, material: Material, runs: Sequence[SeedRun], facts: CardFacts
) -> dict[str, Any]:
    """What was trained, on what, with what; no path of the machine where that was."""
    corpus, passages = material.corpus, material.passages
    findings = facts.shipped_run.findings
    return {
        "parameters": runs[0].parameters,
        "shipped_seed": facts.shipped,
        "seeds": [
            {"seed": run.seed, "stages": [asdict(progress) for progress in run.stages], "curve": _columns(run.history)}
            for run in runs
        ],
        "settings": _settings(settings),
        "data": {
            "files": [{"name": uri.rsplit("/", 1)[-1], "sha256": digest} for uri, digest in corpus.files.items()],
            "sha256": corpus.hash,
            "sources": [asdict(use) for use in corpus.sources],
            "passages": len(passages.passages),
            "passage_tokens": passages.tokens(),
            "questions": sum(len(passage.questions) for passage in passages.passages),
            "lists_sha256": findings.lists_sha256 if findings else None,
        },
        "versions": package_versions(),
    }


def _columns(history: Sequence[Progress]) -> dict[str, list[Any]]:
    """The values of each field every few steps, as programs plot them."""
    return {field.name: [getattr(progress, field.name) for progress in history] for field in fields(Progress)}


def _settings(settings: TrainEmbeddedSettings) -> dict[str, Any]:
    chosen = {name: value for name, value in asdict(settings).items() if name not in _WHERE}
    evaluation = {name: value for name, value in (chosen["evaluation"] or {}).items() if name not in _WHERE}
    return chosen | {"evaluation": evaluation, "stages": [asdict(stage) for stage in settings.stages]}
