"""Surveys of several files: in order, and of equal schemas only one is kept."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.storage import Storage, StorageOptions
from pipelines.surveys import survey_files
from tests.shards import row, write_shard


@pytest.mark.usefixtures("local_ray")
def test_files_are_surveyed_in_order_and_equal_schemas_are_one_object_without_metadata(tmp_path: Path) -> None:
    for number in range(3):
        path = write_shard(tmp_path / f"{number}.parquet", [row(f"q{place}") for place in range(number + 1)])
        table = pq.read_table(path)
        pq.write_table(table.replace_schema_metadata({"unit": f"{number}"}), path)
    (tmp_path / "3.parquet").write_bytes(b"no Parquet")
    surveys = survey_files(Storage(str(tmp_path)).list_files(str(tmp_path)), StorageOptions())
    assert [len(survey.row_bytes) for survey in surveys] == [1, 2, 3, 0]
    assert [bool(survey.problem) for survey in surveys] == [False, False, False, True]
    first = surveys[0].schema
    assert first is not None and first.metadata is None and first.equals(table.schema)
    assert surveys[1].schema is first and surveys[2].schema is first and surveys[3].schema is None
