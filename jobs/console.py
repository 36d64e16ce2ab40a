"""What a person sees while a run goes on and when it is over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from jobs.logs import JsonLines

if TYPE_CHECKING:
    from pipelines.job import Planned, RunResult
    from qrcore.training.progress import Progress as TrainingProgress

_LINE_EVERY_S: Final = 10.0
_MIB: Final = 2**20
_GIB: Final = 2**30
#: Bytes below which a predicted peak is not worth a line: what Python itself takes is more than the passes.
_TOLD_MEMORY: Final = 500 * _MIB
_TRAINING_HEAD: Final = "done  stage                 tokens      time   loss   copy  index  heads  yes/no"


#: Side files that are told of, by what they are called there.
_TOLD: Final = {
    "heads": "headset.json",
    "scores": "head_scores.parquet",
    "report": "report.html",
    "chat": "chat.jsonl",
    "tuning": "tuning.parquet",
}


def show_line(console: Console, *parts: str | tuple[str, str]) -> None:
    """Print one line of plain texts and (text, style) pairs: brackets and colons in them are no markup."""
    console.print(Text.assemble(*parts), soft_wrap=True)


def size_text(size: int) -> str:
    """Bytes as MiB or GiB."""
    return f"{size / _GIB:.2f} GiB" if size >= _GIB else f"{size / _MIB:.1f} MiB"


def show_stage(console: Console, message: str) -> None:
    """One line for a step that begins."""
    show_line(console, ("·", "dim"), f" {message} …")


class ConsoleObserver:
    """Progress on a terminal as a bar, elsewhere as one line every ten seconds, whether a unit ended or not."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tally: Tally | None = None
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._over = threading.Event()
        self._over.set()

    def __enter__(self) -> ConsoleObserver:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop()

    def stage(self, message: str) -> None:
        """One line for a step of the run."""
        self._stop()
        show_stage(self._console, message)

    def planned(self, plan: Planned, done: frozenset[str]) -> None:
        """Show what will be done and start counting; ``done``: ids of units that earlier commands finished."""
        todo = [unit for unit in plan.units if unit.unit_id not in done]
        finished = len(plan.units) - len(todo)
        show_line(
            self._console,
            (plan.run_id, "bold"),
            f"  {plan.rows:,} rows in {len(plan.units):,} units"
            + (f", {finished:,} units already done" if finished else ""),
        )
        show_line(self._console, f"  {_told(plan)}")
        for warning in plan.provenance.get("warnings", ()):
            show_line(self._console, ("warning", "yellow"), f"  {warning}")
        self._stop()
        self._tally = Tally({unit.unit_id: (unit.rows, unit.tokens) for unit in todo})
        self._go_on(self._tally)

    def unit_done(self, footer: dict[str, Any]) -> None:
        """Count one written unit."""
        if self._tally is None:
            return
        self._tally.add(footer)
        self._go_on(self._tally)
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=self._tally.rows_done, note=self._tally.note())
        if self._tally.is_done:
            self._end(self._tally)

    def _end(self, tally: Tally) -> None:
        self._stop()
        if tally.memory is not None and tally.memory[0] >= _TOLD_MEMORY:
            predicted, measured = map(size_text, tally.memory)
            show_line(self._console, f"  memory of the largest actor: {predicted} predicted, {measured} measured")

    def _go_on(self, tally: Tally) -> None:
        """Show progress if it is not shown: a stage that came between has ended it."""
        if not self._over.is_set() or tally.is_done:
            return
        self._over = threading.Event()
        if self._console.is_terminal:
            self._start_bar(tally)
        else:
            threading.Thread(target=self._lines, args=(tally, self._over), daemon=True).start()

    def _lines(self, tally: Tally, over: threading.Event) -> None:
        while not over.wait(_LINE_EVERY_S):
            if isinstance(self._console.file, JsonLines):
                self._console.file.event("progress", **tally.facts())
            else:
                show_line(self._console, f"  {tally.rows_done:,}/{tally.rows:,} rows, {tally.note()}")

    def _start_bar(self, tally: Tally) -> None:
        columns = (
            TextColumn(" "),
            BarColumn(),
            TextColumn("{task.completed:,}/{task.total:,} rows"),
            TimeElapsedColumn(),
        )
        self._progress = _NotedProgress(*columns, console=self._console, transient=True)
        self._task = self._progress.add_task("rows", total=tally.rows, note=tally.note())
        self._progress.start()

    def _stop(self) -> None:
        self._over.set()
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class _NotedProgress(Progress):
    """A bar with its task's field ``note`` on a line of its own: beside the bar it would be cut at 80 columns."""

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bar, then the note."""
        yield from super().get_renderables()
        for task in self.tasks:
            yield Text(f"  {task.fields['note']}", style="dim")


def _told(plan: Planned) -> str:
    """What a run works with, in one line."""
    facts = plan.provenance
    if "told" in facts:
        return str(facts["told"])
    model, heads = facts["model"], facts["head_set"]
    return (
        f"model {model['id']} ({model['kept_layers']} of {model['layers']} layers), {len(heads['heads'])} heads "
        f"({heads['id']}), prompt {facts['prompt']['name']}, order {plan.order}, {facts['dtype']} on {facts['device']}"
    )


class Tally:
    """What this command has to do and has done. ``units``: rows and estimated tokens by unit id.

    Time to go is reckoned by tokens: rows differ in length, and long ones often come together. Where no unit has any
    (no model reads them), it is reckoned by rows.
    """

    def __init__(self, units: Mapping[str, tuple[int, int]], clock: Callable[[], float] = time.monotonic) -> None:
        by_tokens = any(tokens for _, tokens in units.values())
        self._work = {unit_id: tokens if by_tokens else rows for unit_id, (rows, tokens) in units.items()}
        self._clock = clock
        self._started = clock()
        self._work_done = self._tokens = 0
        self._actors: dict[tuple[str, int], bool] = {}
        self._memory: dict[tuple[str, int], tuple[int, int]] = {}
        self.rows = sum(rows for rows, _ in units.values())
        self.rows_done = self.units_done = self.failed = 0

    def add(self, footer: Mapping[str, Any]) -> None:
        """Count one written unit."""
        self.units_done += 1
        self.rows_done += footer["rows"]
        self.failed += footer["failed"]
        self._tokens += footer["prompt_tokens"]
        self._work_done += self._work.get(footer["unit_id"], 0)
        if "actor_pid" in footer:
            actor = (footer["node"], footer["actor_pid"])
            self._actors[actor] = footer.get("on_gpu", False)
            self._add_memory(actor, footer.get("predicted_bytes", 0), footer.get("model_bytes", 0))

    def _add_memory(self, actor: tuple[str, int], predicted: int, measured: int) -> None:
        before = self._memory.get(actor, (0, 0))
        self._memory[actor] = (max(before[0], predicted), max(before[1], measured))

    @property
    def memory(self) -> tuple[int, int] | None:
        """Bytes predicted and measured of the actor that takes most; None where no pass was predicted."""
        told = [(measured, predicted) for predicted, measured in self._memory.values() if predicted]
        return max(told)[::-1] if told else None

    @property
    def is_done(self) -> bool:
        """Whether nothing is left."""
        return self.units_done >= len(self._work)

    def facts(self) -> dict[str, Any]:
        """Everything as numbers, for logs that programs read; ``eta_s`` is null until a unit is done."""
        seconds = max(self._clock() - self._started, 1e-9)
        left = sum(self._work.values()) - self._work_done
        return {
            "units_done": self.units_done,
            "units": len(self._work),
            "rows_done": self.rows_done,
            "rows": self.rows,
            "failed_rows": self.failed,
            "gpu_actors": sum(self._actors.values()),
            "cpu_actors": len(self._actors) - sum(self._actors.values()),
            "tokens_per_s": round(self._tokens / seconds),
            "rows_per_s": round(self.rows_done / seconds, 1),
            "eta_s": round(seconds * left / self._work_done) if self._work_done else None,
            "predicted_bytes": self.memory[0] if self.memory else None,
            "measured_bytes": self.memory[1] if self.memory else None,
        }

    def note(self) -> str:
        """The same in a few words."""
        facts = self.facts()
        speed = f"{facts['tokens_per_s']:,} tokens/s" if self._tokens else f"{facts['rows_per_s']:,} rows/s"
        parts = [f"{facts['units_done']:,}/{facts['units']:,} units"] + ([speed] if self.units_done else [])
        parts += [f"{self.failed:,} failed"] if self.failed else []
        kinds = {kind: facts[f"{kind.lower()}_actors"] for kind in ("GPU", "CPU")}
        actors = " + ".join(f"{number} {kind}" for kind, number in kinds.items() if number)
        parts += [f"{actors} actor{'s' if sum(kinds.values()) > 1 else ''}"] if actors else []
        parts += [f"{_minutes(facts['eta_s'])} to go"] if facts["eta_s"] is not None else []
        return ", ".join(parts)


def _minutes(seconds: int) -> str:
    hours, rest = divmod(seconds, 3600)
    return f"{hours}h {rest // 60:02}m" if hours else f"{rest // 60}m {rest % 60:02}s"


class TrainingLines:
    """One line for what begins; while a model is trained, one every ten seconds and at the beginning of each stage."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: tuple[int, str] | None = None
        self._last_line = time.monotonic()

    def phase(self, message: str) -> None:
        """One line for a step of the run."""
        show_stage(self._console, message)

    def progress(self, seed: int, progress: TrainingProgress, share: float) -> None:
        """Show where the training of one seed's model stands, if it is time; ``share``: how much of it is done."""
        due = time.monotonic() - self._last_line >= _LINE_EVERY_S
        if (seed, progress.stage) == self._shown and not due and share < 1:
            return
        if self._shown is None or self._shown[0] != seed:
            show_line(self._console, (_TRAINING_HEAD, "dim"))
        self._shown, self._last_line = (seed, progress.stage), time.monotonic()
        show_line(self._console, _training_line(progress, share))


