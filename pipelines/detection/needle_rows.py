"""Needle trials on their way through an actor: from a row to the tokens that are to be copied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from pipelines.detection.copying import KEY_VALUE
from pipelines.needle_columns import PLACE_FIELDS
from pipelines.rows import Row, query_id_of
from pipelines.scorers import ScorerSettings
from qrcore.contracts.copy_detector import CopyTrial, PairDetector
from qrcore.contracts.scorer import Scorer
from qrcore.errors import ConfigError, ScoreError
from qrcore.loading import load_method
from qrcore.models import LanguageModel
from qrcore.needles import NeedlePlace, copy_trial
from qrcore.ordering import prompt_order
from qrcore.prompts import EMBEDDED, PromptFormat
from qrcore.records import Document, RankRequest, Span
from qrcore.tokens import PromptEncoder

#: What the embedded models say before they copy.
_NAMES_THE_DOCUMENT: Final = "[{place}] "


@dataclass(frozen=True, slots=True)
class Needle:
    """The candidate that holds it, and its characters in that candidate's text; None where the row is null."""

    doc_id: str | None
    start: int | None
    end: int | None


def needles_of(table: pa.Table, rows: Sequence[Row | ScoreError]) -> dict[str | None, Needle]:
    """The needles of a unit's rows by ``query_id``."""
    # An id that is no UTF-8 is none of the candidates' either, and is told as such.
    ids = [value and value.decode("utf-8", "replace") for value in _binary(table["needle_doc_id"]).to_pylist()]
    starts, ends = (table[field.name].to_pylist() for field in PLACE_FIELDS[1:])
    places = zip(ids, starts, ends, strict=True)
    return {query_id_of(row): Needle(*place) for row, place in zip(rows, places, strict=True)}


def needle_columns(table: pa.Table) -> list[pa.ChunkedArray]:
    """The columns that a needle is found by, in the types in which they are written."""
    return [table[field.name].cast(field.type) for field in PLACE_FIELDS]


def _binary(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.large_string()).cast(pa.large_binary())


class TrialMaker:
    """Builds the trial of a row for one scorer's prompts.

    ``answer_prefix``: see :func:`qrcore.needles.copy_trial`; ``auto``: what the embedded models say before they copy,
    in their prompt format, and nothing in others.
    """

    def __init__(self, scorer: Scorer, settings: ScorerSettings, answer_prefix: str) -> None:
        self.model = _language_model(scorer)
        self._prompt = PromptFormat(**scorer.identity.prompt)
        self._order = settings.order
        special: str = settings.document_special_tokens
        self._encoder = PromptEncoder(self.model.decoder.tokenizer, special)  # type: ignore[arg-type]
        named = _NAMES_THE_DOCUMENT if self._prompt.name == EMBEDDED.name else ""
        self._prefix = named if answer_prefix == "auto" else answer_prefix

    def __call__(self, request: RankRequest, needle: Needle) -> CopyTrial:
        """The trial. Raises :class:`ScoreError` for a needle that is not there."""
        order = prompt_order(request, self._order)  # type: ignore[arg-type]
        documents = [request.documents[position] for position in order]
        where = _place_of(request, documents, needle)
        return copy_trial(self._encoder, self._prompt, request.query, documents, where, self._prefix)


class PairTrialMaker:
    """Builds the key-value trial of a row: pairs are its candidates as they stand. ``building``: what the method is
    built with."""

    def __init__(self, scorer: Scorer, building: Mapping[str, Any]) -> None:
        self.model = _language_model(scorer)
        self.method: PairDetector = load_method(KEY_VALUE).build(**building)
        self._encoder = PromptEncoder(self.model.decoder.tokenizer)

    def __call__(self, request: RankRequest, needle: Needle) -> CopyTrial:
        """The trial. Raises :class:`ScoreError` for a value that is not there."""
        place = _place_of(request, request.documents, needle).place
        pairs = [(document.title or "", document.text) for document in request.documents]
        return self.method.copy_trial(self._encoder, pairs, place)


def _language_model(scorer: Scorer) -> LanguageModel:
    if scorer.language_model is None:
        raise ConfigError("copying: expected a model with all layers and its head. Load it with depth=full.")
    return scorer.language_model


def _place_of(request: RankRequest, documents: Sequence[Document], needle: Needle) -> NeedlePlace:
    places = [place for place, document in enumerate(documents) if document.doc_id == needle.doc_id]
    if not places:
        raise _no_needle(request, f"needle_doc_id: expected one of the candidates, got {needle.doc_id!r}")
    length = len(documents[places[0]].text)
    if needle.start is None or needle.end is None or not 0 <= needle.start < needle.end <= length:
        raise _no_needle(
            request,
            f"needle_start and needle_end: expected characters of the candidate's text (0 to {length}), got "
            f"{needle.start} to {needle.end}",
        )
    return NeedlePlace(places[0], Span(needle.start, needle.end))


def _no_needle(request: RankRequest, problem: str) -> ScoreError:
    return ScoreError("no_needle", f"{problem}. Correct the row.", stage="validate", query_id=request.query_id)
