"""What the rows of an input must have, for each kind of row that jobs take."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from pipelines.schemas import INPUT_SCHEMA, SCHEMA_VERSION, SCHEMA_VERSION_KEY, check_input_schema, is_text

DOCUMENT_SCHEMA: Final = pa.schema(
    [pa.field(name, pa.string()) for name in ("doc_id", "domain", "text")],
    metadata={SCHEMA_VERSION_KEY: SCHEMA_VERSION.encode()},
)


@dataclass(frozen=True, slots=True)
class RowContract:
    """``schema``: the columns that are read, the row's id first; ``texts``: string columns whose bytes are the row's
    size; ``check``: what keeps a file with another schema from being read, empty if nothing does."""

    name: str
    schema: pa.Schema
    texts: tuple[str, ...]
    check: Callable[[pa.Schema], list[str]]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that are read."""
        return tuple(self.schema.names)

    @property
    def lists_candidates(self) -> bool:
        """Whether a row holds a list of documents, which other rows may share."""
        return "candidates" in self.columns

    @property
    def id_column(self) -> str:
        """The column that names a row."""
        return self.columns[0]


def check_document_schema(schema: pa.Schema) -> list[str]:
    """What keeps a file with this schema from being read as documents; empty if nothing does."""
    problems = []
    for name in DOCUMENT_SCHEMA.names:
        count = schema.names.count(name)
        if count != 1:
            told = "is missing" if not count else "stands there more than once: rename or drop one"
            problems.append(f"column {name!r} (string) {told}")
        elif not is_text(schema.field(name).type) and not (
            name == "domain" and pa.types.is_null(schema.field(name).type)
        ):
            problems.append(f"column {name!r} has type {schema.field(name).type}, expected string: cast it")
    return problems


QUERIES: Final = RowContract("queries", INPUT_SCHEMA, ("query",), check_input_schema)
DOCUMENTS: Final = RowContract("documents", DOCUMENT_SCHEMA, ("text",), check_document_schema)
CONTRACTS: Final = {contract.name: contract for contract in (QUERIES, DOCUMENTS)}


def contract_with(columns: Collection[str]) -> RowContract:
    """The contract of rows with these columns."""
    return QUERIES if QUERIES.id_column in columns else DOCUMENTS


def id_column_of(columns: Collection[str]) -> str:
    """The column that names a row, of rows with these columns, whether read or written."""
    return contract_with(columns).id_column
