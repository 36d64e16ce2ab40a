"""The golden cases as records; see tests/data/golden/README.md."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from qrcore import Document, load_scorer
from qrcore.heads import head_set_from_list
from qrcore.methods.qrhead import QRHeadScorer
from qrcore.records import Span

FOLDER: Final = Path(__file__).parents[1] / "data" / "golden"
FAMILIES: Final = ("llama", "qwen2")
HEAD_SETS: Final = ("subset", "last", "full")
TOLERANCE: Final = 5e-6


@dataclass(frozen=True)
class GoldenCase:
    """One input with what the official code returns for it in one family; spans are half-open here."""

    id: str
    family: str
    query: str
    documents: tuple[Document, ...]
    noise_only: bool
    prompt: str
    token_ids: tuple[int, ...]
    null_token_ids: tuple[int, ...]
    document_spans: tuple[Span, ...]
    asking_span: Span
    null_asking_span: Span
    scores: dict[str, dict[str, float]]
    per_head: Tensor
    near_cut: tuple[tuple[int, int, int], ...]


@cache
def golden_cases(family: str) -> dict[str, GoldenCase]:
    with (FOLDER / "cases.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return {row["id"]: _case(row, family) for row in rows}


@cache
def golden_array(key: str) -> Tensor:
    with np.load(FOLDER / "expected.npz") as arrays:
        return torch.from_numpy(arrays[key])


@cache
def golden_heads(family: str, head_set: str) -> str:
    sets = json.loads((FOLDER / "head_sets.json").read_text(encoding="utf-8"))
    return str(sets[family][head_set]).replace("full_heads", "all")


def changed_scorer(heads: str = "1-0,1-2,2-4", **changes: Any) -> QRHeadScorer:
    """Other heads and settings over the golden Llama, which is loaded once; documents keep their special text."""
    loaded = golden_scorer("llama", "full")
    settings = replace(loaded.settings, **{"document_special_tokens": "text", **changes})
    return QRHeadScorer(loaded.model, head_set_from_list(heads), settings)


@cache
def golden_scorer(family: str, head_set: str) -> QRHeadScorer:
    """The official settings: special-token text inside documents becomes special tokens."""
    return load_scorer(
        str(FOLDER / "models" / family),
        heads=golden_heads(family, head_set),
        prompt=f"qrhead-{family.replace('llama', 'llama3')}",
        document_special_tokens="parse",
    )


def _case(row: dict[str, Any], family: str) -> GoldenCase:
    expected = row["expected"][family]
    correct = expected.get("fixed") or expected
    fixed = "_fixed" if expected.get("fixed") else ""
    return GoldenCase(
        id=row["id"],
        family=family,
        query=row["query"],
        documents=tuple(Document(d["idx"], d["paragraph_text"], d.get("title")) for d in row["docs"]),
        noise_only=bool(row.get("noise_only")),
        prompt=row["prompt"][family],
        token_ids=tuple(expected["token_ids"]),
        null_token_ids=tuple(expected["null_token_ids"]),
        document_spans=tuple(_half_open(span) for span in correct["doc_spans"]),
        asking_span=_half_open(correct["query_span"]),
        null_asking_span=_half_open(correct["null_query_span"]),
        scores=correct["scores"],
        per_head=golden_array(f"{row['id']}/{family}/per_head{fixed}"),
        near_cut=tuple((document, layer, head) for document, layer, head in expected["near_cut"]),
    )


def _half_open(span: list[int]) -> Span:
    first, last = span
    return Span(first, last + 1)
