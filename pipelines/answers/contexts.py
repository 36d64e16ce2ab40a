"""Where the contexts come from that questions are answered from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from pipelines.labels import Qrels
from pipelines.ranked_run import RankedRun, StoredRows
from pipelines.rows import Row, request_from_row
from pipelines.storage import StorageOptions
from pipelines.units import UnitRows
from qrcore.errors import ScoreError
from qrcore.records import Document
from qrcore.rendering import CONTEXT_TEMPLATE, TextTemplate

_BUNDLE_COLUMNS: Final = ("segments", "context", "flags", "source", "error")


@dataclass(frozen=True, slots=True)
class Context:
    """What a question is answered from: documents in order, the same as one text, the ids of everything that they are
    made of, and what is to be known of it."""

    documents: tuple[Document, ...]
    text: str
    doc_ids: tuple[str, ...]
    flags: tuple[str, ...] = ()


class Contexts(Protocol):
    """Where the contexts of a unit's rows come from."""

    def of(self, unit: UnitRows, rows: Sequence[Row | ScoreError]) -> list[Context | ScoreError]:
        """The context of each row of the unit in order, or why there is none. ``rows``: as the input has them."""
        ...


class BundleContexts:
    """The contexts of a committed run of select."""

    def __init__(self, bundles: RankedRun, options: StorageOptions) -> None:
        self._rows = StoredRows(bundles, _BUNDLE_COLUMNS, options)

    def of(self, unit: UnitRows, rows: Sequence[Row | ScoreError]) -> list[Context | ScoreError]:
        """See :class:`Contexts`."""
        found = self._rows.of(unit)
        return [_of_bundle(found.get(unit.first_row + place)) for place in range(len(rows))]


def _of_bundle(bundle: Row | None) -> Context | ScoreError:
    if bundle is None or bundle["segments"] is None:
        why = bundle["error"]["message"] if bundle and bundle["error"] else "the run has no such row"
        return ScoreError("no_bundle", f"bundle: expected one, got none ({why})", stage="select")
    doc_ids = tuple(name for segment in bundle["segments"] for name in segment["doc_ids"])
    return Context(_documents(bundle["segments"]), bundle["context"], doc_ids, tuple(bundle["flags"] or ()))


class WholeContexts:
    """All candidates of a row as they stand there; with ``qrels`` only the relevant ones: the oracle's choice."""

    def __init__(self, qrels: Qrels | None = None) -> None:
        self._qrels = qrels
        self._template = TextTemplate(CONTEXT_TEMPLATE, "context")

    def of(self, unit: UnitRows, rows: Sequence[Row | ScoreError]) -> list[Context | ScoreError]:
        """See :class:`Contexts`."""
        return [row if isinstance(row, ScoreError) else self._of_row(row) for row in rows]

    def _of_row(self, row: Row) -> Context | ScoreError:
        if isinstance(request := request_from_row(row), ScoreError):
            return request
        kept = [entry for entry in row["candidates"] if self._is_wanted(row["query_id"], entry["doc_id"])]
        if not kept:
            return ScoreError(
                "nothing_relevant",
                "context: expected judged relevant documents among the candidates, found none. Leave the row out, or "
                "judge it.",
                stage="select",
            )
        text = self._template.render({"segments": [_titled(entry) for entry in kept]})
        return Context(_documents(kept), text, tuple(entry["doc_id"] for entry in kept))

    def _is_wanted(self, query_id: str, doc_id: str) -> bool:
        return self._qrels is None or self._qrels.get(query_id, {}).get(doc_id, 0) > 0


def _documents(entries: Sequence[Row]) -> tuple[Document, ...]:
    return tuple(Document(entry["doc_id"], entry["text"], entry.get("title")) for entry in entries)


def _titled(entry: Row) -> Row:
    return {"title": None, **entry}
