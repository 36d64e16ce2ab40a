"""Long and many contexts through prepare and select: ``python -m tests.benchmarks.long_context [stub embedded many]``.

- ``stub``: a context of a million tokens in 20,000 pieces is prepared, ranked by a stub and selected from, on a real
  local Ray: seconds, and the most memory that each process had to itself. No actor may take 2 GB beyond its model.
- ``embedded``: the same context is scored and selected from by the embedded model in one job.
- ``many``: 10,000 and 100,000 short rows, by the stub: the driver's memory over time, which must grow no more by many
  rows than by fewer. A step counts from what the process has when it begins: the steps before it leave some behind.

Each part is written into ``results/long_context.json``. Wall seconds say little on a machine that is shared.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from jobs import prepare, select
from jobs.config import RerankConfig
from jobs.rerank import pipeline_settings as rerank_settings
from jobs.settings import validate
from pipelines.cluster import ClusterSettings, ray_session
from pipelines.commit import manifest_rows
from pipelines.job import RunResult
from pipelines.metrics import UnitMetrics, unit_metrics
from pipelines.plan import Plan
from pipelines.rerank import RerankJob
from pipelines.rows import Source, row_from_answer, table_from_rows
from pipelines.run import run_job
from pipelines.units import UnitRows
from pipelines.work import UnitWorker
from qrcore.records import RankedDocument, Ranking, ScorerIdentity
from qrcore.shipped import embedded_folder
from qrcore.splitting import rebuild
from tests.benchmarks.machine import write_part
from tests.benchmarks.processes import MIB, Watched, watched
from tests.stubs import Quiet

PIECES: Final = 20_000
#: Words of a piece: about 51 tokens of the embedded model's tokenizer.
PIECE_WORDS: Final = 30
BUDGET_TOKENS: Final = 100_000
ACTOR_LIMIT: Final = 2 * 2**30
#: What the driver may take more for ten times the rows: malloc and Ray's records of tasks fill up within some hundred.
DRIVER_LIMIT: Final = 64 * MIB
FEWER, MORE = 10_000, 100_000

_WORDS: Final = ("river", "town", "bee", "flower", "market", "bridge", "salt", "stone", "lamp", "wool", "cheese", "map")


class StubWorker:
    """Ranks by a hash-like stir of positions."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema

    def answer(self, unit: UnitRows) -> tuple[pa.Table, UnitMetrics]:
        """Every candidate once."""
        rows = []
        for place, row in enumerate(unit.table.select(["query_id", "candidates"]).to_pylist()):
            order = sorted(range(len(row["candidates"])), key=lambda position: position * 7919 % 10007)
            documents = tuple(
                RankedDocument(row["candidates"][position]["doc_id"], rank, 1.0 / rank, position + 1, None)
                for rank, position in enumerate(order, start=1)
            )
            ranking = Ranking(row["query_id"], documents, prompt_tokens=1)
            rows.append(row_from_answer(row["query_id"], ranking, Source(unit.uri, unit.first_row + place)))
        carried = unit.table.select(
            [name for name in unit.table.schema.names if name in ("answers", "date", "kind", "group")]
        )
        return table_from_rows(rows, carried, self._schema), unit_metrics(len(rows), [], 0, time.time())


class StubJob(RerankJob):
    """Re-ranking by the stub, on the rails of the real job."""

    def worker(self, facts: ScorerIdentity, plan: Plan) -> Callable[[], UnitWorker]:
        """See :class:`StubWorker`."""
        return partial(StubWorker, plan.output_schema)


def stub(folder: Path, pieces: int = PIECES, budget_tokens: int = BUDGET_TOKENS) -> dict[str, Any]:
    """One long context, ranked by the stub: what each step took, and whether every actor stayed below the limit."""
    steps: dict[str, Watched] = {}
    prepared = _long_context(folder, pieces, steps)
    with watched() as steps["rank"]:
        ranked = _ranked(prepared.run_uri, folder)
    with watched() as steps["select"]:
        selected = _selected(ranked.run_uri, folder / "bundles", {"policy": {"budget_tokens": budget_tokens}})
    return _told(selected, pieces, steps)


def embedded(folder: Path, pieces: int = PIECES, budget_tokens: int = BUDGET_TOKENS) -> dict[str, Any]:
    """One long context, scored by the embedded model in the job that selects from it."""
    steps: dict[str, Watched] = {}
    prepared = _long_context(folder, pieces, steps)
    with watched() as steps["score and select"]:
        selected = _selected(prepared.run_uri, folder / "bundles", {"policy": {"budget_tokens": budget_tokens}})
    weights = (embedded_folder() / "model.safetensors").stat().st_size
    return {"weights_mib": round(weights / MIB, 1), **_told(selected, pieces, steps)}


