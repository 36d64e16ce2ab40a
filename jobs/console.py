"""What a person sees while a run goes on and when it is over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from jobs.logs import JsonLines

if TYPE_CHECKING:
    from pipelines.plan import Plan
    from pipelines.run import RunResult
    from qrcore.training.progress import Progress as TrainingProgress

_LINE_EVERY_S: Final = 10.0
_TRAINING_HEAD: Final = "done  stage                 tokens      time   loss   copy  index  heads  yes/no"


#: Side files that are told of, by what they are called there.
_TOLD: Final = {"heads": "headset.json", "scores": "head_scores.parquet", "report": "report.html"}


def show_line(console: Console, *parts: str | tuple[str, str]) -> None:
    """Print one line of plain texts and (text, style) pairs: brackets and colons in them are no markup."""
    console.print(Text.assemble(*parts), soft_wrap=True)


class ConsoleObserver:
    """Progress on a terminal as a bar, elsewhere as one line every ten seconds, whether a unit ended or not."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tally: Tally | None = None
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._over = threading.Event()

    def __enter__(self) -> ConsoleObserver:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop_bar()

    def stage(self, message: str) -> None:
        """One line for a step of the run."""
        self._stop_bar()
        show_line(self._console, ("·", "dim"), f" {message} …")

    def planned(self, plan: Plan, done: frozenset[str]) -> None:
        """Show what will be done and start counting; ``done``: ids of units that earlier commands finished."""
        todo = [unit for unit in plan.units if unit.unit_id not in done]
        finished = len(plan.units) - len(todo)
        heads = plan.provenance["head_set"]
        prompt = plan.provenance["prompt"]["name"]
        kept, layers = (plan.provenance["model"][key] for key in ("kept_layers", "layers"))
        show_line(
            self._console,
            (plan.run_id, "bold"),
            f"  {plan.rows} rows in {len(plan.units)} units" + (f", {finished} units already done" if finished else ""),
        )
        show_line(
            self._console,
            f"  model {plan.provenance['model']['id']} ({kept} of {layers} layers), {len(heads['heads'])} heads "
            f"({heads['id']}), prompt {prompt}, order {plan.order}, {plan.provenance['dtype']} on "
            f"{plan.provenance['device']}",
        )
        for warning in plan.provenance.get("warnings", ()):
            show_line(self._console, ("warning", "yellow"), f"  {warning}")
        self._stop_bar()
        self._tally = Tally({unit.unit_id: (unit.rows, unit.tokens) for unit in todo})
        if self._console.is_terminal:
            self._start_bar(self._tally)
        elif todo:
            self._over = threading.Event()
            threading.Thread(target=self._lines, args=(self._tally, self._over), daemon=True).start()

    def unit_done(self, footer: dict[str, Any]) -> None:
        """Count one written unit."""
        if self._tally is None:
            return
        self._tally.add(footer)
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=self._tally.rows_done, note=self._tally.note())

    def _lines(self, tally: Tally, over: threading.Event) -> None:
        while not over.wait(_LINE_EVERY_S):
            if isinstance(self._console.file, JsonLines):
                self._console.file.event("progress", **tally.facts())
            else:
                show_line(self._console, f"  {tally.rows_done}/{tally.rows} rows, {tally.note()}")

    def _start_bar(self, tally: Tally) -> None:
        columns = (BarColumn(), TextColumn("{task.completed}/{task.total} rows"), TextColumn("{task.fields[note]}"))
        self._progress = Progress(TextColumn(" "), *columns, TimeElapsedColumn(), console=self._console, transient=True)
        self._task = self._progress.add_task("rows", total=tally.rows, note=tally.note())
        self._progress.start()

    def _stop_bar(self) -> None:
        self._over.set()
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class Tally:
    """What this command has to do and has done. ``units``: rows and estimated tokens by unit id.

    Time to go is reckoned by tokens: rows differ in length, and long ones often come together.
    """

    def __init__(self, units: Mapping[str, tuple[int, int]], clock: Callable[[], float] = time.monotonic) -> None:
        self._units = units
        self._clock = clock
        self._started = clock()
        self._estimated = sum(tokens for _, tokens in units.values())
        self._estimated_done = self._tokens = 0
        self._actors: set[tuple[str, int]] = set()
        self.rows = sum(rows for rows, _ in units.values())
        self.rows_done = self.units_done = self.failed = 0

    def add(self, footer: Mapping[str, Any]) -> None:
        """Count one written unit."""
        self.units_done += 1
        self.rows_done += footer["rows"]
        self.failed += footer["failed"]
        self._tokens += footer["prompt_tokens"]
        self._estimated_done += self._units.get(footer["unit_id"], (0, 0))[1]
        self._actors.add((footer["node"], footer["actor_pid"]))

    def facts(self) -> dict[str, Any]:
        """Everything as numbers, for logs that programs read; ``eta_s`` is null until a unit is done."""
        seconds = max(self._clock() - self._started, 1e-9)
        left = self._estimated - self._estimated_done
        return {
            "units_done": self.units_done,
            "units": len(self._units),
            "rows_done": self.rows_done,
            "rows": self.rows,
            "failed_rows": self.failed,
            "actors": len(self._actors),
            "tokens_per_s": round(self._tokens / seconds),
            "eta_s": round(seconds * left / self._estimated_done) if self._estimated_done else None,
        }

    def note(self) -> str:
        """The same in a few words."""
        facts = self.facts()
        parts = [f"{facts['units_done']}/{facts['units']} units", f"{facts['tokens_per_s']:,} tokens/s"]
        parts += [f"{self.failed} failed"] if self.failed else []
        parts += [f"{facts['actors']} actors"] if facts["actors"] else []
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
        show_line(self._console, ("·", "dim"), f" {message} …")

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


def show_result(console: Console, result: RunResult, qrels: str | None = None) -> None:
    """Where a committed run lies and what is in it; ``qrels``: the judgements that this command was given."""
    manifest = result.manifest
    word = "already committed" if result.already_committed else "committed"
    colour = "yellow" if manifest.failed or manifest.skipped_files else "green"
    show_line(
        console,
        (word, f"bold {colour}"),
        f"  {manifest.rows} rows = {manifest.scored} scored + {manifest.failed} failed, "
        f"{len(manifest.objects)} objects",
    )
    if manifest.skipped_files:
        show_line(console, f"  skipped files: {len(manifest.skipped_files)} (named in the manifest)")
    if result.already_committed and qrels:
        show_line(console, "  the report of the first commit stands: judgements given now were not added to it")
    files = {"run": "", "manifest": "_manifest.json"}
    files |= {label: path for path in manifest.side_files for label, name in _TOLD.items() if path.endswith(f"/{name}")}
    for label, path in files.items():
        show_line(console, f"  {label:9}{result.run_uri}/{path}".rstrip("/"))
