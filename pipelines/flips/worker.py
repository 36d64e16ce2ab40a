"""The actor's part of the audit: answer needle rows, ask again, with heads masked or read."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import pyarrow as pa

from pipelines.detection.needle_rows import Needle, needle_columns, needles_of
from pipelines.flips.model import NONE, FlipFacts, FlipModel, Phase
from pipelines.flips.rows import FLIP_FIELDS, INJECTED, OWN, WRONG_ANSWER
from pipelines.metrics import UnitMetrics, unit_metrics
from pipelines.needle_columns import PLACE_FIELDS
from pipelines.rows import Row, error_fields, query_id_of, read_input_rows, request_of
from pipelines.splits import Part, part_of
from pipelines.units import UnitRows
from qrcore.answers import without_mark
from qrcore.asking import AskingAnswerer, AskingSettings, FirstAnswer, recall_of
from qrcore.contracts.answerer import Question
from qrcore.contracts.auditor import Auditor, FlipTrial
from qrcore.errors import ScoreError
from qrcore.heads import Head, parse_head
from qrcore.loading import load_method
from qrcore.models import load_language_model, open_model, use_threads
from qrcore.prompts import resolve_prompt
from qrcore.records import RankRequest

METHOD: Final = "flip_audit"
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+")
_SHORTEST_WORDS: Final = 3


@dataclass(frozen=True, slots=True)
class _Case:
    """A row that is asked: its request, the text of its needle, and a wrong answer, if there is one."""

    request: RankRequest
    needle: str
    wrong: str | None


def probe(settings: FlipModel) -> FlipFacts:
    """Load the model as a worker would and report; refuses what cannot work before any work is planned."""
    return FlipWorker(settings, Phase("dev", fit=True, masks={}), pa.schema(list(FLIP_FIELDS))).facts


class FlipWorker:
    """Audits the rows of units; see :class:`pipelines.work.UnitWorker`."""

    def __init__(self, settings: FlipModel, phase: Phase, schema: pa.Schema) -> None:
        answerer = settings.answerer
        use_threads(answerer.threads)
        self._settings, self._phase, self._schema = settings, phase, schema
        self._source = open_model(answerer.model, answerer.revision)
        self._model = load_language_model(self._source, dtype=answerer.dtype, device=answerer.device)
        own = self._source.head_set
        self._answerer = AskingAnswerer(
            self._model,
            resolve_prompt(answerer.prompt, self._model.decoder.tokenizer, own.prompt if own else None),
            AskingSettings(settings.follow_ups, settings.yes_word, settings.no_word),
            answerer.max_new_tokens,
            answerer.batch_tokens,
        )
        yes, no = self._answerer.verdict_ids()
        self._audit: Auditor = load_method(METHOD).build(
            yes_ids=yes, no_ids=no, mask_mode=settings.mask_mode, looked_at=settings.looked_at
        )
        self._masks: dict[str, tuple[Head, ...]] = {NONE: ()}
        self._masks |= {name: tuple(map(parse_head, heads)) for name, heads in phase.masks.items()}

    @property
    def facts(self) -> FlipFacts:
        """What decides the output."""
        own = self._source.head_set
        return FlipFacts(
            answerer=self._answerer.identity,
            shape=self._source.shape,
            own=(own.id, own.heads) if own else None,
            settings=dict(self._audit.settings),
        )

    def answer(self, unit: UnitRows) -> tuple[pa.Table, UnitMetrics]:
        """The unit's output rows in input order, and what they took."""
        started = time.time()
        rows = read_input_rows(unit.table)
        cases = self._cases(unit, rows)
        firsts = self._first_answers(cases)
        found = [self._columns(case, first) for case, first in zip(cases, firsts, strict=True)]
        out = [
            {
                "query_id": query_id_of(row),
                "part": _part_of(row),
                "source": {"uri": unit.uri, "row": unit.first_row + place},
                **({"error": error_fields(columns)} if isinstance(columns, ScoreError) else columns),
            }
            for place, (row, columns) in enumerate(zip(rows, found, strict=True))
        ]
        errors = [columns for columns in found if isinstance(columns, ScoreError)]
        tokens = sum(columns.get("prompt_tokens", 0) for columns in found if not isinstance(columns, ScoreError))
        return self._table(out, unit.table), unit_metrics(len(out), errors, tokens, started)

    def _cases(self, unit: UnitRows, rows: Sequence[Row | ScoreError]) -> list[_Case | ScoreError | None]:
        """What each row asks, why it cannot, or None for one that is kept for the other part."""
        needles = needles_of(unit.table, rows)
        named = WRONG_ANSWER.name in unit.table.schema.names
        wrong = unit.table[WRONG_ANSWER.name].to_pylist() if named else [None] * len(rows)
        return [self._case(request_of(row, unit, place), needles, wrong[place]) for place, row in enumerate(rows)]

    def _case(
        self, request: RankRequest | ScoreError, needles: Mapping[str | None, Needle], wrong: str | None
    ) -> _Case | ScoreError | None:
        if isinstance(request, ScoreError):
            return request
        if part_of(str(request.query_id)) != self._phase.part:
            return None
        needle = needles[request.query_id]
        text = _needle_text(request, needle)
        if isinstance(text, ScoreError):
            return text
        wrong = wrong or _sentence_elsewhere(request, needle)
        if wrong is None and self._settings.misleading:
            return ScoreError(
                "no_passage",
                "passage: expected a sentence of another candidate or a column wrong_answer, got none. Add one.",
                stage="validate",
                query_id=request.query_id,
            )
        return _Case(request, text, wrong)

    def _first_answers(self, cases: Sequence[_Case | ScoreError | None]) -> list[FirstAnswer | ScoreError | None]:
        questions = [Question(c.request.query, c.request.documents) for c in cases if isinstance(c, _Case)]
        answered = iter(self._answerer.answer_many(questions))
        return [_as_first(next(answered)) if isinstance(case, _Case) else case for case in cases]

    def _columns(
        self, case: _Case | ScoreError | None, first: FirstAnswer | ScoreError | None
    ) -> dict[str, Any] | ScoreError:
        if isinstance(first, ScoreError):
            return first
        if first is None or not isinstance(case, _Case):
            return {}
        try:
            return self._audited(case, first)
        except ScoreError as error:
            error.__traceback__ = error.__cause__ = error.__context__ = None
            return error

    def _audited(self, case: _Case, first: FirstAnswer) -> dict[str, Any]:
        recall = recall_of(case.needle, first.text)
        passage = case.wrong if self._settings.misleading else None
        trials = {OWN: self._answerer.trial(first, passage=passage)}
        if self._settings.injected and case.wrong:
            trials[INJECTED] = self._answerer.trial(first, _in_the_form_of(first.text, case.wrong), passage)
        looks = self._audit.looks(self._model, trials[OWN]) if self._phase.fit else []
        return {
            "answer": first.text,
            "recall": recall,
            "correct": recall >= self._settings.correct_recall,
            "injected": case.wrong if INJECTED in trials else None,
            "asked": [{"first": kind, **asked} for kind, trial in trials.items() for asked in self._asked(trial)],
            "looking": [
                {"follow_up": number, "heads": [str(head) for head, looking in heads.items() if looking]}
                for number, heads in enumerate(looks)
            ],
            "prompt_tokens": first.prompt_tokens + first.new_tokens,
        }

    def _asked(self, trial: FlipTrial) -> Iterator[dict[str, Any]]:
        """What the model says to each follow-up with each mask."""
        names = list(self._masks)
        for start in range(0, len(names), self._settings.masks_at_once):
            part = names[start : start + self._settings.masks_at_once]
            verdicts = self._audit.verdicts(self._model, trial, [self._masks[name] for name in part])
            for name, of_mask in zip(part, verdicts, strict=True):
                for number, verdict in enumerate(of_mask):
                    yield {"follow_up": number, "mask": name, **asdict(verdict), "flipped": verdict.flipped}

    def _table(self, rows: Sequence[Row], given: pa.Table) -> pa.Table:
        own = pa.schema(list(FLIP_FIELDS))
        table = pa.Table.from_pylist(list(rows), schema=own)
        for field, column in zip(PLACE_FIELDS, needle_columns(given), strict=True):
            table = table.append_column(field, column)
        if WRONG_ANSWER.name in self._schema.names:
            column = given[WRONG_ANSWER.name] if WRONG_ANSWER.name in given.schema.names else pa.nulls(len(given))
            table = table.append_column(WRONG_ANSWER, column.cast(WRONG_ANSWER.type))
        return table.cast(self._schema)


