"""``qrbatch demo``: a real collection from this machine's own Python, re-ranked with the embedded model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.config import RerankConfig
from jobs.console import show_line
from jobs.rerank import rerank
from jobs.settings import validate
from qrcore.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.job import Observer, RunResult
    from pipelines.python_docs import BuildCounts

QUESTIONS: Final = "tests/data/python_docs_questions.jsonl"
#: Candidates a question: as many as the embedded model ranks well in one prompt (see its model card).
CANDIDATES: Final = 10
_SHARDS: Final = 4
_SHOWN: Final = 5
_COLUMN_WIDTH: Final = 37  # two of them and the places fill a terminal of 80 columns


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The committed run, what its input holds, how many of its questions each split has, and its report."""

    run: RunResult
    counts: BuildCounts
    splits: dict[str, int]
    report: dict[str, Any]


def demo(output: str, questions: str, split: str | None, observer: Observer) -> DemoResult:
    """Build the collection below ``output``, re-rank it and read the report back.

    Raises errors of :mod:`qrcore.errors`.
    """
    from pipelines.python_docs import QRELS_FILE, SHARDS_FOLDER, build

    if not Path(questions).is_file():
        raise ConfigError(
            f"questions {questions}: expected a file of questions, found none. Run the demo in a checkout of the "
            "repository, or give --questions FILE."
        )
    observer.stage("collecting the documentation of this Python and its BM25 lists")
    collection = Path(output) / "collection"
    counts = build(str(collection), questions, CANDIDATES, _SHARDS, split)
    config = validate(
        RerankConfig,
        {
            "name": "python-docs",
            "input": {"uris": [str(collection / SHARDS_FOLDER)]},
            "output": {"uri": str(Path(output) / "runs")},
            "model": {"id": "embedded"},
            "qrels": str(collection / QRELS_FILE),
            "units": {"max_rows": 16},
        },
    )
    result = rerank(config, observer)
    splits = _split_sizes(questions, str(collection / QRELS_FILE))
    return DemoResult(result, counts, splits, _report(result))


def _split_sizes(questions: str, qrels: str) -> dict[str, int]:
    from pipelines.labels import load_qrels
    from pipelines.python_docs import load_questions
    from pipelines.storage import StorageOptions

    judged = load_qrels(qrels, StorageOptions())
    return dict(sorted(Counter(q.split for q in load_questions(questions) if q.query_id in judged).items()))


def _report(result: RunResult) -> dict[str, Any]:
    path = next(path for path in result.manifest.side_files if path.endswith("report.json"))
    report: dict[str, Any] = json.loads(Path(result.run_uri, path).read_text(encoding="utf-8"))
    return report


def show_demo(console: Console, result: DemoResult) -> None:
    """The quality table and a few questions before and after."""
    counts, quality = result.counts, result.report["quality"]
    splits = ", ".join(f"{size} {split}" for split, size in result.splits.items())
    show_line(console, f"\n{counts.questions} questions ({splits}; none chose the model or its heads) over")
    show_line(
        console,
        f"{counts.documents:,} documentation strings of the standard library, "
        f"{counts.candidates // max(counts.questions, 1)} BM25 candidates each",
    )
    console.print(_quality_table(quality["measures"]))
    for example in result.report["examples"]:
        console.print(_example_table(example))


def _quality_table(measures: Sequence[dict[str, Any]]) -> Table:
    # The longest row fills a terminal of 80 columns.
    table = Table(title=None, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for heading in ("BM25", "re-ranked", "fused"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("re-ranked - BM25 (95 % interval)", no_wrap=True)
    for measure in measures:
        table.add_row(
            measure["name"],
            *(f"{measure[key]:.3f}" for key in ("first_stage", "reranked", "fused")),
            f"{measure['difference']:+.3f} [{measure['low']:+.3f}, {measure['high']:+.3f}]  {_verdict(measure)}",
        )
    return table


def _verdict(measure: dict[str, Any]) -> str:
    if measure["low"] > 0:
        return "higher"
    return "lower" if measure["high"] < 0 else "not distinguishable"


def _example_table(example: dict[str, Any]) -> Table:
    table = Table(
        title=Text(f"\n{example['query']}"), title_justify="left", title_style="bold", box=None, pad_edge=False
    )
    table.add_column("", justify="right", style="dim", min_width=2, no_wrap=True)
    for heading in ("BM25", "re-ranked"):
        table.add_column(heading, no_wrap=True, overflow="ellipsis", width=_COLUMN_WIDTH)
    pairs = zip(example["first_stage"][:_SHOWN], example["reranked"][:_SHOWN], strict=True)
    for place, (before, after) in enumerate(pairs, start=1):
        table.add_row(str(place), _place(before), _place(after))
    return table


def _place(document: dict[str, Any]) -> Text:
    """A document's name, cut where it is too long for its column; the mark of a right one always stands."""
    mark = "  (right)" if document["relevant"] else ""
    name = Text(document["doc_id"], "green" if mark else "")
    name.truncate(_COLUMN_WIDTH - len(mark), overflow="ellipsis")
    return name.append(mark)
