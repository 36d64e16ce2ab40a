"""Surveys of many input files, by small tasks on the cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from pipelines.contracts import QUERIES, RowContract
from pipelines.fan_out import fan_out
from pipelines.inputs import FileSurvey, survey_file
from pipelines.storage import FileInfo, StorageOptions


def survey_files(
    files: Sequence[FileInfo], storage: StorageOptions, contract: RowContract = QUERIES
) -> list[FileSurvey]:
    """A survey of each file, in order; their rows follow ``contract``."""
    schemas: dict[pa.Schema, pa.Schema] = {}
    surveys = fan_out(survey_file, files, lambda file: file.size, storage, contract)
    return [_with_one_schema(survey, schemas) for survey in surveys]


def _with_one_schema(survey: FileSurvey, schemas: dict[pa.Schema, pa.Schema]) -> FileSurvey:
    """The survey with the schema object of the first file that had the same: thousands of files mostly have one."""
    if survey.schema is None:
        return survey
    return replace(survey, schema=schemas.setdefault(survey.schema, survey.schema))
