"""What a person sees while a run goes on and when it is over."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

if TYPE_CHECKING:
    from pipelines.run import Planned, RunResult
    from qrcore.training.progress import Progress as TrainingProgress

_LINE_EVERY_S: Final = 10.0
_TRAINING_HEAD: Final = "done  stage                 tokens      time   loss   copy  index  heads  yes/no"


#: Side files that are told of, by what they are called there.
_TOLD: Final = {"heads": "headset.json", "scores": "head_scores.parquet", "report": "report.html", "chat": "chat.jsonl"}


def show_line(console: Console, *parts: str | tuple[str, str]) -> None:
    """Print one line of plain texts and (text, style) pairs: brackets and colons in them are no markup."""
    console.print(Text.assemble(*parts), soft_wrap=True)


def show_stage(console: Console, message: str) -> None:
    """One line for a step that begins."""
    show_line(console, ("·", "dim"), f" {message} …")


class ConsoleObserver:
    """Progress on a terminal as a bar, elsewhere as one line every ten seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows = self._rows_done = self._failed = self._tokens = 0
        self._started = self._last_line = time.monotonic()
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> ConsoleObserver:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop_bar()

    def stage(self, message: str) -> None:
        """One line for a step of the run."""
        self._stop_bar()
        show_stage(self._console, message)

    def planned(self, plan: Planned, done: frozenset[str]) -> None:
        """Show what will be done and start counting; ``done``: ids of units that earlier commands finished."""
        todo = [unit for unit in plan.units if unit.unit_id not in done]
        finished = len(plan.units) - len(todo)
        show_line(
            self._console,
            (plan.run_id, "bold"),
            f"  {plan.rows} rows in {len(plan.units)} units" + (f", {finished} units already done" if finished else ""),
        )
        show_line(self._console, f"  {_told(plan)}")
        for warning in plan.provenance.get("warnings", ()):
            show_line(self._console, ("warning", "yellow"), f"  {warning}")
        self._rows = sum(unit.rows for unit in todo)
        self._started = self._last_line = time.monotonic()
        if self._console.is_terminal:
            self._start_bar()

    def unit_done(self, footer: dict[str, Any]) -> None:
        """Count one written unit."""
        self._rows_done += footer["rows"]
        self._failed += footer["failed"]
        self._tokens += footer["prompt_tokens"]
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=self._rows_done, note=self._note())
        elif time.monotonic() - self._last_line >= _LINE_EVERY_S:
            self._last_line = time.monotonic()
            show_line(self._console, f"  {self._rows_done}/{self._rows} rows, {self._note()}")

    def _note(self) -> str:
        seconds = max(time.monotonic() - self._started, 1e-9)
        failed = f", {self._failed} failed" if self._failed else ""
        speed = (
            f"{self._tokens / seconds:,.0f} tokens/s" if self._tokens else f"{self._rows_done / seconds:,.0f} rows/s"
        )
        return f"{speed}{failed}"

    def _start_bar(self) -> None:
        columns = (BarColumn(), TextColumn("{task.completed}/{task.total} rows"), TextColumn("{task.fields[note]}"))
        self._progress = Progress(TextColumn(" "), *columns, TimeElapsedColumn(), console=self._console, transient=True)
        self._task = self._progress.add_task("rows", total=self._rows, note="")
        self._progress.start()

    def _stop_bar(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


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
        f"  {manifest.rows} rows = {manifest.scored} {done} + {manifest.failed} failed, "
        f"{len(manifest.objects)} objects",
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
