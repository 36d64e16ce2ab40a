"""Answers of a language model to contexts, greedily and in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qrcore.contracts.answerer import Answer, AnswererIdentity, Question
from qrcore.decode import decode_greedy
from qrcore.errors import ConfigError, ScoreError
from qrcore.models import (
    LanguageModel,
    load_language_model,
    open_model,
    out_of_memory_as_error,
    setup_sha256,
    weights_sha256,
)
from qrcore.prompts import PromptFormat, resolve_prompt
from qrcore.questions import QuestionEncoder, answer_text
from qrcore.tokens import PromptEncoder


class GreedyAnswerer:
    """Answers with one loaded model; see :class:`qrcore.contracts.answerer.Answerer`.

    ``batch_tokens``: of prompts and new tokens together, padding included, that are decoded at once; a longer question
    is alone.
    """

    def __init__(self, model: LanguageModel, retrieval: PromptFormat, max_new_tokens: int, batch_tokens: int) -> None:
        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens: expected at least 1, got {max_new_tokens}. Raise it.")
        self._model = model
        self._retrieval = retrieval
        self._max_new_tokens, self._batch_tokens = max_new_tokens, batch_tokens
        self._tokenizer = model.decoder.tokenizer
        self._encoder = PromptEncoder(self._tokenizer)
        longest = model.decoder.source.max_tokens
        self._questions = QuestionEncoder(self._tokenizer, retrieval, longest, max_new_tokens)

    @property
    def language_model(self) -> LanguageModel:
        """What generates."""
        return self._model

    @property
    def retrieval_prompt(self) -> PromptFormat:
        """What stands around documents and question."""
        return self._retrieval

    def with_limit(self, max_new_tokens: int) -> GreedyAnswerer:
        """The same model with another limit of new tokens."""
        return GreedyAnswerer(self._model, self._retrieval, max_new_tokens, self._batch_tokens)

    @property
    def identity(self) -> AnswererIdentity:
        """What this answerer is."""
        source = self._model.decoder.source
        return AnswererIdentity(
            revision=source.revision,
            weights_sha256=weights_sha256(source.path),
            setup_sha256=setup_sha256(source.path),
            prompt_sha256=self._retrieval.hash,
            dtype=str(self._model.model.dtype).removeprefix("torch."),
            device=str(self._model.model.device),
            max_tokens=source.max_tokens,
        )

    def answer_many(self, questions: Sequence[Question]) -> list[Answer | ScoreError]:
        """An answer, or why there is none, to each question in order.

        Questions of about equal length are decoded together: which ones is a function of the questions alone.
        """
        answers: dict[int, Answer | ScoreError] = {}
        prompts: dict[int, tuple[int, ...]] = {}
        for place, question in enumerate(questions):
            try:
                prompts[place] = self._encode(question)
            except ScoreError as error:
                answers[place] = error
        for batch in self._batches(prompts):
            answers.update(zip(batch, self._answer_together([prompts[place] for place in batch]), strict=True))
        return [answers[place] for place in range(len(questions))]

    def _encode(self, question: Question) -> tuple[int, ...]:
        return self._questions.encode(question)

    def _batches(self, prompts: dict[int, tuple[int, ...]]) -> Iterator[list[int]]:
        batch: list[int] = []
        # The longest of a batch comes first, and decides what the others are padded to.
        for place in sorted(prompts, key=lambda place: (-len(prompts[place]), place)):
            width = len(prompts[batch[0] if batch else place]) + self._max_new_tokens
            if batch and (len(batch) + 1) * width > self._batch_tokens:
                yield batch
                batch = []
            batch.append(place)
        if batch:
            yield batch

    def _answer_together(self, prompts: Sequence[tuple[int, ...]]) -> list[Answer | ScoreError]:
        """Answers to a batch; one that does not fit runs in halves, so that an error stays alone."""
        try:
            with out_of_memory_as_error():
                return self._decode(prompts)
        except ScoreError as error:
            error.__traceback__ = error.__cause__ = error.__context__ = None
            if len(prompts) == 1:
                return [error]
            middle = len(prompts) // 2
            return [*self._answer_together(prompts[:middle]), *self._answer_together(prompts[middle:])]

    def _decode(self, prompts: Sequence[tuple[int, ...]]) -> list[Answer | ScoreError]:
        decoded = decode_greedy(self._model.model, prompts, self._max_new_tokens, self._model.end_ids)
        return [
            Answer(self._text(one.ids), len(prompt), len(one.ids), one.ended)
            for prompt, one in zip(prompts, decoded, strict=True)
        ]

    def _text(self, ids: Sequence[int]) -> str:
        return answer_text(self._tokenizer, ids)


def load_answerer(
    model: str,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    prompt: str = "auto",
    max_new_tokens: int = 64,
    batch_tokens: int = 16_384,
) -> GreedyAnswerer:
    """An answerer from a folder, a hub id or a shipped model; ``prompt`` as of :func:`qrcore.load_scorer`.

    Raises :class:`ConfigError` or a subclass for anything that cannot be used.
    """
    source = open_model(model, revision)
    loaded = load_language_model(source, dtype=dtype, device=device)
    recorded = source.head_set.prompt if source.head_set else None
    return GreedyAnswerer(
        loaded, resolve_prompt(prompt, loaded.decoder.tokenizer, recorded), max_new_tokens, batch_tokens
    )
