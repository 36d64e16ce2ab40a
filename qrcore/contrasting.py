"""Answers with contrast, and beside them what the model says as it is, against other heads, and with heads masked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from qrcore.causal import draw_same_layer
from qrcore.contracts.answerer import Answer, Question
from qrcore.contracts.contrast import ContrastedAnswer, ContrastIdentity, ControlAnswer
from qrcore.contracts.generator import Contraster, Generated
from qrcore.errors import ScoreError
from qrcore.generation import GreedyAnswerer
from qrcore.heads import Head, HeadSet, resolve_heads, unique_heads
from qrcore.loading import load_method
from qrcore.matching import OnMismatch, check_origin
from qrcore.methods.decore import support
from qrcore.models import LanguageModel, load_language_model, open_model
from qrcore.prompts import PromptFormat, resolve_prompt

METHOD: Final = "decore"
_CONTRAST, _PLAIN, _MASKED, _CONTROL = "contrast", "plain", "masked", "control"


@dataclass(frozen=True, slots=True)
class ContrastParts:
    """What is generated for every question: ``method`` fields of :class:`~qrcore.methods.decore.DecoreSettings` besides
    heads and length; ``controls``: sets of other heads, drawn with ``seed``, that are contrasted in their place;
    ``plain``: the answer without contrast; ``masked``: the answer with the heads masked."""

    method: Mapping[str, Any] = field(default_factory=dict)
    controls: int = 0
    seed: int = 0
    plain: bool = True
    masked: bool = False


class ContrastAnswerer(GreedyAnswerer):
    """See :class:`qrcore.contracts.contrast.Contrastive`. Questions share batches as those of
    :class:`~qrcore.generation.GreedyAnswerer` do, so that answers without weight are that one's."""

    def __init__(
        self,
        model: LanguageModel,
        retrieval: PromptFormat,
        head_set: HeadSet,
        parts: ContrastParts,
        max_new_tokens: int,
        batch_tokens: int,
        warnings: Sequence[str] = (),
    ) -> None:
        super().__init__(model, retrieval, max_new_tokens, batch_tokens)
        self._head_set, self._parts, self._warnings = head_set, parts, tuple(warnings)
        heads = unique_heads(head_set.head_list)
        self._controls = draw_same_layer(heads, model.decoder.source.shape, parts.controls, parts.seed)
        self._method = self._contraster(heads)
        self._rivals = [self._contraster(control) for control in self._controls]

    def _contraster(self, heads: Sequence[Head]) -> Contraster:
        made: Contraster = load_method(METHOD).build(heads, max_new_tokens=self._max_new_tokens, **self._parts.method)
        return made

    @property
    def contrast(self) -> ContrastIdentity:
        """The heads, those of the control sets, and how they are contrasted."""
        return ContrastIdentity(
            head_set_id=self._head_set.id,
            heads=self._head_set.heads,
            controls=tuple(tuple(map(str, heads)) for heads in self._controls),
            settings=dict(self._method.settings),
            warnings=self._warnings,
        )

    def turn_text(self, question: Question) -> str:
        """What the user says, without the marks around a turn."""
        if question.text is not None:
            return question.text
        frame = self._retrieval
        whole = frame.render(question.query, question.documents).text
        return whole[len(frame.prefix) : len(whole) - len(frame.suffix)]

    def support(self, answer: str, context: str) -> float:
        """The share of an answer's tokens that the context holds; see :func:`qrcore.methods.decore.support`."""
        # Within a text a word begins with a space, which many tokenizers make a part of it.
        said, there = (
            self._encoder.encode_text(f" {text}") if text else () for text in (answer.strip(), context.strip())
        )
        return support(said, there)

    def _decode(self, prompts: Sequence[tuple[int, ...]]) -> list[Answer | ScoreError]:
        ways = {_CONTRAST: self._method.answers}
        ways |= {_PLAIN: self._method.plain} if self._parts.plain else {}
        ways |= {_MASKED: self._method.negatives} if self._parts.masked else {}
        ways |= {f"{_CONTROL}-{number}": rival.answers for number, rival in enumerate(self._rivals)}
        said = {name: way(self._model, prompts) for name, way in ways.items()}
        return [
            self._answer(len(prompt), {name: answers[row] for name, answers in said.items()})
            for row, prompt in enumerate(prompts)
        ]

    def _answer(self, prompt_tokens: int, said: Mapping[str, Generated | ScoreError]) -> Answer | ScoreError:
        found: dict[str, Generated] = {}
        for name, one in said.items():
            if isinstance(one, ScoreError):  # what cannot be told in one way cannot be compared with the others
                return one
            found[name] = one
        texts = {name: self._text(one.ids) for name, one in found.items()}
        contrasted = found[_CONTRAST]
        return ContrastedAnswer(
            text=texts[_CONTRAST],
            prompt_tokens=prompt_tokens,
            new_tokens=len(contrasted.ids),
            ended=contrasted.ended,
            mean_alpha=contrasted.figures["mean_alpha"],
            steps=int(contrasted.figures["steps"]),
            tokens_changed=int(contrasted.figures["tokens_changed"]),
            plain=texts.get(_PLAIN),
            controls=tuple(
                ControlAnswer(texts[name], int(one.figures["steps"]), int(one.figures["tokens_changed"]))
                for name, one in found.items()
                if name.startswith(_CONTROL)
            ),
            masked=texts.get(_MASKED),
        )


def load_contrast_answerer(
    model: str,
    parts: ContrastParts,
    revision: str | None = None,
    heads: str | HeadSet | Sequence[Head] | None = None,
    dtype: str = "auto",
    device: str = "auto",
    prompt: str = "auto",
    max_new_tokens: int = 64,
    batch_tokens: int = 16_384,
    on_mismatch: OnMismatch = "refuse",
) -> ContrastAnswerer:
    """An answerer with contrast from a folder, a hub id or a shipped model; ``heads`` and ``on_mismatch`` as of
    :func:`qrcore.load_scorer`, the others as of :func:`qrcore.generation.load_answerer`.

    Raises :class:`ConfigError` or a subclass for anything that cannot be used, :class:`ModelError` for a family whose
    heads cannot be masked.
    """
    source = open_model(model, revision)
    head_set = resolve_heads(heads, source.head_set, source.shape)
    warnings = check_origin(head_set, source, on_mismatch)
    loaded = load_language_model(source, dtype=dtype, device=device)
    retrieval = resolve_prompt(prompt, loaded.decoder.tokenizer, source.head_set.prompt if source.head_set else None)
    return ContrastAnswerer(loaded, retrieval, head_set, parts, max_new_tokens, batch_tokens, warnings)