def _long_context(folder: Path, pieces: int, steps: dict[str, Watched]) -> RunResult:
    text = _text(pieces)
    path = folder / "long.jsonl"
    path.write_text(json.dumps({"document_id": "a", "text": text, "query_id": "q", "query": "Which river?"}) + "\n")
    with watched() as steps["prepare"]:
        prepared = _prepared("documents", path, folder, {})
    (row,) = manifest_rows(prepared.run_uri)
    candidates = row["candidates"]
    if len(candidates) != pieces or rebuild((piece["start"], piece["text"]) for piece in candidates) != text:
        raise RuntimeError(f"expected {pieces} pieces that make the text again")
    return prepared


def _told(selected: RunResult, pieces: int, steps: dict[str, Watched]) -> dict[str, Any]:
    (bundle,) = manifest_rows(selected.run_uri)
    largest = max(step.largest_worker for step in steps.values())
    return {
        "pieces": pieces,
        "tokens": bundle["source_tokens"],
        "kept_tokens": bundle["context_tokens"],
        "prompts": bundle["windows"],
        "last_prompt_pieces": bundle["final_items"],
        "steps": {name: step.record() for name, step in steps.items()},
        "largest_worker_mib": round(largest / MIB),
        "below_limit": largest < ACTOR_LIMIT,
    }


def _text(pieces: int) -> str:
    draw = random.Random(1)
    return "\n\n".join(" ".join(draw.choices(_WORDS, k=PIECE_WORDS)) + "." for _ in range(pieces))


def many(folder: Path, fewer: int = FEWER, more: int = MORE) -> dict[str, Any]:
    """Short rows, some and ten times as many: what each step took, and by how much more the driver grew."""
    _through(folder / "first", fewer // 5)  # the first run of a process loads libraries
    some, all_of_them = (_through(folder / str(count), count) for count in (fewer, more))
    growth = {name: all_of_them[name].driver_growth - some[name].driver_growth for name in some}
    return {
        "rows": {"some": fewer, "all": more},
        "some": {name: step.record() for name, step in some.items()},
        "all": {name: step.record() for name, step in all_of_them.items()},
        "driver_more_mib": {name: round(size / MIB) for name, size in growth.items()},
        "flat": max(growth.values()) < DRIVER_LIMIT,
    }


def _through(folder: Path, count: int) -> dict[str, Watched]:
    """``count`` rows with three candidates each, prepared, ranked and selected from."""
    folder.mkdir()
    path, draw = folder / "short.jsonl", random.Random(0)
    with path.open("w") as lines:
        for number in range(count):
            candidates = [{"doc_id": f"d{n}", "text": " ".join(draw.choices(_WORDS, k=10))} for n in range(3)]
            lines.write(json.dumps({"query_id": f"q{number}", "query": "which?", "candidates": candidates}) + "\n")
    steps: dict[str, Watched] = {}
    with watched() as steps["prepare"]:
        prepared = _prepared("shards", path, folder, {"shards": {"bytes": 4 * 2**20}})
    with watched() as steps["rank by the stub"]:
        ranked = _ranked(prepared.run_uri, folder)
    with watched() as steps["select"]:
        selected = _selected(ranked.run_uri, folder / "bundles", {"policy": {"name": "top_k", "top": 2}})
    if not prepared.manifest.scored == ranked.manifest.scored == selected.manifest.scored == count:
        raise RuntimeError(f"expected {count} rows from every step")
    return steps


def _prepared(recipe: str, path: Path, folder: Path, changes: dict[str, Any]) -> RunResult:
    given = {"recipe": recipe, "input": {"uris": [str(path)]}, "output": {"uri": str(folder / "prepared")}, **changes}
    return prepare.prepare(validate(prepare.PrepareConfig, given), Quiet())


def _ranked(uri: str, folder: Path) -> RunResult:
    given = {"input": {"uris": [uri]}, "output": {"uri": str(folder / "ranked")}, "actors": {"count": 1}}
    settings = rerank_settings(validate(RerankConfig, given))
    on_cpu = replace(settings, scorer=replace(settings.scorer, device="cpu"))
    return run_job(StubJob(on_cpu, None), settings.run, Quiet())


def _selected(uri: str, output: Path, changes: dict[str, Any]) -> RunResult:
    given = {"input": {"uri": uri}, "output": {"uri": str(output)}, "actors": {"count": 1}, **changes}
    return select.select(validate(select.SelectConfig, given), Quiet())


PARTS: Final[dict[str, Callable[[Path], dict[str, Any]]]] = {"stub": stub, "embedded": embedded, "many": many}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], default=[])
    for part in parser.parse_args().parts or PARTS:
        with tempfile.TemporaryDirectory() as folder, ray_session(ClusterSettings()):
            write_part("long_context", part, PARTS[part](Path(folder)))


if __name__ == "__main__":
    main()
