"""What is kept of long contexts: ``python -m tests.benchmarks.context_study [--data FOLDER]`` (with ``make study``).

Six ways to order the pieces of a context: as they stand, from the end, by BM25 inside the context, by all heads of the
model, by its retrieval heads, and by reciprocal-rank fusion of BM25 and the latter (k = 60). The heads read contexts as
``qrbatch select`` does by itself: in windows whose best meet in one last prompt, long documents as pieces. Measured are
recall at 5 and 10, and the share of the gold pieces that a budget of a quarter or half of the context's tokens keeps,
on queries that no choice was made on. Results: ``context_study.json`` and ``context_study.md`` in ``--results``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch

from jobs.rerank import context_settings
from jobs.select import LongContextsConfig
from pipelines.evaluation.tests_of_difference import mean_interval
from pipelines.measures import paired_bootstrap
from pipelines.rows import request_from_row
from pipelines.splits import Part, part_of
from qrcore import Ranking, RankRequest, load_scorer
from qrcore.contexts import ContextRanker
from qrcore.counting import TextTokenizer
from qrcore.matching import query_digest
from tests.benchmarks import machine
from tests.benchmarks.context_orders import (
    ALL,
    BM25,
    FUSED,
    FUSION_K,
    HEADS,
    MEASURES,
    WAYS,
    Orders,
    fused,
    measure,
    piece_tokens,
    plain_orders,
)
from tests.benchmarks.embedded_lists import COLLECTIONS, JudgedRows, read_collection

#: Queries of each collection at most, the same ones always: of long contexts fewer, so that a study takes minutes.
QUERIES: Final = {
    "clipper_chapters": 24,
    "locomo_sessions": 48,
    "locomo_turns": 48,
    "xquad_long": 30,
    "policyqa": 100,
    "hotpotqa": 120,
    "2wikimultihopqa": 100,
}
PAIRS: Final = ((HEADS, BM25), (FUSED, BM25), (HEADS, ALL))
_SEED: Final = 0
_ROUNDS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Sample:
    """The queries of one collection that are studied; ``held_out``: how many choices may have seen and are left out."""

    name: str
    rows: Sequence[dict[str, Any]]
    qrels: Mapping[str, Mapping[str, int]]
    held_out: int


@dataclass(frozen=True, slots=True)
class Reading:
    """How one set of heads orders the pieces of each query, best first, and what it took; ``failed``: codes of errors
    by query, whose order is empty."""

    orders: Orders
    windows: Sequence[int]
    prompt_tokens: int
    failed: Mapping[str, str]
    seconds: float


def sample(
    name: str, collection: JudgedRows, most: int, seen: frozenset[str] = frozenset(), part: Part = "test"
) -> Sample:
    """Queries of one part of a collection, ``most`` of them by a hash of their id; ``seen``: digests of queries that
    the heads were found on."""
    kept = [
        row
        for row in collection.lists
        if part_of(row["query_id"]) == part and query_digest(row["query_id"], row["query"]) not in seen
    ]
    chosen = sorted(kept, key=lambda row: hashlib.sha256(f"{row['query_id']} context study".encode()).digest())[:most]
    qrels = {row["query_id"]: collection.qrels[row["query_id"]] for row in chosen}
    return Sample(name, chosen, qrels, len(collection.lists) - len(kept))


def read(model: str, heads: str | None, rows: Sequence[dict[str, Any]]) -> Reading:
    """Rank the rows by these heads of the model; None: those that ship with it."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    scorer = load_scorer(model, heads=heads, order="as_given", device="cpu")
    ranker = ContextRanker(scorer, context_settings(LongContextsConfig()))
    asked = [_request(row) for row in rows]
    answers = list(ranker.rank_many(asked))
    orders: Orders = {str(one.query_id): [] for one in asked}
    ranked = [one for one in answers if isinstance(one, Ranking)]
    orders |= {str(one.query_id): [document.doc_id for document in one.documents] for one in ranked}
    failed = {str(one.query_id): one.code for one in answers if not isinstance(one, Ranking)}
    tokens = sum(one.prompt_tokens for one in ranked)
    return Reading(orders, [one.windows for one in ranked], tokens, failed, time.perf_counter() - started)


def _request(row: dict[str, Any]) -> RankRequest:
    request = request_from_row(row)
    if not isinstance(request, RankRequest):
        raise request
    return request


