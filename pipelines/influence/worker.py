"""The actor's part of scoring documents: one language model, whole documents in, influences out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import pyarrow as pa

from pipelines.influence.model import InfluenceFacts, InfluenceModel
from pipelines.influence.rows import influence_row, influence_table
from pipelines.metrics import UnitMetrics, unit_metrics
from pipelines.rows import Row, Source, duplicate_query_id, query_id_of, read_input_rows
from pipelines.units import UnitRows
from qrcore.contracts.influence import DocumentInfluence, InfluenceScorer
from qrcore.counting import TextTokenizer
from qrcore.errors import ScoreError
from qrcore.heads import HeadSet, resolve_heads
from qrcore.loading import load_method
from qrcore.matching import check_origin
from qrcore.models import (
    LanguageModel,
    ModelSource,
    load_language_model,
    open_model,
    setup_sha256,
    use_threads,
    weights_sha256,
)

METHOD: Final = "attention_influence"


def probe(settings: InfluenceModel) -> InfluenceFacts:
    """Load the model as an actor would and report; refuses what cannot work before any work is planned."""
    worker = InfluenceWorker(settings)
    source, model = worker.model.decoder.source, worker.model.model
    warnings = check_origin(worker.heads, source, settings.on_mismatch)
    return InfluenceFacts(
        head_set_id=worker.heads.id,
        heads=worker.heads.heads,
        revision=source.revision,
        weights_sha256=weights_sha256(source.path),
        setup_sha256=setup_sha256(source.path),
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        max_tokens=source.max_tokens,
        controls=tuple(tuple(map(str, heads)) for heads in worker.method.control_sets(worker.model)),
        settings=dict(worker.method.settings),
        warnings=tuple(warnings),
    )


class InfluenceWorker:
    """Scores the documents of units; see :class:`pipelines.work.UnitWorker`."""

    def __init__(self, settings: InfluenceModel) -> None:
        use_threads(settings.threads)
        source = open_model(settings.model, settings.revision)
        self.heads = _heads(settings.heads, source)
        self.model: LanguageModel = load_language_model(source, dtype=settings.dtype, device=settings.device)
        self._tokenizer = TextTokenizer.load(settings.model, source.revision)
        heads = tuple(dict.fromkeys(self.heads.head_list))
        self.method: InfluenceScorer = load_method(METHOD).build(heads, **dict(settings.method))

    def answer(self, unit: UnitRows) -> tuple[pa.Table, UnitMetrics]:
        """The unit's documents in input order, and what they took."""
        started = time.time()
        rows = read_input_rows(unit.table)
        texts = [_document(row, unit.first_row + place in unit.duplicates) for place, row in enumerate(rows)]
        answers = self._answers(texts)
        sources = [Source(unit.uri, unit.first_row + place) for place in range(len(rows))]
        table = influence_table(
            [
                influence_row(query_id_of(row), _domain(row), answer, source)
                for row, answer, source in zip(rows, answers, sources, strict=True)
            ]
        )
        errors = [answer for answer in answers if isinstance(answer, ScoreError)]
        tokens = sum(answer.n_tokens for answer in answers if isinstance(answer, DocumentInfluence))
        return table, unit_metrics(len(rows), errors, tokens, started)

    def _answers(self, texts: Sequence[str | ScoreError]) -> list[DocumentInfluence | ScoreError]:
        documents = [self._tokenizer.encode(text) for text in texts if isinstance(text, str)]
        scored = iter(_scored(self.method, self.model, documents))
        return [text if isinstance(text, ScoreError) else next(scored) for text in texts]


def _heads(heads: str | None, source: ModelSource) -> HeadSet:
    """Both sets that a model ships have their names; without one the heads that copy are meant."""
    named = (one for one in (source.copy_head_set, source.head_set) if one is not None and one.name == heads)
    return resolve_heads(next(named, heads), source.copying_heads, source.shape)


def _scored(
    method: InfluenceScorer, model: LanguageModel, documents: Sequence[list[int]]
) -> list[DocumentInfluence | ScoreError]:
    try:
        return method.score(model, documents)
    except ScoreError as error:  # out of memory: of one document, or of those that went through together
        if len(documents) == 1:
            return [error]
    return [one for document in documents for one in _scored(method, model, [document])]


def _document(row: Row | ScoreError, repeated: bool) -> str | ScoreError:
    """The text of a row, or why it cannot be scored."""
    if isinstance(row, ScoreError):
        return row
    if row["doc_id"] is None:
        return ScoreError("null_doc_id", "doc_id: expected a string, got null. Give the row an id.", stage="validate")
    if repeated:
        return duplicate_query_id(row)
    text = row["text"]
    if text is None:
        return ScoreError("null_text", "text: expected a string, got null. Fill it in.", stage="validate")
    if not text.strip():
        return ScoreError(
            "empty_document", "text: expected text, got white space only. Leave the row out.", stage="validate"
        )
    return str(text)


def _domain(row: Row | ScoreError) -> str | None:
    return None if isinstance(row, ScoreError) else row["domain"]
