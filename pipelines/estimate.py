"""A run before it is run: units, tokens, hours and memory, without loading weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pipelines.cluster import ray_session
from pipelines.commit import latest, load_manifest
from pipelines.inputs import list_inputs
from pipelines.job import RunSettings
from pipelines.plan import SkippedFile, Unit, cut_units, usable_surveys
from pipelines.scorers import ScorerSettings
from pipelines.side_files import read_side_file
from pipelines.storage import Storage, absolute, join
from pipelines.surveys import survey_files

if TYPE_CHECKING:
    from qrcore.memory import PassBytes, PassMemory
    from qrcore.models import ModelSource

#: Memory of a worker beside its model, in units of ``units.max_bytes``; measured in tests/benchmarks (durable runs).
WORKER_BYTES_PER_UNIT_BYTE: Final = 8.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """``tokens`` are estimated from bytes; ``tokens_per_s`` is what the last committed run of this name reached, or
    what was given; ``hours`` follows from it. ``pass_tokens``: of the largest forward pass, the longest row or the
    short ones that share one; ``memory``: what the model predicts for it; ``text_bytes``: of the rows of a unit.
    ``prompt_tokens``: of a prompt at most, as model, windows and memory allow; ``too_long_rows``: estimated to be
    longer where they are not cut into windows."""

    files: int
    skipped_files: tuple[SkippedFile, ...]
    rows: int
    units: tuple[Unit, ...]
    tokens: int
    largest_row_tokens: int
    tokens_per_s: float | None
    hours: float | None
    depth: int
    layers: int
    pass_tokens: int
    memory: PassBytes
    text_bytes: int
    prompt_tokens: int
    too_long_rows: int

    @property
    def actor_bytes(self) -> int:
        """What one actor takes at most, all together."""
        return self.memory.total + self.text_bytes


def estimate(
    settings: RunSettings,
    scorer: ScorerSettings,
    tokens_per_s: float | None = None,
    window_tokens: int | None = None,
    *,
    in_windows: bool = False,
) -> Estimate:
    """What a re-ranking run would do and take; reads the input once. ``window_tokens``: of a prompt at most, None: what
    the model is made for; ``in_windows``: whether longer lists are cut into some. Raises errors of
    :mod:`qrcore.errors`."""
    files = list_inputs(settings.inputs, settings.storage)
    with ray_session(settings.cluster):
        surveys = survey_files(files, settings.storage)
    usable, skipped = usable_surveys(surveys, skip_bad_files=settings.skip_bad_files, carry=settings.carry)
    units = cut_units(usable, "", settings.unit_bytes, settings.unit_rows, settings.row_bytes)
    tokens = sum(unit.tokens for unit in units)
    largest = max((int(survey.row_tokens.max(initial=0)) for survey in usable), default=0)
    rate = tokens_per_s or _last_rate(settings)
    depth, source, memory = _model(scorer)
    prompt_tokens = min(source.max_tokens, window_tokens or source.max_tokens)
    shared_tokens = min(tokens, scorer.engine.pack_tokens)
    if scorer.engine.memory_bytes is not None:
        fitting = memory.largest_pass(scorer.engine.memory_bytes)
        prompt_tokens, shared_tokens = min(prompt_tokens, fitting), min(shared_tokens, fitting)
    pass_tokens = max(min(largest, prompt_tokens), shared_tokens)
    too_long = sum(int((survey.row_tokens > prompt_tokens).sum()) for survey in usable)
    largest_unit = max((unit.bytes for unit in units), default=0)
    return Estimate(
        files=len(files),
        skipped_files=skipped,
        rows=sum(unit.rows for unit in units),
        units=units,
        tokens=tokens,
        largest_row_tokens=largest,
        tokens_per_s=rate,
        hours=tokens / rate / 3600 if rate else None,
        depth=depth,
        layers=source.shape.layers,
        pass_tokens=pass_tokens,
        memory=memory.predict(pass_tokens),
        prompt_tokens=prompt_tokens,
        too_long_rows=0 if in_windows else too_long,
        text_bytes=int(WORKER_BYTES_PER_UNIT_BYTE * min(largest_unit, max(settings.unit_bytes, settings.row_bytes))),
    )


def _last_rate(settings: RunSettings) -> float | None:
    storage, output = Storage(settings.output, settings.storage), absolute(settings.output)
    pointer = latest(storage, output, settings.name)
    if pointer is None:
        return None
    run_uri = join(output, pointer["run_id"])
    manifest = load_manifest(storage, run_uri)
    if manifest is None or not any(path.endswith("/report.json") for path in manifest.side_files):
        return None
    report: dict[str, Any] = read_side_file(run_uri, manifest.side_files, "report.json", settings.storage)
    rate = report.get("throughput", {}).get("tokens_per_second")
    return float(rate) if rate else None


def _model(scorer: ScorerSettings) -> tuple[int, ModelSource, PassMemory]:
    """Layers that are run, the model as its configuration tells it, and what weights and passes take on the device that
    is asked for."""
    import torch  # which the other commands do not need

    from qrcore.heads import resolve_heads
    from qrcore.memory import PassMemory
    from qrcore.models import open_model

    source = open_model(scorer.model, scorer.revision)
    heads = resolve_heads(scorer.heads, source.head_set, source.shape)
    dtype = torch.float32 if _on_cpu(scorer) else torch.bfloat16
    chunk_tokens, on_cpu = scorer.engine.chunk_tokens, _on_cpu(scorer)
    return heads.depth, source, PassMemory.of(source.config, heads.head_list, dtype, chunk_tokens, on_cpu=on_cpu)


def _on_cpu(scorer: ScorerSettings) -> bool:
    return scorer.dtype == "float32" or (scorer.dtype == "auto" and scorer.device == "cpu")