def _training_line(progress: TrainingProgress, share: float) -> str:
    # Rounded down: done is what is done.
    done, tokens = f"{int(100 * share)}%", f"{progress.tokens / 1e6:.2f}M"
    minutes, seconds = divmod(int(progress.seconds), 60)
    spent = f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
    accuracies = (progress.copy_accuracy, progress.index_accuracy, progress.head_accuracy, progress.verdict_accuracy)
    # Exactly 0 stands for nothing of the kind so far.
    copy, index, heads, verdict = (f"{value:.3f}" if value else "–" for value in accuracies)
    return (
        f"{done:>4}  {progress.stage:19}  {tokens:>7}  {spent:>8}  {progress.loss:5.2f}  "
        f"{copy:>5}  {index:>5}  {heads:>5}  {verdict:>6}"
    )


def show_result(console: Console, result: RunResult, qrels: str | None = None, done: str = "scored") -> None:
    """Where a committed run lies and what is in it; ``qrels``: the judgements that this command was given; ``done``:
    what became of the rows."""
    manifest = result.manifest
    word = "already committed" if result.already_committed else "committed"
    colour = "yellow" if manifest.failed or manifest.skipped_files else "green"
    show_line(
        console,
        (word, f"bold {colour}"),
        f"  {manifest.rows:,} rows = {manifest.scored:,} {done} + {manifest.failed:,} failed, "
        f"{len(manifest.objects):,} objects",
    )
    if manifest.skipped_files:
        show_line(console, f"  skipped files: {len(manifest.skipped_files)} (named in the manifest)")
    for warning in manifest.warnings:
        show_line(console, ("warning", "yellow"), f"  {warning}")
    if result.already_committed and qrels:
        show_line(console, "  the report of the first commit stands: judgements given now were not added to it")
    files = {"run": "", "manifest": "_manifest.json"}
    files |= {label: path for path in manifest.side_files for label, name in _TOLD.items() if path.endswith(f"/{name}")}
    for label, path in files.items():
        show_line(console, f"  {label:9}{result.run_uri}/{path}".rstrip("/"))