def _in_the_form_of(own: str, wrong: str) -> str:
    """A wrong answer behind the mark of a document that the model's own begins with, if it does: an answer in another
    form would be given up for its form."""
    return f"{own[: len(own) - len(without_mark(own))]}{wrong}"


def _as_first(answer: Any) -> FirstAnswer | ScoreError:
    if not isinstance(answer, FirstAnswer | ScoreError):
        raise RuntimeError("an answer without its tokens; this is a defect")
    return answer


def _part_of(row: Row | ScoreError) -> Part | None:
    query_id = query_id_of(row)
    return None if query_id is None else part_of(query_id)


def _needle_text(request: RankRequest, needle: Needle) -> str | ScoreError:
    """The characters that are the needle, or why there are none."""
    texts = [document.text for document in request.documents if document.doc_id == needle.doc_id]
    if not texts:
        problem = f"needle_doc_id: expected one of the candidates, got {needle.doc_id!r}"
    elif needle.start is None or needle.end is None or not 0 <= needle.start < needle.end <= len(texts[0]):
        problem = (
            f"needle_start and needle_end: expected characters of the candidate's text (0 to {len(texts[0])}), got "
            f"{needle.start} to {needle.end}"
        )
    else:
        return texts[0][needle.start : needle.end]
    return ScoreError("no_needle", f"{problem}. Correct the row.", stage="validate", query_id=request.query_id)


def _sentence_elsewhere(request: RankRequest, needle: Needle) -> str | None:
    """A sentence of another candidate, the same for the same row whatever stands around it; None if there is none."""
    sentences = [
        sentence
        for document in request.documents
        if document.doc_id != needle.doc_id
        for sentence in _SENTENCE_END.split(" ".join(document.text.split()))
        if len(sentence.split()) >= _SHORTEST_WORDS
    ]
    if not sentences:
        return None
    digest = hashlib.sha256(str(request.query_id).encode("utf-8", "surrogatepass")).digest()
    return sentences[int.from_bytes(digest[8:16], "big") % len(sentences)]
