"""Answers from documents that a method chooses, with head sets that fit the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from qrcore.contracts.answerer import Answer, ReadAnswer, ReaderIdentity
from qrcore.contracts.context_generator import ContextAnswer, ContextGenerator
from qrcore.errors import ScoreError
from qrcore.generation import GreedyAnswerer
from qrcore.heads import HeadSet, resolve_heads, unique_heads
from qrcore.loading import load_method
from qrcore.matching import OnMismatch, check_origin, prompt_warnings
from qrcore.questions import answer_text
from qrcore.records import Document
from qrcore.tokens import PromptEncoder

#: The rows that such methods read attention from: those of the question itself.
QUERY_SPAN: Final = "query"


@dataclass(frozen=True, slots=True)
class ReadingMethod:
    """A method by ``name``. ``heads``: its head sets by the argument that takes them, each a list, a name or a file, or
    None for the one that ships with the model; ``settings``: its other arguments."""

    name: str
    heads: Mapping[str, str | None]
    settings: Mapping[str, Any] = field(default_factory=dict)
    on_mismatch: OnMismatch = "refuse"


class MethodReader:
    """See :class:`qrcore.contracts.answerer.Reader`; shares the model of an answerer."""

    def __init__(
        self,
        answerer: GreedyAnswerer,
        method: ContextGenerator,
        head_sets: Mapping[str, HeadSet],
        warnings: Sequence[str],
    ) -> None:
        self._answerer, self._method = answerer, method
        self._head_sets, self._warnings = head_sets, tuple(warnings)

    @property
    def reader_identity(self) -> ReaderIdentity:
        """What this reader is, beside its model."""
        known = [one.detection_queries or () for one in self._head_sets.values()]
        return ReaderIdentity(
            settings=dict(self._method.settings),
            head_sets={name: one.id for name, one in self._head_sets.items()},
            warnings=self._warnings,
            detection_queries=frozenset(digest for of_one in known for digest in of_one),
        )

    def read(
        self, question: str, documents: Sequence[Document], variants: Sequence[str], gold: Sequence[int] = ()
    ) -> dict[str, ReadAnswer | ScoreError]:
        """The answer of each variant, or why there is none."""
        found = self._method.answers(self._answerer.language_model, question, documents, variants, gold)
        return {name: one if isinstance(one, ScoreError) else self._told(one) for name, one in found.items()}

    def _told(self, found: ContextAnswer) -> ReadAnswer:
        text = answer_text(self._answerer.language_model.decoder.tokenizer, found.ids)
        return ReadAnswer(Answer(text, found.prompt_tokens, len(found.ids), found.ended), found.shown, found.steered)


def method_reader(answerer: GreedyAnswerer, method: ReadingMethod) -> MethodReader:
    """The reader of a method over the model of ``answerer``. Raises :class:`qrcore.errors.ConfigError` or a subclass
    for head sets that do not fit the model, and settings that cannot be."""
    decoder, prompt = answerer.language_model.decoder, answerer.retrieval_prompt
    source = decoder.source
    head_sets = {name: resolve_heads(one, source.head_set, source.shape) for name, one in method.heads.items()}
    warnings = [
        warning
        for one in head_sets.values()
        for warning in (*check_origin(one, source, method.on_mismatch), *prompt_warnings(one, prompt), *_rows(one))
    ]
    chosen = {name: unique_heads(one.head_list) for name, one in head_sets.items()}
    built = load_method(method.name).build(PromptEncoder(decoder.tokenizer), prompt, **chosen, **dict(method.settings))
    return MethodReader(answerer, built, head_sets, tuple(dict.fromkeys(warnings)))


def _rows(heads: HeadSet) -> tuple[str, ...]:
    if heads.query_span in (None, QUERY_SPAN):
        return ()
    return (
        f"head set {heads.name!r} was found on the rows of the span {heads.query_span!r}, and here those of the "
        f"question are read (reading.query_span: {QUERY_SPAN})",
    )
