"""Questions in tokens: what is put to a language model, without its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from transformers import PreTrainedTokenizerBase

from qrcore.contracts.answerer import Question
from qrcore.errors import ScoreError
from qrcore.models import load_tokenizer, open_model
from qrcore.prompts import PromptFormat, chat_format, resolve_prompt
from qrcore.tokens import PromptEncoder

#: Around a text that is the whole of a user's turn.
_BARE: Final = {"opening": "", "separator": "", "instruction": "", "query_label": ""}


class QuestionEncoder:
    """Encodes with one tokenizer and retrieval prompt; ``longest``: tokens of a prompt and its answer, of which
    ``max_new_tokens`` are the answer's."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, retrieval: PromptFormat, longest: int, max_new_tokens: int
    ) -> None:
        self.retrieval = retrieval
        self._turn = _turn_format(tokenizer, retrieval)
        self._encoder = PromptEncoder(tokenizer)
        self._longest, self._max_new_tokens = longest, max_new_tokens

    @property
    def some_token(self) -> int:
        """A token of the vocabulary, for a prompt that nobody reads."""
        return self._encoder.encode_text("a")[0]

    def encode(self, question: Question) -> tuple[int, ...]:
        """The prompt of a question. Raises :class:`ScoreError` for one that leaves no room to answer in."""
        if question.text is None:
            ids = self._encoder.encode(self.retrieval, question.query, question.documents).ids
        else:
            ids = self._encoder.encode(self._turn, question.text, ()).ids
        limit = self._longest - self._max_new_tokens
        if len(ids) > limit:
            raise ScoreError(
                "context_too_long",
                f"prompt: expected at most {limit} tokens, which leaves {self._max_new_tokens} to answer in, "
                f"got {len(ids)}. Select a smaller context, or take a model with a longer one.",
                stage="tokenise",
            )
        return ids


def load_question_encoder(model: str, revision: str | None, prompt: str, max_new_tokens: int) -> QuestionEncoder:
    """The encoder of a folder, a hub id or a shipped model; ``prompt`` as of :func:`qrcore.load_scorer`. Raises
    :class:`qrcore.errors.ConfigError` or a subclass."""
    source = open_model(model, revision)
    tokenizer = load_tokenizer(source)
    recorded = source.head_set.prompt if source.head_set else None
    return QuestionEncoder(tokenizer, resolve_prompt(prompt, tokenizer, recorded), source.max_tokens, max_new_tokens)


def answer_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of new tokens, without special ones and white space around it."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True)).strip()


def _turn_format(tokenizer: PreTrainedTokenizerBase, retrieval: PromptFormat) -> PromptFormat:
    """What stands around a user's turn: the chat template's own, or that of the retrieval prompt."""
    frame = chat_format(tokenizer) if tokenizer.chat_template else retrieval
    return PromptFormat(
        name=f"turn of {frame.name}",
        prefix=frame.prefix,
        suffix=frame.suffix,
        begins_with_bos=frame.begins_with_bos,
        **_BARE,
    )
