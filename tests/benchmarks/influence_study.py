"""What masked heads do to documents that copy from themselves: ``python -m tests.benchmarks.influence_study``.

Pairs of documents from plain text: both say the same first half; the plain one goes on with other text, the copied one
says its first half again. Influence as ``qrbatch influence`` scores it, for the model's own heads and for control sets
of as many heads outside the set, from its first layer on. The result is the difference of means, copied minus plain,
with its interval over pairs and its place among the control sets; AUC stands beside it, and many masks reach a high
one. Writes ``influence_study.json`` and ``influence_study.md`` to ``--results``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq
import torch

from pipelines.influence.rows import influence_row
from pipelines.influence.separation import pair_rows, separation
from pipelines.rows import Source
from qrcore.counting import TextTokenizer
from qrcore.heads import resolve_heads, unique_heads
from qrcore.loading import load_method
from qrcore.models import load_language_model, open_model, weights_sha256
from tests.benchmarks.embedded_lists import COLLECTIONS

RESULTS: Final = Path(__file__).parent / "results"
MODELS: Final = ("embedded", "embedded-gqa")
MODES: Final = ("uniform", "zero")
PAIRS: Final = 100
CONTROLS: Final = 20
#: Words of half a document: two halves and their tokens fit a pass of any model here.
WORDS: Final = 80


def halves(texts: Sequence[str], count: int, words: int = WORDS) -> list[str]:
    """``count`` runs of so many words, two neighbours of every text that has them."""
    found: list[str] = []
    for text in texts:
        split = text.split()
        if len(split) >= 2 * words and len(found) < count:
            found += [" ".join(split[:words]), " ".join(split[words : 2 * words])]
    if len(found) < count:
        raise SystemExit(f"expected {count // 2} texts of {2 * words} words, got {len(found) // 2}. Give more texts.")
    return found


def measure(model: str, heads: str | None, mode: str, pairs: Sequence[dict[str, Any]], controls: int) -> dict[str, Any]:
    """All numbers of one model and one mask as plain values."""
    source = open_model(model)
    chosen = resolve_heads(heads, source.copying_heads, source.shape)
    method = load_method("attention_influence").build(
        unique_heads(chosen.head_list), mask_mode=mode, controls=controls, control_layers="same_or_later"
    )
    loaded, tokenizer = load_language_model(source, device="cpu", dtype="float32"), TextTokenizer.load(model)
    started = time.process_time()
    answers = method.score(loaded, [tokenizer.encode(pair["text"]) for pair in pairs])
    rows = [
        influence_row(pair["doc_id"], pair["domain"], answer, Source("study", place))
        for place, (pair, answer) in enumerate(zip(pairs, answers, strict=True))
    ]
    return {
        "model": model,
        "weights_sha256": weights_sha256(source.path),
        "head_set": chosen.id,
        "heads": [str(head) for head in unique_heads(chosen.head_list)],
        "mask_mode": mode,
        "failed": sum(row["error"] is not None for row in rows),
        "cpu_seconds": round(time.process_time() - started, 1),
        **asdict(separation(rows)),
    }


def table(results: Sequence[dict[str, Any]]) -> str:
    """The study as Markdown."""
    names = ["model", "mask", "heads", "pairs", "AUC", "copied − plain", "control sets, mean", "above of them"]
    lines = [_row([*names, "beyond them", "noise"]), _row(["---", "---", *["--:"] * 8])]
    for one in results:
        controls = one["controls"]
        lines.append(
            _row(
                [
                    one["model"],
                    one["mask_mode"],
                    str(len(one["heads"])),
                    str(one["pairs"]),
                    f"{one['auc']:.3f}",
                    _interval(one["difference"]),
                    f"{sum(controls) / len(controls):+.4f}" if controls else "none",
                    f"{one['percentile']:.0%} of {len(controls)}",
                    _interval(one["beyond"]),
                    f"{one['noise']:.1e}",
                ]
            )
        )
    return "\n".join(lines) + "\n"


def _interval(value: dict[str, float]) -> str:
    return f"{value['mean']:+.4f} [{value['low']:+.4f}, {value['high']:+.4f}]"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=Path, default=COLLECTIONS / "text" / "text.parquet", help="Parquet with text")
    parser.add_argument("--model", nargs="*", default=MODELS)
    parser.add_argument("--heads", help="a head set instead of the model's own")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--controls", type=int, default=CONTROLS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    if not given.texts.is_file():
        raise SystemExit(f"expected text in {given.texts}; it is not part of the repository. Give --texts FILE.")
    torch.set_num_threads(1)
    texts = pq.read_table(given.texts, columns=["text"])["text"].to_pylist()
    pairs = list(pair_rows(halves(texts, 2 * given.pairs), "text"))
    results = []
    for model in given.model:
        for mode in MODES:
            results.append(measure(model, given.heads, mode, pairs, given.controls))
            print(table(results[-1:]), flush=True)
    given.results.mkdir(parents=True, exist_ok=True)
    (given.results / "influence_study.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (given.results / "influence_study.md").write_text(table(results), encoding="utf-8")


if __name__ == "__main__":
    main()