def report(drawn: Sample, readings: Mapping[str, Reading], tokenizer: TextTokenizer) -> dict[str, Any]:
    """All numbers of one collection as plain values."""
    orders = plain_orders(drawn.rows) | {way: one.orders for way, one in readings.items()}
    orders[FUSED] = fused(drawn.rows, orders[HEADS])
    tokens = piece_tokens(drawn.rows, tokenizer)
    values = {way: measure(drawn.qrels, orders[way], tokens) for way in WAYS}
    return {
        "queries": len(drawn.rows),
        "held_out": drawn.held_out,
        "pieces": median(len(row["candidates"]) for row in drawn.rows),
        "tokens": median(sum(one.values()) for one in tokens.values()),
        "readings": {
            way: {
                "windows": median(one.windows) if one.windows else None,
                "prompt_tokens": one.prompt_tokens,
                "failed": dict(one.failed),
                "seconds": round(one.seconds, 1),
            }
            for way, one in readings.items()
        },
        "ways": {
            way: {name: asdict(mean_interval(found[name], _SEED, _ROUNDS)) for name in MEASURES}
            for way, found in values.items()
        },
        "differences": {
            f"{one} − {other}": {
                name: asdict(paired_bootstrap(values[one][name], values[other][name], _SEED, _ROUNDS))
                for name in MEASURES
            }
            for one, other in PAIRS
        },
    }


def table(results: Mapping[str, Any]) -> str:
    """The study as Markdown: one table a measure."""
    return "\n".join(line for name in MEASURES for line in _table(name, results["collections"]))


def _table(name: str, collections: Mapping[str, Any]) -> Iterator[str]:
    pairs = [f"{one} − {other}" for one, other in PAIRS]
    yield from (f"### {name}", "")
    yield _row(["collection", "n", "pieces", "tokens", "prompts", *WAYS, *pairs])
    yield _row(["---", *["--:"] * (4 + len(WAYS) + len(pairs))])
    for collection, found in collections.items():
        sizes = (found["queries"], found["pieces"], found["tokens"], found["readings"][HEADS]["windows"])
        ways = [f"{found['ways'][way][name]['mean']:.3f}" for way in WAYS]
        yield _row([collection, *map(_whole, sizes), *ways, *(_sure(found["differences"][one][name]) for one in pairs)])
    yield ""


def _whole(number: float | None) -> str:
    return "–" if number is None else f"{number:,.0f}"


def _sure(one: Mapping[str, float]) -> str:
    return f"{one['mean']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def collections_in(data: Path) -> list[str]:
    """Those of :data:`QUERIES` that are there; says which are not."""
    there = [name for name in QUERIES if (data / name / "candidates.parquet").is_file()]
    for name in (one for one in QUERIES if one not in there):
        print(f"{name}: not in {data}, left out", flush=True)
    if not there:
        raise SystemExit(f"expected the collections in {data}; they are not part of the repository (--data FOLDER)")
    return there


def run(data: Path, model: str, part: Part = "test", most: int | None = None, processes: int = 2) -> dict[str, Any]:
    """Read every collection that is there with both sets of heads, ``processes`` at a time."""
    there = collections_in(data)
    facts = load_scorer(model, device="cpu").identity
    tokenizer = TextTokenizer.load(model)
    limits = {name: min(QUERIES[name], most or QUERIES[name]) for name in there}
    seen = facts.detection_queries
    drawn = {name: sample(name, read_collection(name, data), limits[name], seen, part) for name in there}
    spawned = multiprocessing.get_context("spawn")  # threads of torch do not survive a fork
    with ProcessPoolExecutor(processes, mp_context=spawned) as pool:
        futures = {
            (name, way): pool.submit(read, model, heads, one.rows)
            for name, one in drawn.items()
            for way, heads in ((ALL, "all"), (HEADS, None))
        }
        collections = {}
        for name, one in drawn.items():
            readings = {way: futures[name, way].result() for way in (ALL, HEADS)}
            collections[name] = report(one, readings, tokenizer)
            print(f"{name}: {len(one.rows)} queries", flush=True)
    return {
        "model": model,
        "part": part,
        "weights_sha256": facts.weights_sha256,
        "heads": list(facts.heads),
        "contexts": asdict(
            context_settings(LongContextsConfig()).within(facts.max_tokens, facts.sight, facts.largest_pass)
        ),
        "fusion_k": FUSION_K,
        "absent": [name for name in QUERIES if name not in there],
        "collections": collections,
    }


def _file_name(model: str, part: Part) -> str:
    """Of the shipped model's test queries ``context_study``, of others with what they are."""
    others = [] if model == "embedded" else [Path(model).name.replace("-", "_")]
    return "_".join(["context_study", *others, *([] if part == "test" else [part])])


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=COLLECTIONS, help="folder of the collections")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--part", choices=("dev", "test"), default="test", help="dev: to try things out")
    parser.add_argument("--most", type=int, help="queries of a collection at most, for a quick trial")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--results", type=Path, default=machine.RESULTS)
    given = parser.parse_args(arguments)
    started = time.monotonic()
    results = run(given.data, given.model, given.part, given.most, given.processes) | machine.where()
    results["minutes"] = round((time.monotonic() - started) / 60, 1)
    name = _file_name(given.model, given.part)
    (given.results / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (given.results / f"{name}.md").write_text(table(results), encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
