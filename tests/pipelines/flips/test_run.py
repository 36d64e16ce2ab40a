"""The audit on a real local Ray: both splits, needle rows with errors among them, resuming, verifying."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.flips import FlipsConfig, pipeline_settings
from jobs.settings import merge, validate
from pipelines.commit import manifest_rows
from pipelines.flips.run import run_audit, run_fit
from pipelines.needle_columns import PLACE_FIELDS
from pipelines.schemas import INPUT_SCHEMA
from pipelines.side_files import read_side_file
from pipelines.splits import part_of
from pipelines.status import run_status
from pipelines.storage import StorageOptions
from pipelines.verify import open_run, verify
from qrcore.errors import ConfigError
from tests.pipelines.reranking import Recorder
from tests.shards import row, write_shard

pytestmark = pytest.mark.usefixtures("local_ray")

SCHEMA = pa.schema([*INPUT_SCHEMA, *PLACE_FIELDS])
FACTS = [
    "The baker of Fenwick calls his dog Admiral.",
    "The roofs of Linton Fold are covered with heather and tar.",
    "The harbour of Sallow Point is nine fathoms deep.",
]


def _rows(count: int) -> list[dict[str, Any]]:
    candidates = [{"doc_id": f"d{place}", "text": text} for place, text in enumerate(FACTS)]
    rows = []
    for number in range(count):
        place = number % len(FACTS)
        question = ("What does the baker of Fenwick call his dog?", "What are the roofs of Linton Fold covered with?",
                    "How deep is the harbour of Sallow Point?")[place]  # fmt: skip
        needle = {"needle_doc_id": f"d{place}", "needle_start": 0, "needle_end": len(FACTS[place])}
        rows.append({"query_id": f"q{number}", "query": question, "candidates": candidates, **needle})
    return [*rows, {**rows[0], "query_id": "gone", "needle_doc_id": "none"}]


def _settings(source: Path, output: Path, **changes: Any) -> Any:
    base = {
        "input": {"uris": [str(source)]},
        "output": {"uri": str(output)},
        "model": {"max_new_tokens": 20},
        "masks": {"sizes": [2], "controls": 1},
        "units": {"max_rows": 4},
        "actors": {"count": 1},
    }
    return pipeline_settings(validate(FlipsConfig, merge(base, changes)))


def test_heads_are_ranked_on_one_split_and_masked_on_the_other(tmp_path: Path) -> None:
    source = write_shard(tmp_path / "in" / "0.parquet", _rows(9), SCHEMA)
    settings, storage = _settings(source, tmp_path / "out"), StorageOptions()
    fitted = run_fit(settings, Recorder())
    held_out = run_audit(settings, fitted, Recorder())
    reports = [
        read_side_file(one.run_uri, one.manifest.side_files, "report.json", storage) for one in (fitted, held_out)
    ]
    for result, report, part in zip((fitted, held_out), reports, ("dev", "test"), strict=True):
        rows = list(manifest_rows(result.run_uri))
        assert [one["query_id"] for one in rows] == [*(f"q{n}" for n in range(9)), "gone"]
        asked = [one["query_id"] for one in rows if one["asked"]]
        assert asked == [name for name in (f"q{n}" for n in range(9)) if part_of(name) == part]
        assert report["result"]["audited"] == len(asked) > 0
        assert list(verify(open_run(result.run_uri, storage), with_input=True)) == []
        assert run_status(result.run_uri, storage).rows == (10, 10)
        failed = [one["error"]["code"] for one in rows if one["error"]]
        assert failed == (["no_needle"] if part_of("gone") == part else [])
    assert [mask["name"] for mask in reports[1]["masks"]] == ["none", "top-2", "own"]
    assert reports[1]["masks"][1]["heads"] == [one["head"] for one in reports[0]["ranking"][:2]]
    assert reports[1]["ranking"] == reports[0]["ranking"] and "our reading" in reports[1]["note"]
    assert held_out.manifest.run_id.startswith("flips-held-out-")
    again = run_audit(settings, run_fit(settings, Recorder()), Recorder())
    assert again.already_committed and again.run_uri == held_out.run_uri


def test_rows_without_needles_are_refused(tmp_path: Path) -> None:
    source = write_shard(tmp_path / "in" / "0.parquet", [row("a")])
    with pytest.raises(ConfigError, match="qrbatch needles"):
        run_fit(_settings(source, tmp_path / "out"), Recorder())
