"""Stored rows of contrast as its report meets them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from pipelines.commit import CommittedObject, StoredUnit
from pipelines.contrast.rows import contrast_schema
from pipelines.plan import Plan, PlannedFile, Unit, encode_schema
from tests.pipelines.unit_samples import footer_of

URI = "s3://bucket/shards/a-rather-long-folder-name/part-00000.parquet"
PROVENANCE: dict[str, Any] = {
    "told": "answers of embedded-gqa to full contexts in its retrieval prompt, contrasted with 4 heads masked",
    "warnings": [],
    "settings": {"mask_mode": "uniform", "mask_scope": "decode"},
}


def answer_row(number: int, **changes: Any) -> dict[str, Any]:
    """A row with an answer that contrast did not change, or one with the given columns changed."""
    scores = {"exact_match": 0.0, "sub_em": 1.0, "token_f1": 0.5}
    row = {
        "query_id": f"q{number}",
        "query": f"What is sold at market {number}?",
        "answer": "salt",
        "ended": True,
        "prompt_tokens": 100 + number,
        "new_tokens": 9,
        "mean_alpha": 0.25,
        "steps": 10,
        "tokens_changed": 0,
        **scores,
        "plain": {"answer": "salt", **scores},
        "controls": [],
        "gold": ["Salt"],
        "prompt": f"Salt is sold.\n\nWhat is sold at market {number}?",
        "source": {"uri": URI, "row": number},
    }
    return row | changes


def failed_row(number: int, code: str = "context_too_long") -> dict[str, Any]:
    """A row without an answer."""
    error = {"code": code, "kind": "input", "message": f"prompt: expected less, got {number}.", "stage": "tokenise"}
    return {"query_id": f"q{number}", "source": {"uri": URI, "row": number}, "error": error}


def plan_of(rows: int, **changes: Any) -> Plan:
    """The plan of a run over so many rows."""
    return Plan(
        run_id="contrast-0123456789ab",
        job="contrast",
        name="contrast",
        config_hash="c",
        input_hash="i",
        config={"contrast.alpha": None, "mask.controls": 2, "model.id": "embedded-gqa"},
        provenance={**PROVENANCE, **changes},
        order="as_given",
        files=(PlannedFile(uri=URI, size=1000, etag="e", rows=rows, bytes=10, tokens=5),),
        skipped_files=(),
        units=(Unit(unit_id="u", file=0, start=0, stop=rows, bytes=10, tokens=5),),
        schema_ipc=encode_schema(contrast_schema(())),
    )


def stored_unit(rows: list[Mapping[str, Any]]) -> StoredUnit:
    """These rows as one object that was read back."""
    failed = sum("error" in row for row in rows)
    entry = CommittedObject(
        path="data/u.parquet", unit_id="u", size=1, sha256="s", rows=len(rows), scored=len(rows) - failed, failed=failed
    )
    table = pa.Table.from_pylist(list(map(dict, rows)), schema=contrast_schema(()))
    return StoredUnit(
        Unit(unit_id="u", file=0, start=0, stop=len(rows), bytes=1, tokens=1),
        entry,
        footer_of(len(rows), failed),
        table,
    )
